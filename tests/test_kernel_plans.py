"""Every branch of the plans of the GPU kernels, on random problems: CUDA by the host shim, Triton
by its interpreter. A branch that no problem takes is a failure."""

import functools
import itertools
import math

import pytest
import torch

import cuda_shim
from kernel_problems import GROUPED, Problem, arguments, check, problems
from ntensor.backends.triton import launch, projection, rotation, synthesis
from tolerances import DTYPES

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))]
HALF, SINGLE, DOUBLE = torch.float16, torch.float32, torch.float64


def either(*pairs):
    """Both sides of each pair of names."""
    return set(itertools.chain(*pairs))


PACKS = ("core in packs", "core by elements")
GRADS = ("gradients in packs", "gradients by elements")
PARTS = ("one part", "several parts")
LEADS = ("one leading factor", "several leading factors")
ROWS = ("whole rows", "ragged rows")
COLUMNS = ("whole columns", "ragged columns")
CHAINS = ("one chain", "several chains")
WRITES = ("written in packs", "written by elements")
OUTPUTS = {"x alone", "mean alone", "both outputs"}

# What the launchers of csrc/cuda and their kernels decide by sizes and addresses. Instances of the
# kernels (types, narrow and wide tiles, the mean) are read from the module.
CUDA_BRANCHES = {
    "synthesis_projection": either(PACKS, PARTS, LEADS, ROWS, COLUMNS, CHAINS),
    "projection_factor_grads": either(PACKS, GRADS, PARTS, LEADS, ROWS, COLUMNS, CHAINS)
    | OUTPUTS
    | {"no leading gradient", "leading gradient", "mean's leading gradient"},
    "projection_core_grad": either(PACKS, GRADS, LEADS, ROWS, COLUMNS, CHAINS) | OUTPUTS,
    "synthesis": either(WRITES) | {"alone", "pair", "chain"},
    "synthesis_grads": {"alone", "pair", "last of a chain alone", "all of a chain"},
    "rotation": either(WRITES),
    "rotated_synthesis": either(WRITES),
    "rotated_synthesis_grads": {"factors alone", "matrix alone", "factors and matrix"},
}  # fmt: skip

# What random draws meet too seldom.
CUDA_PROBLEMS = [
    *(Problem("synthesis_projection", 2, 3, (1, 1100), dtype) for dtype in (HALF, SINGLE)),
    *(
        Problem("projection_factor_grads", n, 1030, (2, 3), dtype)
        for n, dtype in ((2, HALF), (17, torch.bfloat16), (3, SINGLE), (33, SINGLE))
    ),
    *(
        Problem("projection_core_grad", 1030, 2, (1, 2), dtype)
        for dtype in (HALF, torch.bfloat16, SINGLE)
    ),
    *(
        Problem(f"synthesis_projection{mean}", 20, 9, (3, 5), dtype)
        for mean in ("", "_with_mean")
        for dtype in DTYPES
    ),
    *(Problem("projection_factor_grads", 3, 16, (2, 128), dtype) for dtype in DTYPES),
    *(
        Problem(operation, 3, 1, sizes, dtype)
        for operation in ("rotation", "rotated_synthesis")
        for sizes in ((2, 24), (3, 5))
        for dtype in DTYPES
    ),
    Problem("synthesis_grads", 3, 1, (2, 3, 4), needs=(False, False, True)),
    Problem("projection_factor_grads", 3, 5, (1, 2, 3)),
    Problem("projection_factor_grads", 3, 5, (2, 3), needs=(False, True)),
    Problem("rotated_synthesis_grads", 3, 1, (3, 4), needs=(False, False, True)),
    Problem("projection_core_grad", 1, 128, (2, 128), HALF),
    Problem("projection_core_grad", 1, 128, (2, 128), DOUBLE),
]


def side(pair, second):
    return pair[int(bool(second))]


def written_in_packs(columns, dtype):
    return side(WRITES, columns * dtype.itemsize % 16)


def leading(sizes):
    """How many factors form the leading half of a CUDA projection."""
    ones = len(list(itertools.takewhile(lambda k: k == 1, sizes)))
    last = len(sizes) - 1
    return max(1, min(ones + 1 if ones < last else last, last))


def in_packs(tensor, row):
    """Rows of a matrix `row` elements apart can be copied in packs of 16 bytes."""
    return tensor.data_ptr() % 16 == 0 and row * tensor.itemsize % 16 == 0


