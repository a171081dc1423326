"""The scratch memory of the CUDA kernels, as their rehearsal counts it."""

import math

import torch

from ntensor.backends.native.cuda import library
from ntensor.backends.native.library import DTYPES, describe_sizes

_MATRIX = (1, 1, 1)
_NO_MATRIX = (0, 0, 0)


def scratch_bytes(
    operation: str,
    n: int,
    extents: tuple[int, ...],
    k_x: int,
    dtype: torch.dtype,
    device: torch.device,
) -> int:
    """What `ntensor.scratch_bytes` says of these kernels; arguments are checked, no size is 0."""
    number, factors, K = DTYPES[dtype], describe_sizes(extents), math.prod(extents)
    grads, width = [1] * len(extents), sum(extents)
    jobs: dict[str, tuple[object, ...]]
    if operation == "synthesis":
        jobs = {
            "synthesis": (number, n, factors, 0),
            "synthesis_grads": (number, n, factors, grads, width, _MATRIX),
        }
    elif operation == "rotation":
        jobs = {
            "rotation": (number, n, K, 0, _MATRIX, _MATRIX, 0),
            "rotation_matrix_grad": (number, n, K, 0, _MATRIX, _MATRIX, 0),
        }
    elif operation == "rotated_synthesis":
        jobs = {
            "rotated_synthesis": (number, n, factors, 0, _MATRIX, 0),
            "rotated_synthesis_grads": (
                *(number, n, factors, grads, width + 9, 0, _MATRIX, _MATRIX, 1, width + 9),
            ),
        }
    elif len(extents) == 1:
        return 0
    else:
        mean = operation.endswith("mean")
        both = (_MATRIX, _MATRIX if mean else _NO_MATRIX)
        jobs = {
            "projection": (number, n, factors, 0, k_x, 1, int(mean), (int(mean), 0, 0, 0)),
            "projection_factor_grads": (
                number,
                n,
                factors,
                grads,
                width,
                0,
                k_x,
                *both,
                (0, 0, 0, 0),
            ),
            "projection_core_grad": (
                number,
                n,
                factors,
                k_x,
                *both,
                0,
                False,
                (int(mean), 0, 0, 0),
            ),
        }
    context = library.call_context(torch.empty(0, device=device))
    return max(library.scratch_bytes(name, context, job) for name, job in jobs.items())
