"""Differential fuzz: random problems at the sizes that people use, against float64 einsum.

    python tests/fuzz.py --seconds 60 [--seed 7] [--levels avx2,portable] [--threads 1,2]
    python tests/fuzz.py --seconds 3600 --every-level      # each problem at each of them
    python tests/fuzz.py --case "Case('projection', 3, (2, 5), k_x=4)"

Every input, result and piece of scratch memory lies between guard pages and starts as NaN. A value
that is wrong ends the run with a minimal case, which then joins `FIXED` in `fuzz_fixed.py`; a crash
leaves the case in the file named by --last. An interrupt ends the run with what it has counted.
"""

import argparse
import functools
import math
import random
import signal
import time
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

import fuzz_operations
import layouts
import ntensor
from fuzz_cases import MOST_PRODUCTS, Case, draw, minimal, multiply_adds
from fuzz_fixed import FIXED
from guarded import Memory
from ntensor import _cpu
from ntensor.backends.native import call, force_simd_level
from ntensor.backends.native.plans import force_plan
from partials import sharing_at_any_size

# A value may differ from the exact one by this part of itself, and of the root of the sum of the
# squares of the terms that it adds up: some sixteen roundings of a half type, some five hundred of
# the type of sums in a chain of additions. More only where plain torch in the same dtype has at
# least half of the error (as in tolerances.py): where several modes' gradients are added, or
# partial products follow from each other, a half type is rounded more often. In float64 both sides
# round, in chains of up to 2^20 terms, and there is no rival: where they differ too much, what is
# expected is formed once more by sums in pairs, of at most `MOST_SUMMED` products.
PART = {"float64": 2.0**-42, "float32": 2.0**-15, "bfloat16": 2.0**-5, "float16": 2.0**-8}
MOST_SUMMED = 1 << 25
# Of the largest partial sum, in the accumulator's type: terms of one sign may cancel only at the
# end.
PARTIAL = {"float64": 2.0**-49, "float32": 2.0**-20, "bfloat16": 2.0**-20, "float16": 2.0**-20}
# The terms of an expanded operand are alike: in a chain of additions (512 at most, as in a BLAS)
# all of them may round the same way, by half of the last place that the sum so far has.
OF_LIKE_TERMS = 16
# Of a tensor that is not contiguous, each dimension up to four times as long in memory.
MOST_SPAN = 1 << 27
# float16 has no larger numbers; sums on the way to a smaller one may pass it. Where terms are
# alike, each of several sums that cancel may be as large as all of its terms together.
LARGEST = {"float16": 2.0**14}
# The orders in which the core's gradient goes into what exists.
ADDS = ("accumulate", "step")


class Wrong(AssertionError):
    """A result that is not what float64 says."""


def make(case):
    """The inputs, the cotangents, the tangents or second cotangents; and which need gradients."""
    generator = torch.Generator().manual_seed(case.seed)
    dtype = getattr(torch, case.dtype)
    inputs, outputs, dense = fuzz_operations.shapes(case)
    place = 0

    def tensor(shape, is_dense=False):
        nonlocal place
        layout = "contiguous" if is_dense else case.layouts[place % len(case.layouts)]
        if math.prod(shape) << 2 * len(shape) > MOST_SPAN:
            layout = "contiguous"  # gaps in every dimension would take memory many times over
        if case.order == "forward" and layout in layouts.OVERLAPPING:
            layout = "transposed"  # torch writes tangents into such memory, which it refuses
        place += 1
        made = layouts.make(layout, shape, dtype, generator)
        flat = _flat(made)
        flat.copy_(_of_fair_size(flat))
        return made

    given = [tensor(shape, i in dense) for i, shape in enumerate(inputs)]
    cotangents = [tensor(shape) for shape in outputs]
    if len(outputs) == 2:
        cotangents = [c if case.outputs >> i & 1 else None for i, c in enumerate(cotangents)]
    second = [tensor(shape) for shape in inputs]
    needs = [case.needs[i % len(case.needs)] for i in range(len(inputs))]
    return given, cotangents, second, needs if any(needs) else [True] * len(needs)


