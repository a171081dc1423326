"""Triton kernels: they serve CUDA GPUs, and CPU tensors in Triton's interpreter.

The interpreter (`TRITON_INTERPRET=1`, set before the first use) is for tests. It counts only where
there is no CUDA device, and never enters the automatic choice.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil

import torch

MINIMUM_CAPABILITY = (8, 0)


def why_not(operation: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot serve `operation` so, in words; None where it can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (pip install triton)"
    if device.type == "cuda":
        return _why_not_cuda(device)
    if device.type != "cpu":
        return f"it serves CUDA GPUs, not {device.type!r}"
    if torch.cuda.is_available():
        return "it serves CUDA tensors, not CPU tensors"
    if os.environ.get("TRITON_INTERPRET") != "1":
        return (
            "there is no CUDA device, and CPU tensors need Triton's interpreter "
            "(TRITON_INTERPRET=1, for tests)"
        )
    return None


def _why_not_cuda(device: torch.device) -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if torch.version.hip is not None:
        return "it serves NVIDIA GPUs, not ROCm"
    capability = torch.cuda.get_device_capability(device)
    if capability < MINIMUM_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        return f"{name} has capability sm_{capability[0]}{capability[1]}, it needs sm_80 or later"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 keeps kernels from the GPU; unset it"
    return _why_no_launcher()


@functools.cache
def _why_no_launcher() -> str | None:
    """Triton compiles a small C program at run time to launch a kernel."""
    if os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"):
        return None
    return "Triton needs a C compiler at run time, and neither CC nor gcc nor clang is there"
