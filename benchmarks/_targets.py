"""What the library sets out to reach, and how far it gets: one line a target, from the rows."""

from __future__ import annotations

from dataclasses import dataclass

from _runner import Row

MEAN_WAYS = ("two matmuls", "one concatenated matmul", "matmul + mean core")


@dataclass(frozen=True)
class Target:
    """A bound on the library's own row.

    `versus` names the methods that it is compared with (the fastest counts), or is ("limit",) or
    ("torch",) for the best of that kind. `kind`: "times" faster (at least `bound`), "error"
    relative to theirs (at most), "microseconds" (at most, versus nothing). `gradient` and
    `versus_gradient` choose the rows by what is done with the core's gradient ("": any).
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


def _times(shape, sizes, pass_, versus, bounds, dtype="float32", **gradients) -> list[Target]:
    return [
        Target("synthesis_projection", shape, n, dtype, pass_, "times", bound, versus, **gradients)
        for n, bound in zip(sizes, bounds, strict=True)
    ]


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


@dataclass(frozen=True)
class Outcome:
    """A target with what was measured."""

    target: Target
    title: str
    measured: float

    @property
    def reached(self) -> bool | None:
        """None where the target only reports."""
        if self.target.bound is None:
            return None
        if self.target.kind == "times":
            return self.measured >= self.target.bound
        return self.measured <= self.target.bound


def outcomes(rows: list[Row]) -> list[Outcome]:
    """All targets whose rows were measured and are right."""
    found = []
    for target in TARGETS:
        of_case = [row for row in rows if row.right and _is_case(row, target)]
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
        else:
            rival = min(rivals, key=lambda row: row.median)
            times = target.kind == "times"
            measured = rival.median / best.median if times else best.error / rival.error
        found.append(Outcome(target, best.case.title, measured))
    return found


def _is_case(row: Row, target: Target) -> bool:
    case = row.case
    wanted = (target.operation, target.shape, target.n, target.dtype, target.pass_, target.layout)
    return (case.operation, case.shape.name, case.n, case.dtype, case.pass_, case.layout) == wanted


def _is_rival(row: Row, target: Target) -> bool:
    method = row.method
    named = method.name in target.versus or (method.kind,) == target.versus
    return named and method.kind != "ours" and target.versus_gradient in ("", method.gradient)