def _flat(tensor):
    span = 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return tensor.as_strided((span if tensor.numel() else 0,), (1,))


def _of_fair_size(tensor):
    """Sizes from 0.5 to 1: no product vanishes, no term outweighs the sum; NaN stays NaN."""
    return torch.where(tensor < 0, -1.0, 1.0) * (0.5 + tensor.double().abs().frac() / 2)


def evaluate(case, function, inputs, cotangents, second, needs):
    """What the case compares, as a flat list; None where there is nothing."""
    if case.order == "forward":
        results, tangents = torch.func.jvp(function, tuple(inputs), tuple(second))
        return [*results, *tangents]
    if case.order == "result":
        with torch.no_grad():
            return list(function(*inputs))
    wanted = [tensor.requires_grad_() for tensor, need in zip(inputs, needs, strict=True) if need]
    try:
        results = function(*inputs)
        gradients = _gradients(results, wanted, cotangents, case.order == "second")
        if case.order in ADDS:
            return [*results, gradients[0] + 1, *gradients[1:]]
        if case.order == "second":
            along = [each for each, need in zip(second, needs, strict=True) if need]
            return _gradients(gradients, wanted, along, False)
        return [*results, *gradients]
    finally:
        for tensor in wanted:
            tensor.requires_grad_(False)


def _gradients(results, wanted, cotangents, create_graph):
    """For each of `wanted`, None where nothing depends on it."""
    used = [
        (result, cotangent)
        for result, cotangent in zip(results, cotangents, strict=True)
        if cotangent is not None and result is not None and result.requires_grad
    ]
    if not used:
        return [None] * len(wanted)
    return torch.autograd.grad(
        [each for each, _ in used],
        wanted,
        [each for _, each in used],
        create_graph=create_graph,
        allow_unused=True,
    )


def accumulated(case, inputs, cotangents, needs):
    """Result and gradients where the core's gradient is added to one of ones, or where a step of
    gradient descent takes it, one more than what that takes away."""
    core = inputs[0].requires_grad_()
    before, optimizer = core.detach().clone(), None
    if case.order == "step":
        optimizer = ntensor.optim.SGD([core], lr=1.0)
    else:
        core.grad = torch.ones_like(core)
    wanted = [t.requires_grad_() for t, need in zip(inputs[1:], needs[1:], strict=True) if need]
    try:
        results = fuzz_operations.ours(case, accumulate=True)(*inputs)
        used = [place for place, each in enumerate(cotangents) if each is not None]
        torch.autograd.backward([results[i] for i in used], [cotangents[i] for i in used])
        if optimizer:
            optimizer.step()
            added = 1 + (before - core.detach())
        else:
            added = core.grad
        return [*results, added, *(each.grad for each in wanted)]
    finally:
        core.grad = None
        for tensor in (core, *wanted):
            tensor.grad = None
            tensor.requires_grad_(False)


class Expected(NamedTuple):
    """What `make` gives, what float64 says of it, and by how much a value may differ at first."""

    inputs: list
    cotangents: list
    second: list
    needs: list
    wanted: list
    allowed: list

    def converted(self, function):
        """Inputs, cotangents and second cotangents."""
        return [
            [None if each is None else function(each) for each in tensors]
            for tensors in (self.inputs, self.cotangents, self.second)
        ]


def expected(case):
    """`Expected` of the case, once for all ways to run it that follow one another."""
    plain = Case(case.operation, case.n, case.sizes)
    ways = ("backend", "level", "threads", "plan", "at_end")
    return _expected(replace(case, **{name: getattr(plain, name) for name in ways}))


