"""What the library sets out to reach, and how far it gets: one line a target, from the rows."""

from __future__ import annotations

from dataclasses import dataclass

from harness.cases import ITEM_BYTES
from harness.roof import compulsory_bytes
from harness.runner import Result, Row

MEAN_WAYS = ("two matmuls", "one concatenated matmul", "matmul + mean core")


@dataclass(frozen=True)
class Target:
    """A bound on the library's own row.

    `versus` names the methods that it is compared with (the fastest counts), or is ("limit",) or
    ("torch",) for the best of that kind. `kind`: "times" faster (at least `bound`), "error"
    relative to theirs (at most), and versus nothing "microseconds" (at most), "copy" and "write",
    the compulsory bytes a second over that measured bandwidth (at least), and "products", the peak
    memory beside inputs and results in arrays of size `(n, K)` (at most). `gradient` and
    `versus_gradient` choose the rows by what is done with the core's gradient ("": any). `gpu`: it
    is a target for one H200, else for a CPU.
    """

    operation: str
    shape: str
    n: int
    dtype: str
    pass_: str
    kind: str
    bound: float | None
    versus: tuple[str, ...] = ()
    gradient: str = ""
    versus_gradient: str = ""
    layout: str = ""
    gpu: bool = False


def _times(shape, sizes, pass_, versus, bounds, dtype="float32", **gradients) -> list[Target]:
    return [
        Target("synthesis_projection", shape, n, dtype, pass_, "times", bound, versus, **gradients)
        for n, bound in zip(sizes, bounds, strict=True)
    ]


def _on_gpu(shape, n, dtype, pass_, kind, bound, versus=(), **rest) -> Target:
    operation = rest.pop("operation", "synthesis_projection")
    return Target(operation, shape, n, dtype, pass_, kind, bound, versus, **rest, gpu=True)


LIMIT, BROADCAST, BILINEAR = ("limit",), ("broadcast + matmul",), ("F.bilinear",)
REUSED = {"gradient": "adds"}
BOTH_REUSED = {"gradient": "adds", "versus_gradient": "adds"}
BOTH_FRESH = {"gradient": "fresh", "versus_gradient": "fresh"}

TARGETS = [
    *_times("paper3", (1, 16, 64, 256), "forward", LIMIT, (1.15, 3, 1.55, 1.15)),
    *_times("paper3", (16, 64, 256), "both", LIMIT, (2.2, 1.25, 1), **REUSED),
    *_times("paper3", (16, 64, 256), "both", BROADCAST, (4, 1.65, 1.1), **BOTH_REUSED),
    *_times("paper3", (16, 64, 256), "both", BROADCAST, (None,) * 3, **BOTH_FRESH),
    *_times("paper3", (16, 64, 256), "mean", MEAN_WAYS, (3.5, 2, 1.25)),
    *_times("paper2", (16, 64), "forward", LIMIT, (2.5, 1.5)),
    *_times("paper2", (16,), "forward", BILINEAR, (45,)),
    *_times("paper2", (16,), "both", BILINEAR, (60,), **REUSED),
    *_times("small64", (4096,), "forward", BROADCAST, (2.5,)),
    *_times("paper3", (16, 64), "forward", LIMIT, (1.2, 0.95), dtype="bfloat16"),
    *(
        Target(
            "synthesis_projection",
            "paper3",
            n,
            "bfloat16",
            pass_,
            "error",
            0.7,
            BROADCAST,
            gradient,
        )
        for n in (16, 64)
        for pass_, gradient in (("forward", ""), ("both", "fresh"))
    ),
    *(
        Target(
            "rotated_synthesis",
            "paper",
            4096,
            "float32",
            "both",
            "times",
            bound,
            ("torch",),
            layout=layout,
        )
        for layout, bound in (("row", 1.3), ("column", 3))
    ),
    Target("synthesis_projection", "tiny", 4, "float32", "forward", "microseconds", 25),
    Target("synthesis_projection", "tiny", 4, "float32", "both", "microseconds", 70),
]


COMPILED = ("torch.compile(two matmuls)", "torch.compile(two matmuls), max-autotune")

