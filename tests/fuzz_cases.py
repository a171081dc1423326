"""Random problems of the sizes that people use, as data: what a case is, how it is drawn, shrunk,
and the list of those that were wrong once.

Extents are log-uniform from 1 to 700 with 1 often, 1 to 6 factors, n from 1 to 1500, k_x from 1 to
600, until a budget of multiply-adds and of memory is met, which is drawn as well.
"""

import math
from dataclasses import dataclass, replace

DTYPES = ("float32", "float64", "bfloat16", "float16")
LAYOUTS = (
    *("contiguous",) * 6,
    *("transposed", "sliced", "stepped", "offset"),
    *("expanded_rows", "expanded_columns", "expanded", "overlapping"),
)
OPERATIONS = (
    *("projection",) * 6,
    *("with_mean",) * 4,
    *("mttkrp",) * 3,
    "mttkrp_all",
    "sweep",
    *("bilinear",) * 2,
    *("synthesis",) * 2,
    "rotation",
    *("rotated",) * 2,
    "contract",
    *("einsum",) * 2,
    "reconstruction",
    *("grouped",) * 2,
)
# What is compared: the result; the gradients too; theirs; the derivative in forward mode; the
# core's gradient added to one that exists, or taken by an optimizer's step.
ORDERS = (*("result",) * 3, *("gradients",) * 4, "second", "forward", "accumulate", "step")

MOST_ELEMENTS = 1 << 22  # of the core, and of the synthesis of the batch; twice that now and then
MOST_PRODUCTS = 1 << 29  # n k_x K
MOST_GROUPS = 5


@dataclass(frozen=True)
class Case:
    """One call. The last factor varies fastest; for an MTTKRP `sizes` is the tensor's shape and `n`
    the rank; for a rotation `sizes` are `(k_exp, k_id)`, or `(K,)` for a feature alone.

    Attributes:
        layouts: of the inputs and then the cotangents, in turn, from the first again at the end.
        needs: which inputs need gradients, in the same way.
        outputs: which of two outputs takes part: 1, 2 or 3 for both.
        option: the mode of an MTTKRP or a contraction; weights, a bias or the row layout if odd;
            the number of groups.
        backend: None: as it is chosen, by the shortest way where that is open.
        plan: the candidate that every plan of the native backend takes; None: the cheapest.
    """

    operation: str
    n: int
    sizes: tuple[int, ...]
    k_x: int = 1
    dtype: str = "float32"
    order: str = "result"
    layouts: tuple[str, ...] = ("contiguous",)
    needs: tuple[bool, ...] = (True,)
    outputs: int = 3
    option: int = 0
    backend: str | None = "native"
    level: str = ""
    threads: int = 1
    plan: int | None = None
    at_end: bool = True
    seed: int = 0


def extent(random, most):
    return 1 if random.random() < 0.15 else round(math.exp(random.uniform(0, math.log(most))))


def multiply_adds(case):
    return case.n * case.k_x * math.prod(case.sizes)


def fits(case, products, elements):
    K = math.prod(case.sizes)
    return (
        max(case.k_x, case.n) * K <= elements
        and case.n * case.k_x <= elements
        and multiply_adds(case) <= products
    )


def draw(random, levels, threads, products=MOST_PRODUCTS):
    """A case out of `random` (random.Random), at one of the SIMD levels and thread counts."""
    operation = random.choice(OPERATIONS)
    least, most = {
        "bilinear": (2, 2),
        "rotation": (1, 1),
        "rotated": (2, 2),
        "synthesis": (1, 6),
        "mttkrp": (1, 5),
        "mttkrp_all": (2, 5),
        "sweep": (2, 5),
        "reconstruction": (1, 5),
    }.get(operation, (1, 6))
    sizes = [extent(random, 700) for _ in range(random.randint(least, most))]
    has_core = operation in ("projection", "with_mean", "bilinear", "contract", "einsum", "grouped")
    case = Case(
        operation=operation,
        n=extent(random, 1500),
        sizes=tuple(sizes),
        k_x=extent(random, 600) if has_core else 1,
        dtype=random.choice(DTYPES),
        order=random.choice(ORDERS),
        layouts=tuple(random.choice(LAYOUTS) for _ in range(random.randint(1, 6))),
        needs=tuple(random.random() < 0.7 for _ in range(random.randint(1, 5))),
        outputs=random.randint(1, 3),
        option=random.randrange(1000),
        backend=random.choice(("native",) * 10 + (None,) * 9 + ("reference",)),
        level=random.choice(levels),
        threads=random.choice(threads),
        plan=random.randrange(12) if random.random() < 0.5 else None,
        at_end=random.random() < 0.75,
        seed=random.randrange(1 << 30),
    )
    budget = math.exp(random.uniform(math.log(1 << 16), math.log(products)))
    elements = MOST_ELEMENTS * (2 if random.random() < 0.1 else 1)
    if operation == "grouped":
        budget, elements = budget / MOST_GROUPS, elements / MOST_GROUPS
    while not fits(case, budget, elements):
        case = _smaller(case, random.choice(("n", "k_x", *range(len(sizes)))))
    if operation in ("rotation", "rotated") and math.prod(case.sizes) % 3:
        case = replace(case, sizes=(*case.sizes[:-1], 3 * case.sizes[-1]))
    return case


def _smaller(case, what):
    if isinstance(what, int):
        sizes = list(case.sizes)
        sizes[what] = max(1, sizes[what] * 2 // 3)
        return replace(case, sizes=tuple(sizes))
    return replace(case, **{what: max(1, getattr(case, what) * 2 // 3)})


def shrunk(case):
    """Cases that are simpler by one step, the largest steps first."""
    plain = Case(case.operation, case.n, case.sizes)
    if case.operation not in ("bilinear", "rotation", "rotated"):
        for place in range(len(case.sizes)):
            if len(case.sizes) > (1 if case.operation in ("projection", "synthesis") else 2):
                yield replace(case, sizes=case.sizes[:place] + case.sizes[place + 1 :])
    names = ("order", "layouts", "needs", "dtype", "threads", "plan", "at_end", "outputs")
    for name in (*names, "backend"):
        if getattr(case, name) != getattr(plain, name):
            yield replace(case, **{name: getattr(plain, name)})
    step = 3 if case.operation in ("rotation", "rotated") else 1
    for divisor in (8, 2, 1):
        for name in ("n", "k_x"):
            value = getattr(case, name)
            less = value // divisor if divisor > 1 else value - 1
            if 0 < less < value:
                yield replace(case, **{name: less})
        for place, value in enumerate(case.sizes):
            less = (value // divisor if divisor > 1 else value - step) // step * step
            if 0 < less < value:
                sizes = (*case.sizes[:place], less, *case.sizes[place + 1 :])
                yield replace(case, sizes=sizes)


def minimal(case, fails):
    """The simplest case that still fails, by `fails(case)`."""
    while True:
        for simpler in shrunk(case):
            if fails(simpler):
                case = simpler
                break
        else:
            return case