@functools.lru_cache(maxsize=1)
def _expected(case):
    inputs, cotangents, second, needs = make(case)
    if case.order in ADDS:
        needs = [True, *needs[1:]]
    given = Expected(inputs, cotangents, second, needs, [], [])
    exact = given.converted(_exactly)
    squares = [[None if e is None else e.square() for e in tensors] for tensors in exact]
    wanted = _values(evaluate(case, fuzz_operations.exact(case), *exact, needs))
    # Everything here is a sum of products: of squares, the sum of the terms' squares.
    terms = _values(evaluate(case, fuzz_operations.exact(case, squared=True), *squares, needs))
    allowed = [_allowed(case.dtype, *each) for each in zip(wanted, terms, strict=True)]
    return given._replace(wanted=wanted, allowed=allowed)


def _allowed(dtype, wanted, term):
    """inf where a value may be too large for the dtype."""
    if wanted is None:
        return None
    size = wanted.abs() + term.abs().sqrt()
    allowed = PART[dtype] * size
    if dtype in LARGEST:
        allowed[size > LARGEST[dtype]] = math.inf
    return allowed


def _values(tensors):
    return [None if each is None else each.detach() for each in tensors]


def _exactly(tensor):
    return tensor.to(torch.float64).contiguous()


def check(case):
    """Raises `Wrong` where a value of the case is not what float64 says."""
    torch.set_num_threads(case.threads)
    if case.order in ADDS and case.operation not in ("projection", "with_mean"):
        case = replace(case, order="gradients")
    if case.operation in fuzz_operations.WITHOUT_GRADIENTS:
        case = replace(case, order="result")
    memory = Memory(case.at_end)
    try:
        _check(case, memory)
    finally:
        memory.close()


def _check(case, memory):
    given = expected(case)
    needs = given.needs
    inputs, cotangents, second = given.converted(memory.copy)
    level = force_simd_level(case.level) if case.level else nullcontext()
    plan = nullcontext() if case.plan is None else force_plan(case.plan)
    sharing = sharing_at_any_size() if case.seed % 2 else nullcontext()
    call._kept_scratch()  # what a thread keeps must not lie in memory that is given back
    with memory.for_empty(), level, plan, sharing:
        if case.order in ADDS:
            found = accumulated(case, inputs, cotangents, needs)
        else:
            found = evaluate(case, fuzz_operations.ours(case), inputs, cotangents, second, needs)
    wanted = given.wanted
    assert len(found) == len(wanted), (len(found), len(wanted))

    def rival(place):
        tensors = given.converted(lambda tensor: tensor)
        plain = evaluate(case, fuzz_operations.exact(case), *tensors, needs)[place]
        return (plain.detach().double() - wanted[place]).abs().max()

    def precise(place):
        """`wanted` without its own long chains of additions, where all products find room."""
        if multiply_adds(case) > MOST_SUMMED:
            return wanted[place]
        exactly = fuzz_operations.exact(case, sum_products=fuzz_operations.einsum_by_sums)
        return evaluate(case, exactly, *given.converted(_exactly), needs)[place]

    def magnitude(place):
        """The sum of the magnitudes of all terms, which partial sums may reach."""
        magnitudes = given.converted(lambda tensor: _exactly(tensor).abs())
        return evaluate(case, fuzz_operations.exact(case), *magnitudes, needs)[place].detach()

    for place, each in enumerate(zip(found, wanted, given.allowed, strict=True)):
        compare(case, place, *each, precise, rival, magnitude)