def cuda_branches(problem, given, multiprocessors):
    p = problem
    if p.operation == "synthesis":
        yield written_in_packs(p.K, p.dtype)
        yield ("alone", "pair", "chain")[min(len(p.sizes), 3) - 1]
    elif p.operation == "synthesis_grads":
        if len(p.sizes) < 3:
            yield ("alone", "pair")[len(p.sizes) - 1]
        else:
            yield "all of a chain" if any(p.needed[:-1]) else "last of a chain alone"
    elif p.operation in ("rotation", "rotated_synthesis"):
        yield written_in_packs(p.K // 3, p.dtype)
    elif p.operation == "rotated_synthesis_grads":
        factors, matrix = any(p.needed[:2]), p.needed[2]
        yield (
            "factors and matrix"
            if factors and matrix
            else ("matrix alone" if matrix else "factors alone")
        )
    elif "projection" in p.operation and len(p.sizes) > 1:  # one factor: torch's product
        yield from projection_branches(p, given, multiprocessors)


def parts_of(tiles, steps, places, step_bytes, part_bytes):
    """The number of parts, of those that fill one to four waves, with which all is read soonest."""

    def cost(parts):
        waves = math.ceil(tiles * parts / places)
        blocks = waves * (math.ceil(steps / parts) * step_bytes + 24 * 1024)
        more = 2 * parts * part_bytes // places + 32 * 1024
        return blocks + (more if parts > 1 else 0)

    best = 1
    for waves in range(1, 5):
        parts = min(steps // 8, waves * places // tiles)
        best = parts if parts > best and cost(parts) < cost(best) else best
    return best


def projection_branches(p, given, multiprocessors):
    L, J = (math.prod(half) for half in (p.sizes[: leading(p.sizes)], p.sizes[leading(p.sizes) :]))
    depth, widest = 64 // p.dtype.itemsize, 32 if p.dtype is DOUBLE else 64
    rows = p.n * sum(p.given) if "factor_grads" in p.operation else p.n
    width = 16 if rows <= 16 and "core_grad" not in p.operation else widest
    summed = {"synthesis": J, "projection_factor": p.k_x, "projection_core": p.n}
    summed = next(count for name, count in summed.items() if p.operation.startswith(name))
    yield side(LEADS, leading(p.sizes) > 1)
    yield side(PACKS, not in_packs(given["core"], J))
    down, across = (J, rows) if "factor_grads" in p.operation else (p.k_x, rows)
    across = J if "core_grad" in p.operation else across
    yield side(ROWS, down % 128)
    yield side(COLUMNS, across % width)
    if "core_grad" not in p.operation:
        tiles = math.ceil(down / 128) * math.ceil(across / width)
        steps, step_bytes = math.ceil(summed / depth), 128 * 64
        outputs = 2 if p.operation.endswith("mean") else 1
        if "factor" in p.operation:
            step_bytes *= L
        else:
            steps *= L
        part_bytes = down * across * outputs * (8 if p.dtype is DOUBLE else 4)
        parts = parts_of(tiles, steps, 2 * multiprocessors, step_bytes, part_bytes)
        yield side(PARTS, parts > 1)
        summed = math.ceil(summed / parts) if "factor" in p.operation else summed
    yield side(CHAINS, p.dtype is not DOUBLE and summed > 1024)
    if not p.operation.startswith("synthesis"):
        yield {(1, 1): "both outputs", (1, 0): "x alone", (0, 1): "mean alone"}[p.given]
        grads = [g for g in (given["grad"], given["grad_mean"]) if g is not None]
        yield side(GRADS, not all(g.stride(1) == 1 and in_packs(g, g.stride(0)) for g in grads))
    if p.operation == "projection_factor_grads":
        needed = p.needed[: leading(p.sizes)]
        yield "leading gradient" if any(needed) else "no leading gradient"
        if any(needed[1:]) and p.given[1]:
            yield "mean's leading gradient"


def kind(operation):
    """Operations with one launcher."""
    return operation.removesuffix("_with_mean").removesuffix("_")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
def test_cuda(seed):
    seen = {operation: set() for operation in CUDA_BRANCHES}
    before = cuda_shim.launched()
    with cuda_shim.native_on_the_shim() as device:
        drawn = [*problems(seed, 6, 2e5), *problems(seed, 2, 2e5, operations=GROUPED)]
        for place, problem in enumerate([*CUDA_PROBLEMS, *drawn]):
            device.multiprocessors = (4, 0, 64)[place % 3]
            device.tf32 = False
            given = arguments(problem)
            check(problem, given, "native")
            if kind(problem.operation) in seen:
                branches = cuda_branches(problem, given, device.multiprocessors)
                seen[kind(problem.operation)].update(branches)
    for operation, branches in CUDA_BRANCHES.items():
        assert seen[operation] == branches, operation
    ran = {name for name, count in cuda_shim.launched().items() if count > before.get(name, 0)}
    left = {name for name in cuda_shim.kernels() - ran if "FloatILb0" not in name}  # TF32
    assert not left


# Triton: what each launch of a kernel decides, as its constants and its grid tell. WIDE is for more
# than 2^31 elements.
def flags(kernel, *names):
    """Both values of each name."""
    for values in itertools.product((False, True), repeat=len(names)):
        yield kernel, frozenset(zip(names, values, strict=True))


def some(kernel, names, *others):
    """As `flags`, with at least one of `names`."""
    for key in flags(kernel, *names, *others):
        if any((name, True) in key[1] for name in names):
            yield key


TRITON_LAUNCHES = {
    *flags("hoisted", "MEAN", "split"),
    *flags("formed", "MEAN", "split"),
    *some("factor_grads", ("OUTER", "INNER"), "MEAN"),
    *flags("core_grad", "MEAN", "ACCUMULATE", "RESIDENT"),
    ("product", frozenset()),
    *some("product_grads", ("LEFT", "RIGHT")),
    *flags("rotate", "COLUMN"),
    ("matrix_grad", frozenset()),
    *flags("rotate_product", "COLUMN"),
    *some("rotate_product_grads", ("LEFT", "RIGHT", "MATRIX"), "COLUMN"),
}
TRITON_LAUNCHES |= {
    (f"{kernel}, axis {axis} of its grid", frozenset({("split", split)}))
    for kernel, axis in (
        ("factor_grads", 1),
        ("factor_grads", 2),
        ("core_grad", 1),
        ("product_grads", 1),
        ("rotate_product_grads", 1),
    )
    for split in (False, True)
}
# Of groups, which have no mean output.
TRITON_LAUNCHES |= {
    *flags("grouped hoisted", "split"),
    *flags("grouped formed", "split"),
    *some("grouped factor_grads", ("OUTER", "INNER")),
    *flags("grouped core_grad", "RESIDENT"),
    *flags("grouped factor_grads, axis 1 of its grid", "split"),
    *flags("grouped factor_grads, axis 2 of its grid", "split"),
    *flags("grouped core_grad, axis 1 of its grid", "split"),
}
BOTH, ALONE, MEAN = (True, True), (True, False), (False, True)
TRITON_PROBLEMS = [
    *(
        Problem(f"synthesis_projection{mean}", n, 3, (2, 1000), HALF)
        for mean in ("", "_with_mean")
        for n in (1, 64)
    ),
    *(
        Problem("projection_factor_grads", n, k_x, (2, 5), given=given, needs=needs)
        for n, k_x, given in ((1, 600, BOTH), (3, 600, MEAN), (3, 3, ALONE))
        for needs in (BOTH, ALONE, MEAN)
    ),
    *(
        Problem(f"projection_core_grad{added}", n, 3, (2, 5), HALF, given=given)
        for added in ("", "_")
        for n in (3, 70)
        for given in (BOTH, ALONE)
    ),
    *(
        Problem("rotated_synthesis_grads", 3, 1, (3, 4), needs=needs, rotation=layout)
        for needs in itertools.product((False, True), repeat=3)
        for layout in ("column", "row")
        if any(needs)
    ),
    Problem("rotated_synthesis_grads", 3, 1, (30, 24)),
    *(Problem("synthesis_grads", 3, 1, (3, 4), needs=needs) for needs in (BOTH, ALONE, MEAN)),
]

of_groups = functools.partial(Problem, given=ALONE)
GROUPED_PROBLEMS = [
    *(of_groups("grouped_projection", n, 3, (2, 1000), HALF, groups=2) for n in (1, 64)),
    *(of_groups("grouped_projection", n, 3, (20, 30), HALF, groups=2) for n in (1, 65)),
    *(
        of_groups("grouped_projection_factor_grads", 1, k_x, (2, 5), needs=needs, groups=2)
        for k_x in (3, 600)
        for needs in (BOTH, ALONE, MEAN)
    ),
    *(
        of_groups("grouped_projection_core_grad", n, 3, sizes, groups=2)
        for n in (3, 70)
        for sizes in ((2, 5), (1, 5))
    ),
    *(
        of_groups(operation, *rest, groups=groups, layouts=("offset", layout, layout))
        for operation in GROUPED
        for groups, layout, *rest in (
            (1, "sliced", 5, 3, (2, 3)),
            (2, "transposed", 65, 1, (3, 1), torch.bfloat16),
            (3, "stepped", 2, 3, (7,), torch.bfloat16),
            (30, "expanded_rows", 1, 2, (4, 3)),
        )
    ),
]


def launched_as(kernel, grid, constants):
    """The keys of `TRITON_LAUNCHES` for a launch."""
    name = kernel.fn.__name__
    found = {(key, value) for key, value in constants.items() if isinstance(value, bool)}
    found -= {("WIDE", False), ("GROUPED", False)}
    if ("GROUPED", True) in found:
        name = f"grouped {name}"
        found -= {("GROUPED", True), ("MEAN", False), ("ACCUMULATE", False)}
    if name.endswith(("hoisted", "formed")):
        found.add(("split", grid[1] > 1))
    yield name, frozenset(found)
    if name.endswith(("grads", "core_grad")):
        for axis in range(1, len(grid)):
            yield f"{name}, axis {axis} of its grid", frozenset({("split", grid[axis] > 1)})


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
def test_triton(seed, monkeypatch):
    seen, run = set(), launch.launch

    def noting(made, *arguments):
        seen.update(launched_as(*made))
        run(made, *arguments)

    for module in (projection, rotation, synthesis):
        monkeypatch.setattr(module, "launch", noting)
    fixed = [*TRITON_PROBLEMS, *GROUPED_PROBLEMS]
    rounds, grouped = (3, 2) if seed else (1, 1)  # seed 0 runs at every change
    drawn = [*problems(seed, rounds, 1e5), *problems(seed, grouped, 1e5, operations=GROUPED)]
    for problem in fixed + drawn:
        check(problem, arguments(problem), "triton")
    assert seen == TRITON_LAUNCHES
