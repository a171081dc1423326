"""The compiled core: `ntensor._cpu` serves CPUs, `ntensor._cuda` CUDA GPUs.

The device of the operands decides between them (`call.py`).
"""

import torch

from ntensor.backends.native import projection, rotation, synthesis
from ntensor.backends.native.gpu import why_not as cuda_why_not
from ntensor.backends.native.library import (
    cpu_module,
    force_simd_level,
    roofline,
    simd_level,
)

__all__ = [
    "force_simd_level",
    "projection",
    "roofline",
    "rotation",
    "simd_level",
    "synthesis",
    "why_not",
]


def why_not(operation: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot serve `operation` so, in words; None where it can."""
    if device.type == "cuda":
        return cuda_why_not(device)
    if device.type != "cpu":
        return f"it serves CPUs and CUDA GPUs, not {device.type!r}"
    try:
        cpu_module()
    except ImportError as error:
        return f"the compiled module ntensor._cpu cannot be loaded: {error}"
    return None