def compare(case, place, found, wanted, allowed, precise, rival, magnitude):
    if wanted is None:
        if found is not None and found.abs().max() > 0:
            raise Wrong(f"{case}\n  value {place}: a gradient of nothing")
        return
    if found is None:
        found = torch.zeros_like(wanted)
    if found.shape != wanted.shape:
        raise Wrong(f"{case}\n  value {place}: shape {tuple(found.shape)}")
    error = found.detach().to(torch.float64, copy=True).sub_(wanted).abs_()
    if case.dtype in LARGEST:
        error.nan_to_num_(math.inf)
        error[allowed == math.inf] = 0
    right = error <= allowed
    alike = not set(layouts.OVERLAPPING).isdisjoint(case.layouts)
    if not right.all() and alike and case.dtype in LARGEST:
        right |= magnitude(place) > LARGEST[case.dtype]
    if not right.all() and found.isfinite().all():
        part = PARTIAL[case.dtype] * (OF_LIKE_TERMS if alike else 1)
        allowed = allowed + part * magnitude(place)
        if case.dtype == "float64":
            error = (found.detach() - precise(place)).abs()
        right = error <= allowed.clamp(min=2 * rival(place).item())
    if not right.all():
        worst = (error / allowed).nan_to_num(math.inf).argmax()
        raise Wrong(
            f"{case}\n  value {place}, {int((~right).sum())} of {right.numel()} elements: got "
            f"{found.flatten()[worst]:.6g}, wanted {wanted.flatten()[worst]:.6g}, "
            f"allowed {allowed.flatten()[worst]:.1e}"
        )


def is_wrong(case):
    try:
        check(case)
    except Wrong:
        return True
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--levels", default="")
    parser.add_argument("--every-level", action="store_true", help="of those, for each problem")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--products", type=float, default=MOST_PRODUCTS, help="n k_x K at most")
    parser.add_argument("--case", default=None)
    parser.add_argument("--fixed", action="store_true", help="the cases of fuzz_fixed.py alone")
    parser.add_argument("--last", default=None, help="file that holds the case at hand")
    chosen = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # the first is ignored in the background
        signal.signal(number, signal.default_int_handler)
    call.KEPT_SCRATCH_BYTES = 0  # all scratch is fresh, and so guarded
    torch.use_deterministic_algorithms(True)
    if chosen.case:
        check(eval(chosen.case, {"Case": Case}))
        return
    levels = chosen.levels.split(",") if chosen.levels else _cpu.simd_levels()
    threads = [int(each) for each in chosen.threads.split(",")]
    if chosen.fixed:
        cases = fixed_cases(levels, threads, chosen.products)
    else:
        seed = random.SystemRandom().randrange(1 << 30) if chosen.seed is None else chosen.seed
        print(f"fuzz: seed {seed}, levels {', '.join(levels)}", flush=True)
        source = random.Random(seed)
        cases = drawn_cases(source, levels, threads, chosen.seconds, chosen.products)
        if chosen.every_level:
            cases = at_every_level(cases, levels)
    done = run(cases, chosen.last)
    counts = ", ".join(f"{level or 'default'} {count}" for level, count in sorted(done.items()))
    print(f"fuzz: {done.total()} cases, none wrong, {time.process_time():.0f} s of processor time")
    print(f"fuzz: of these {counts}")


def fixed_cases(levels, threads, products):
    for case in FIXED:
        for level in levels if multiply_adds(case) <= products else ():
            for count in threads:
                yield replace(case, level=level, threads=count)


def drawn_cases(source, levels, threads, seconds, products):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield draw(source, levels, threads, products)


def at_every_level(cases, levels):
    """Each case at every level, by as many threads: what is expected is computed once."""
    for case in cases:
        for level in levels:
            yield replace(case, level=level)


def run(cases, last):
    """The number of cases at each level until the last, or an interrupt; the first wrong one ends
    the process, made small."""
    done = Counter()
    with suppress(KeyboardInterrupt):
        for case in cases:
            if last:
                Path(last).write_text(f"{case!r}\n")
            try:
                check(case)
            except Wrong as wrong:
                print(wrong, flush=True)
                print(f"minimal after {done.total()} right cases: {minimal(case, is_wrong)!r}")
                raise SystemExit(1) from None
            done[case.level] += 1
    return done


if __name__ == "__main__":
    main()
