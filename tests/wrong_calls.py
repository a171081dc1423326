"""Every wrong call of a public function, and the words that its message must hold."""

from collections.abc import Callable
from typing import NamedTuple

import torch

F32, F64 = torch.float32, torch.float64


def t(*shape, dtype=F32, device="cpu"):
    return torch.ones(shape, dtype=dtype, device=device)


class Wrong(NamedTuple):
    """A call that must raise, and words that its message must hold."""

    name: str
    operation: str
    error: type[Exception] | tuple[type[Exception], ...]
    call: Callable
    words: tuple[str, ...]


PROJECTIONS = ("synthesis_projection", "synthesis_projection_with_mean")


WRONG = [
    Wrong("no factors", "synthesis", (TypeError, ValueError), lambda f: f(), ("factor", "one")),
    Wrong(
        "no tensor",
        "synthesis",
        TypeError,
        lambda f: f(t(2, 3), [1.0]),
        ("factors[1]", "Tensor", "list"),
    ),
    Wrong(
        "vector", "synthesis", ValueError, lambda f: f(t(2, 3), t(3)), ("factors[1]", "2", "(3,)")
    ),
    Wrong(
        "other n",
        "synthesis",
        ValueError,
        lambda f: f(t(2, 3), t(4, 3)),
        ("factors[1]", "n", "2", "4"),
    ),
    Wrong(
        "integers",
        "synthesis",
        TypeError,
        lambda f: f(t(2, 3, dtype=torch.int64)),
        ("factors[0]", "float32", "int64"),
    ),
    Wrong(
        "complex",
        "synthesis",
        TypeError,
        lambda f: f(t(2, 3, dtype=torch.complex64)),
        ("factors[0]", "float32", "complex64"),
    ),
    Wrong(
        "float8",
        "synthesis",
        TypeError,
        lambda f: f(t(2, 3).to(torch.float8_e5m2)),
        ("factors[0]", "float8"),
    ),
    Wrong(
        "two dtypes",
        "synthesis",
        TypeError,
        lambda f: f(t(2, 3), t(2, 3, dtype=F64)),
        ("factors[1]", "float32", "float64"),
    ),
    Wrong(
        "two devices",
        "synthesis",
        (TypeError, ValueError),
        lambda f: f(t(2, 3), t(2, 3, device="meta")),
        ("factors[1]", "cpu", "meta"),
    ),
    Wrong(
        "too many factors",
        "synthesis",
        ValueError,
        lambda f: f(*[t(1, 1)] * 64),
        ("at most 63 factors", "64"),
    ),
    Wrong(
        "too many factors",
        "mttkrp",
        ValueError,
        lambda f: f(t(*[1] * 65), [t(1, 2)] * 65, 1),
        ("at most 63 factors", "64"),
    ),
    *(
        wrong
        for p in PROJECTIONS
        for wrong in (
            Wrong("no factors", p, (TypeError, ValueError), lambda f: f(t(4)), ("factor", "one")),
            Wrong(
                "too many factors",
                p,
                ValueError,
                lambda f: f(t(*[1] * 65), *[t(1, 1)] * 64),
                ("at most 63 factors", "64"),
            ),
            Wrong(
                "core no tensor",
                p,
                TypeError,
                lambda f: f(None, t(2, 3)),
                ("core", "Tensor", "None"),
            ),
            Wrong(
                "factor no tensor",
                p,
                TypeError,
                lambda f: f(t(4, 3), "z"),
                ("factors[0]", "Tensor", "str"),
            ),
            Wrong(
                "core rank",
                p,
                ValueError,
                lambda f: f(t(4, 3), t(2, 3), t(2, 5)),
                ("core", "3", "(4, 3)"),
            ),
            Wrong(
                "core extent",
                p,
                ValueError,
                lambda f: f(t(4, 3, 6), t(2, 3), t(2, 5)),
                ("core", "(k_x, 3, 5)", "(4, 3, 6)"),
            ),
            Wrong(
                "factor rank",
                p,
                ValueError,
                lambda f: f(t(4, 3), t(2, 2, 3)),
                ("factors[0]", "2", "(2, 2, 3)"),
            ),
            Wrong(
                "other n",
                p,
                ValueError,
                lambda f: f(t(4, 3, 5), t(2, 3), t(6, 5)),
                ("factors[1]", "n", "2", "(6, 5)"),
            ),
            Wrong(
                "strided core",
                p,
                ValueError,
                lambda f: f(t(3, 4).T, t(2, 3)),
                ("core", "contiguous", "strides", "(1, 4)"),
            ),
            Wrong(
                "two dtypes",
                p,
                TypeError,
                lambda f: f(t(4, 3), t(2, 3, dtype=F64)),
                ("factors[0]", "float32", "float64"),
            ),
            Wrong(
                "integer core",
                p,
                TypeError,
                lambda f: f(t(4, 3, dtype=torch.int32), t(2, 3)),
                ("core", "float32", "int32"),
            ),
            Wrong(
                "two devices",
                p,
                (TypeError, ValueError),
                lambda f: f(t(4, 3), t(2, 3, device="meta")),
                ("factors[0]", "cpu", "meta"),
            ),
        )
    ),
    Wrong(
        "three does not divide K",
        "rotation",
        ValueError,
        lambda f: f(t(2, 7), t(2, 3, 3)),
        ("3", "7"),
    ),
    Wrong("y rank", "rotation", ValueError, lambda f: f(t(6), t(1, 3, 3)), ("y", "2", "(6,)")),
    Wrong(
        "one R for all",
        "rotation",
        ValueError,
        lambda f: f(t(2, 6), t(3, 3)),
        ("R", "(2, 3, 3)", "(3, 3)"),
    ),
    Wrong(
        "other n",
        "rotation",
        ValueError,
        lambda f: f(t(2, 6), t(5, 3, 3)),
        ("R", "(2, 3, 3)", "(5, 3, 3)"),
    ),
    Wrong(
        "layout",
        "rotation",
        ValueError,
        lambda f: f(t(2, 6), t(2, 3, 3), layout="rows"),
        ("layout", "column", "row", "rows"),
    ),
    Wrong("no tensor", "rotation", TypeError, lambda f: f(t(2, 6), 1.0), ("R", "Tensor", "float")),
    Wrong(
        "two dtypes",
        "rotation",
        TypeError,
        lambda f: f(t(2, 6), t(2, 3, 3, dtype=F64)),
        ("R", "float32", "float64"),
    ),
    Wrong(
        "three does not divide K",
        "rotated_synthesis",
        ValueError,
        lambda f: f(t(2, 2), t(2, 5), t(2, 3, 3)),
        ("3", "10"),
    ),
    Wrong(
        "other n",
        "rotated_synthesis",
        ValueError,
        lambda f: f(t(2, 3), t(4, 5), t(2, 3, 3)),
        ("z_id", "2", "(4, 5)"),
    ),
    Wrong(
        "R extent",
        "rotated_synthesis",
        ValueError,
        lambda f: f(t(2, 3), t(2, 5), t(2, 4, 4)),
        ("R", "(2, 3, 3)", "(2, 4, 4)"),
    ),
    Wrong(
        "layout",
        "rotated_synthesis",
        ValueError,
        lambda f: f(t(2, 3), t(2, 5), t(2, 3, 3), layout=None),
        ("layout", "column", "row", "None"),
    ),
    Wrong(
        "two dtypes",
        "rotated_synthesis",
        TypeError,
        lambda f: f(t(2, 3), t(2, 5, dtype=F64), t(2, 3, 3)),
        ("z_id", "float32", "float64"),
    ),
    Wrong(
        "mode too large",
        "mttkrp",
        ValueError,
        lambda f: f(t(2, 3), [t(2, 4), t(3, 4)], 2),
        ("mode", "2"),
    ),
    Wrong(
        "mode too small",
        "mttkrp",
        ValueError,
        lambda f: f(t(2, 3), [t(2, 4), t(3, 4)], -3),
        ("mode", "-3"),
    ),
    Wrong(
        "mode no integer",
        "mttkrp",
        TypeError,
        lambda f: f(t(2, 3), [t(2, 4), t(3, 4)], 0.5),
        ("mode", "int", "float"),
    ),
    Wrong(
        "too few factors",
        "mttkrp",
        ValueError,
        lambda f: f(t(2, 3, 4), [t(2, 5), t(3, 5)], 0),
        ("factors", "3", "2"),
    ),
    Wrong(
        "factor is None",
        "mttkrp",
        TypeError,
        lambda f: f(t(2, 3, 4), [None, None, t(4, 5)], 0),
        ("factors[1]", "Tensor", "None"),
    ),
    Wrong(
        "other extent",
        "mttkrp",
        ValueError,
        lambda f: f(t(2, 3, 4), [None, t(4, 5), t(4, 5)], 0),
        ("factors[1]", "3", "(4, 5)"),
    ),
    Wrong(
        "other rank",
        "mttkrp",
        ValueError,
        lambda f: f(t(2, 3, 4), [None, t(3, 5), t(4, 6)], 0),
        ("factors[2]", "5", "(4, 6)"),
    ),
    Wrong(
        "weights",
        "mttkrp",
        ValueError,
        lambda f: f(t(2, 3), [None, t(3, 5)], 0, weights=t(4)),
        ("weights", "(5,)", "(4,)"),
    ),
    Wrong(
        "no mode", "mttkrp", ValueError, lambda f: f(t(), [], 0), ("tensor", "1 dimension", "()")
    ),
    Wrong(
        "no tensor",
        "mttkrp",
        TypeError,
        lambda f: f([[1.0]], [None, t(1, 1)], 0),
        ("tensor", "Tensor", "list"),
    ),
    Wrong(
        "two dtypes",
        "mttkrp",
        TypeError,
        lambda f: f(t(2, 3), [None, t(3, 5, dtype=F64)], 0),
        ("factors[1]", "float32", "float64"),
    ),
    Wrong(
        "weight rank",
        "bilinear",
        ValueError,
        lambda f: f(t(2, 3), t(2, 4), t(3, 4)),
        ("weight", "3", "(3, 4)"),
    ),
    Wrong(
        "x1 extent",
        "bilinear",
        ValueError,
        lambda f: f(t(2, 5), t(2, 4), t(6, 3, 4)),
        ("input1", "3", "(2, 5)"),
    ),
    Wrong(
        "x2 extent",
        "bilinear",
        ValueError,
        lambda f: f(t(2, 3), t(2, 5), t(6, 3, 4)),
        ("input2", "4", "(2, 5)"),
    ),
    Wrong(
        "leading dimensions",
        "bilinear",
        ValueError,
        lambda f: f(t(2, 7, 3), t(7, 2, 4), t(6, 3, 4)),
        ("input2", "(7, 2, 4)"),
    ),
    Wrong(
        "bias extent",
        "bilinear",
        ValueError,
        lambda f: f(t(2, 3), t(2, 4), t(6, 3, 4), t(5)),
        ("bias", "6", "(5,)"),
    ),
    Wrong(
        "no tensor",
        "bilinear",
        TypeError,
        lambda f: f(None, t(2, 4), t(6, 3, 4)),
        ("input1", "Tensor", "None"),
    ),
    Wrong(
        "two dtypes",
        "bilinear",
        TypeError,
        lambda f: f(t(2, 3), t(2, 4, dtype=F64), t(6, 3, 4)),
        ("input2", "float32", "float64"),
    ),
    Wrong(
        "bias dtype",
        "bilinear",
        TypeError,
        lambda f: f(t(2, 3), t(2, 4), t(6, 3, 4), t(6, dtype=F64)),
        ("bias", "float32", "float64"),
    ),
]
