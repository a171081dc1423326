"""The backends and dtypes that every test body runs on.

A compiled core that is missing is a failure, never a skip: a forced backend raises."""

import pytest
import torch

from tolerances import DTYPES

BACKENDS = ("native", "reference", "triton")


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


each_backend = pytest.mark.parametrize("backend", BACKENDS)

# For tests of many calls: Triton's interpreter takes minutes for them.
slow_in_the_interpreter = (pytest.mark.slow, pytest.mark.timeout(3600))
each_backend_often = pytest.mark.parametrize(
    "backend",
    [*BACKENDS[:2], pytest.param("triton", marks=slow_in_the_interpreter)],
)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=name_of)

# Every kernel of the compiled core. The reference calculates all but float64 in float32, so one
# half type stands for both.
each_kernel = pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        *(pytest.param("native", dtype, id=f"native-{name_of(dtype)}") for dtype in DTYPES),
        *(
            pytest.param("reference", dtype, id=f"reference-{name_of(dtype)}")
            for dtype in (torch.float32, torch.bfloat16)
        ),
        pytest.param("triton", torch.float32, id="triton-float32"),
        pytest.param("triton", torch.float16, id="triton-float16", marks=slow_in_the_interpreter),
    ],
)
