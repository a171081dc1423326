"""The backends and dtypes that every test body runs on.

A compiled core that is missing is a failure, never a skip: a forced backend raises."""

import pytest
import torch

from tolerances import DTYPES

BACKENDS = ("native", "reference", "triton")


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


each_backend = pytest.mark.parametrize("backend", BACKENDS)

# Triton's interpreter takes minutes for these, all together hours: for .ci/exhaustive.
minutes_in_the_interpreter = (
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.timeout(3600),
)
each_backend_often = pytest.mark.parametrize(
    "backend",
    [*BACKENDS[:2], pytest.param("triton", marks=minutes_in_the_interpreter)],
)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=name_of)

# Every kernel of the compiled core. The reference calculates all but float64 in float32, so one
# half type stands for both; in Triton's interpreter bfloat16 is cut off where a GPU rounds it.
KERNELS = [
    *(("native", dtype) for dtype in DTYPES),
    *(("reference", dtype) for dtype in (torch.float32, torch.bfloat16)),
    *(("triton", dtype) for dtype in (torch.float32, torch.float16)),
]
# Of Triton's two dtypes each problem goes through one, in turn: `mark_the_other_dtype`.
in_turn = {"triton": (pytest.mark.in_turn,)}
each_kernel = pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        pytest.param(
            backend, dtype, id=f"{backend}-{name_of(dtype)}", marks=in_turn.get(backend, ())
        )
        for backend, dtype in KERNELS
    ],
)


def mark_the_other_dtype(items):
    """Marks as slow, of two calls of a test in Triton's interpreter that differ in the dtype of
    `KERNELS` alone, one: that with the second dtype, then that with the first, in turn."""
    pairs = {}  # by the function of the test, then by what is left without the dtype
    for item in items:
        if item.get_closest_marker("in_turn") and not item.get_closest_marker("slow"):
            rest = item.nodeid.replace(name_of(item.callspec.params["dtype"]), "")
            pairs.setdefault(item.function, {}).setdefault(rest, []).append(item)
    for calls in pairs.values():
        for place, pair in enumerate(pair for pair in calls.values() if len(pair) == 2):
            pair[1 - place % 2].add_marker(pytest.mark.slow)


def each_kernel_on(shapes, large=(), long=(), once=()):
    """Every kernel on each shape. In Triton's interpreter those in `large` take many seconds, those
    in `long` minutes; those in `once` take seconds, and one dtype goes through their branches."""

    def marks(backend, dtype, shape):
        if backend != "triton":
            return ()
        if shape in long:
            return minutes_in_the_interpreter
        is_slow = shape in large or (shape in once and dtype is not torch.float32)
        return pytest.mark.slow if is_slow else in_turn[backend]

    return pytest.mark.parametrize(
        ("backend", "dtype", "shape"),
        [
            pytest.param(
                backend,
                dtype,
                shape,
                id=f"{shape}-{backend}-{name_of(dtype)}",
                marks=marks(backend, dtype, shape),
            )
            for backend, dtype in KERNELS
            for shape in shapes
        ],
    )