GPU_TARGETS = [
    *(
        _on_gpu("paper3", n, dtype, pass_, "copy", bound)
        for dtype, n, bound in (
            ("bfloat16", 16, 0.85),
            ("bfloat16", 64, 0.85),
            ("float32", 16, 0.85),
            ("float32", 64, 0.6),
        )
        for pass_ in ("forward", "factor-grads")
    ),
    *(_on_gpu("paper3", n, "bfloat16", "forward", "times", 0.95, LIMIT) for n in (1024, 4096)),
    *(
        _on_gpu("paper3", n, "bfloat16", "mean", "times", bound, MEAN_WAYS)
        for n, bound in ((64, 1.2), (1024, 1.1), (4096, 1.05))
    ),
    *(
        _on_gpu("paper3", n, "bfloat16", "mean-both", "times", bound, versus, **BOTH_FRESH)
        for n, compiled in ((64, 2.5), (1024, 1.4))
        for versus, bound in ((COMPILED, compiled), (("torch",), 1))
    ),
    *(
        _on_gpu("paper3", 64, dtype, "core-grad", "write", 0.85, gradient="fresh")
        for dtype in ("bfloat16", "float32")
    ),
    *(
        _on_gpu("paper", n, dtype, "forward", "copy", 0.85, operation=operation, layout=layout)
        for n in (65536, 262144)
        for dtype in ("bfloat16", "float32")
        for operation, layout in (
            ("synthesis", ""),
            ("rotated_synthesis", "row"),
            ("rotated_synthesis", "column"),
        )
    ),
    *(
        _on_gpu("paper", n, dtype, "both", "times", 2.5, BROADCAST, operation="synthesis")
        for n in (65536, 262144)
        for dtype in ("bfloat16", "float32")
    ),
    *(
        _on_gpu("paper2", 64, dtype, "forward", "times", 20, BILINEAR)
        for dtype in ("bfloat16", "float32")
    ),
    *(
        _on_gpu("paper3", 4096, dtype, pass_, "products", 1)
        for dtype in ("bfloat16", "float32")
        for pass_ in ("forward", "both")
    ),
]


@dataclass(frozen=True)
class Outcome:
    """A target with what was measured."""

    target: Target
    title: str
    measured: float
    method: str

    @property
    def reached(self) -> bool | None:
        """None where the target only reports."""
        if self.target.bound is None:
            return None
        if self.target.kind in ("times", "copy", "write"):
            return self.measured >= self.target.bound
        return self.measured <= self.target.bound


def outcomes(result: Result) -> list[Outcome]:
    """All targets of the result's device whose rows were measured and are right."""
    found = []
    for target in GPU_TARGETS if result.on_gpu else TARGETS:
        of_case = [row for row in result.rows if row.right and _is_case(row, target)]
        ours = [
            row
            for row in of_case
            if row.method.kind == "ours" and target.gradient in ("", row.method.gradient)
        ]
        rivals = [row for row in of_case if _is_rival(row, target)]
        if not ours or (target.versus and not rivals):
            continue
        best = min(ours, key=lambda row: row.median)
        if target.kind == "microseconds":
            measured = best.median * 1e6
        elif target.kind in ("copy", "write"):
            bytes_ = compulsory_bytes(best.case, best.method.gradient)
            measured = bytes_ / best.median / result.roof.rates[target.kind]
        elif target.kind == "products":
            measured = min(_products(row) for row in ours)
        else:
            rival = min(rivals, key=lambda row: row.median)
            times = target.kind == "times"
            measured = rival.median / best.median if times else best.error / rival.error
        found.append(Outcome(target, best.case.title, measured, best.method.name))
    return found


def _products(row: Row) -> float:
    """Peak memory beside inputs and results, in arrays of size `(n, K)`.

    Results are the outputs, the gradients of the factors and a fresh gradient of the core.
    """
    case, size = row.case, ITEM_BYTES[row.case.dtype]
    shape = case.shape
    results = case.n * shape.out_features * len(case.output_names)
    results += case.factor_grads * case.n * sum(shape.factor_sizes)
    results += (row.method.gradient == "fresh") * shape.out_features * shape.features
    return max(0.0, row.extra_bytes - size * results) / (size * case.n * shape.features)


def _is_case(row: Row, target: Target) -> bool:
    case = row.case
    wanted = (target.operation, target.shape, target.n, target.dtype, target.pass_, target.layout)
    return (case.operation, case.shape.name, case.n, case.dtype, case.pass_, case.layout) == wanted


def _is_rival(row: Row, target: Target) -> bool:
    method = row.method
    named = method.name in target.versus or (method.kind,) == target.versus
    return named and method.kind != "ours" and target.versus_gradient in ("", method.gradient)
