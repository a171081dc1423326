"""Random calls of the raw operations for tests of kernels, and their results in float64.

Everything is drawn from a seed: sizes, types, layouts, outputs and gradients that take part.
"""

import dataclasses
import functools
import itertools
import math
import random

import torch

from layouts import DENSE, LAYOUTS, make
from tolerances import DTYPES, assert_within_rule

OPS = torch.ops.ntensor
LETTERS = "abcdef"

OPERATIONS = (
    "synthesis_projection",
    "synthesis_projection_with_mean",
    "projection_factor_grads",
    "projection_core_grad",
    "projection_core_grad_",
    "synthesis",
    "synthesis_grads",
    "rotation",
    "rotation_matrix_grad",
    "rotated_synthesis",
    "rotated_synthesis_grads",
)
# With several cores: the operation for one of them.
GROUPED = {
    "grouped_projection": "synthesis_projection",
    "grouped_projection_factor_grads": "projection_factor_grads",
    "grouped_projection_core_grad": "projection_core_grad",
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One call. `given`: which of grad and grad_mean; `layouts`: of the core or the feature, of the
    incoming gradients, of the factors; `n` and `k_x` are those of each of the `groups`."""

    operation: str
    n: int
    k_x: int
    sizes: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    layouts: tuple[str, str, str] = ("contiguous", "contiguous", "contiguous")
    given: tuple[bool, bool] = (True, True)
    needs: tuple[bool, ...] = (True,) * 6
    rotation: str = "column"
    seed: int = 0
    groups: int = 1

    @property
    def K(self):
        return math.prod(self.sizes)

    @property
    def needed(self):
        """Of the factors, then of R where there is one; at least one of them."""
        count = len(self.sizes) + self.operation.startswith("rotated")
        needs = self.needs[:count]
        return needs if any(needs) else (True,) * count


def extent(rng, most):
    """From 1 to `most`, small ones as often as large ones, and 1 often."""
    return 1 if rng.random() < 0.25 else int(math.exp(rng.uniform(0, math.log(most + 0.999))))


def draw(rng, operation, dtype, most):
    """A problem of at most about `most` multiplications."""
    if operation.startswith("rot"):
        sizes = [extent(rng, 40), rng.choice((extent(rng, 40), 24))]
        if math.prod(sizes) % 3:
            sizes[rng.randrange(2)] *= 3
    else:
        sizes = [extent(rng, 40) for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 5, 6)))]
        if rng.random() < 0.2:
            sizes[-1] = rng.randint(900, 1300)
        while math.prod(sizes) > 3000:
            sizes[rng.randrange(len(sizes))] = extent(rng, 8)
    n = rng.choice((extent(rng, 80), 1, 16, 64, 65))
    k_x = rng.choice((extent(rng, 300), 1, 128))
    grouped = operation in GROUPED
    groups = rng.choice((1, 2, 3, extent(rng, 40))) if grouped else 1
    while groups * n * k_x * math.prod(sizes) > most and max(n, k_x) > 1:
        n, k_x = (n // 2, k_x) if n > k_x else (n, k_x // 2)
    return Problem(
        operation,
        n,
        k_x,
        tuple(sizes),
        dtype,
        (
            rng.choice(DENSE if "projection" in operation else (*DENSE, *LAYOUTS)),
            rng.choice(("contiguous", *LAYOUTS)),
            rng.choice(("contiguous", *LAYOUTS)),
        ),
        (True, False) if grouped else rng.choice(((True, True), (True, False), (False, True))),
        tuple(rng.random() < 0.6 for _ in range(6)),
        rng.choice(("column", "row")),
        rng.randrange(2**31),
        groups,
    )


def problems(seed, rounds, most, dtypes=DTYPES, operations=OPERATIONS):
    rng = random.Random(seed)
    for _, operation, dtype in itertools.product(range(rounds), operations, dtypes):
        yield draw(rng, operation, dtype, most)


def arguments(problem):
    """What the call reads, by name."""
    p, generator = problem, torch.Generator().manual_seed(problem.seed)
    new = functools.partial(make, dtype=p.dtype, generator=generator)
    rows = p.groups * p.n
    found = {"z": [new(p.layouts[2], (rows, k)) for k in p.sizes]}
    if "projection" in p.operation:
        found["core"] = new(p.layouts[0], (p.groups * p.k_x, *p.sizes))
        for name, given in zip(("grad", "grad_mean"), p.given, strict=True):
            found[name] = new(p.layouts[1], (rows, p.k_x)) if given else None
    else:
        found["y"] = new(p.layouts[0], (p.n, p.K))
        found["grad"] = new(p.layouts[1], (p.n, p.K))
        found["R"] = new(p.layouts[2], (p.n, 3, 3))
    return found


def call(problem, given, backend):
    """The results of the operation, gradients of factors apart from each other."""
    p, z = problem, given["z"]
    operation, needs = getattr(OPS, p.operation), list(p.needed)
    grads = given.get("grad"), given.get("grad_mean")
    match p.operation:
        case "synthesis":
            results = [operation(z, backend)]
        case "synthesis_projection":
            results = [operation(given["core"], z, backend)]
        case "synthesis_projection_with_mean":
            results = list(operation(given["core"], z, backend))
        case "synthesis_grads":
            results = [operation(grads[0], z, needs, backend)]
        case "projection_factor_grads":
            results = [operation(given["core"], *grads, z, needs, backend)]
        case "projection_core_grad":
            results = [operation(*grads, z, backend)]
        case "projection_core_grad_":
            results = [given["core"].clone()]
            operation(results[0], *grads, z, backend)
        case "grouped_projection":
            results = [operation(given["core"], z, p.groups, backend)]
        case "grouped_projection_factor_grads":
            results = [operation(given["core"], grads[0], z, p.groups, needs, backend)]
        case "grouped_projection_core_grad":
            results = [operation(grads[0], z, p.groups, backend)]
        case "rotation":
            results = [operation(given["y"], given["R"], p.rotation, backend)]
        case "rotation_matrix_grad":
            results = [operation(grads[0], given["y"], p.rotation, backend)]
        case "rotated_synthesis":
            results = [operation(*z, given["R"], p.rotation, backend)]
        case "rotated_synthesis_grads":
            results = [operation(grads[0], *z, given["R"], p.rotation, needs, backend)]
    if p.operation.endswith(("factor_grads", "synthesis_grads")):
        widths = [k for k, need in zip((*p.sizes, 9), p.needed, strict=False) if need]
        results = results[0].split(widths, 1)
    return results


def definition(problem, given):
    """The same by torch.einsum, in the type of what is given."""
    p, z = problem, given["z"]
    if p.operation in GROUPED:
        one = dataclasses.replace(p, operation=GROUPED[p.operation], groups=1)
        parts = [definition(one, of_group(given, p.groups, place)) for place in range(p.groups)]
        return [torch.cat(each) for each in zip(*parts, strict=True)]
    letters = LETTERS[: len(z)]
    factors = [f"n{letter}" for letter in letters]

    def contract(result, *operands):
        names, tensors = operands[::2], operands[1::2]
        return torch.einsum(f"{','.join(names)}->{result}", *tensors)

    def form(result, others, *more):
        rows = [item for pair in zip(factors, others, strict=True) for item in pair]
        keep = [item for i, item in enumerate(rows) if rows[i // 2 * 2] != result]
        return contract(result, *more, *keep)

    mean = [torch.full_like(z[0], 1 / z[0].shape[1]), *z[1:]]
    y = form(f"n{letters}", z).flatten(1) if len(z) > 1 else z[0]
    needed = [name for name, need in zip(factors, p.needed, strict=False) if need]
    if "rot" in p.operation:
        return rotated(p, given, contract, y, needed)
    if p.operation == "synthesis":
        return [y]
    if p.operation == "synthesis_grads":
        grad = given["grad"].reshape(p.n, *p.sizes)
        return [form(name, z, f"n{letters}", grad) for name in needed]
    core = f"o{letters}", given["core"]
    if p.operation.startswith("synthesis_projection"):
        outputs = [form("no", z, *core), form("no", mean, *core)]
        return outputs[: 1 + p.operation.endswith("mean")]
    incoming = [(given["grad"], z), (given["grad_mean"], mean)]
    incoming = [(grad, others) for grad, others in incoming if grad is not None]
    if p.operation == "projection_factor_grads":
        parts = {
            name: [
                form(name, others, *core, "no", grad)
                for grad, others in incoming
                if others is z or name != factors[0]
            ]
            for name in needed
        }
        return [sum(parts[name], torch.zeros_like(z[factors.index(name)])) for name in needed]
    total = sum(form(core[0], others, "no", grad) for grad, others in incoming)
    return [total + given["core"] if p.operation.endswith("_") else total]


def rotated(p, given, contract, y, needed):
    """`definition` of the operations with R; a matrix of 3 rows is `nja` or `naj`."""
    R, matrix = given["R"], "nja" if p.rotation == "column" else "naj"
    other = matrix.replace("a", "b")
    shape = (p.n, p.K // 3, 3) if p.rotation == "column" else (p.n, 3, p.K // 3)
    feature = (given["y"] if p.operation.startswith("rotation") else y).reshape(shape)
    if p.operation in ("rotation", "rotated_synthesis"):
        return [contract(matrix, "nab", R, other, feature).flatten(1)]
    grad = given["grad"].reshape(shape)
    dR = contract("nab", matrix, grad, other, feature)
    if p.operation == "rotation_matrix_grad":
        return [dR]
    unrotated = contract(other, "nab", R, matrix, grad).reshape(p.n, *p.sizes)
    results = [
        contract(name, "nab", unrotated, *others)
        for name, others in (("na", ("nb", given["z"][1])), ("nb", ("na", given["z"][0])))
        if name in needed
    ]
    return [*results, dR.flatten(1)] if p.needed[2] else results


def of_group(given, groups, place):
    """What a group of the problem is given."""
    return convert(given, lambda tensor: tensor.tensor_split(groups)[place])


def convert(given, function):
    def one(value):
        if isinstance(value, list):
            return [one(each) for each in value]
        return None if value is None else function(value)

    return {name: one(value) for name, value in given.items()}


def check(problem, given, backend):
    """Calls the operation and compares it with its definition by the rule of the tolerances."""
    results = call(problem, given, backend)
    rows = [
        definition(problem, convert(given, function))
        for function in (torch.clone, torch.Tensor.double, lambda t: t.double().square())
    ]
    for place, (result, rival, exact, squares) in enumerate(zip(results, *rows, strict=True)):
        name = f"result {place} of {problem}"
        assert_within_rule(
            name, result, rival.reshape(result.shape), exact.reshape(result.shape), squares.sqrt()
        )
