"""How much memory a call takes beside its inputs and outputs."""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch

from ntensor import backends

from . import checks

_PROJECTIONS = ("synthesis_projection", "synthesis_projection_with_mean")
_OPERATIONS = ("synthesis", *_PROJECTIONS, "rotation", "rotated_synthesis")


def scratch_bytes(
    operation: str,
    n: int,
    factor_sizes: tuple[int, ...],
    out_features: int | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    device: torch.device | str = "cpu",
    backend: str | None = None,
) -> int:
    """Bytes of scratch memory that a call takes, beside its inputs and outputs.

    The forward pass and each part of the backward pass take and return their scratch one after the
    other; the largest of them is returned. No array of n K elements is part of it. On a CPU a
    thread's share is at most 96 K elements of the accumulator type for every slab of samples,
    unless the extents of the factors add up to more than 5000; a mean output may take up to 2 MiB
    more, for the mean of the core over its leading extent or for samples of its own, and gradients
    of factors up to 9 MiB, for copies of a core that is no larger. On a GPU it holds the synthesis
    of all factors but the leading ones, its gradient, and the parts of sums that are split.

    Args:
        operation: "synthesis", "synthesis_projection", "synthesis_projection_with_mean",
            "rotation" or "rotated_synthesis".
        n: samples.
        factor_sizes: `(k_1, ..., k_M)`; for "rotation" `(K,)`.
        out_features: `k_x`, for the projections.
        dtype: of the operands.
        device: of the operands, a CPU or a CUDA GPU of this machine.
        backend: "native" or "triton"; None: the one that would serve.

    Raises:
        TypeError: for another dtype, and for sizes that are no int.
        ValueError: for another operation or backend, where `out_features` is missing, for sizes
            that the operation does not have: negative ones, no factor or more than 63, `K` not
            divisible by 3 in a rotation, tensors of 2^48 elements or more.
        RuntimeError: where the backend cannot serve on the device, with its reason.

    Example:
        >>> import ntensor
        >>> ntensor.scratch_bytes("synthesis_projection", 64, (9, 15, 80), 12288) < 2**20 * 4
        True
    """
    if dtype not in backends.DTYPES:
        wanted = ", ".join(map(str, backends.DTYPES))
        raise TypeError(f"scratch_bytes: dtype: wanted one of {wanted}, got {dtype}")
    if operation not in _OPERATIONS:
        raise ValueError(
            f"scratch_bytes: operation: wanted one of {', '.join(_OPERATIONS)}, got {operation!r}"
        )
    samples, extents, k_x = _sizes(operation, n, factor_sizes, out_features)
    if backend not in (None, "native", "triton"):
        raise ValueError(f"scratch_bytes: backend: wanted native or triton, got {backend!r}")
    place = torch.device(device)
    chosen = _backend(operation, place, dtype, backend)
    k_x = 1 if k_x is None else k_x
    if samples * math.prod(extents) * k_x == 0:
        return 0
    module = importlib.import_module(f"{backends.__name__}.{chosen}.scratch")
    count: int = module.scratch_bytes(operation, samples, extents, k_x, dtype, place)
    return count


def _sizes(
    operation: str, n: Any, factor_sizes: Any, out_features: Any
) -> tuple[int, tuple[int, ...], int | None]:
    """`n`, `(k_1, ..., k_M)` and `k_x`, None where the operation has none, after all checks."""
    name, k_x = "scratch_bytes", None
    samples = checks.size(name, "n", n)
    extents = checks.sizes(name, "factor_sizes", factor_sizes)
    checks.factor_count(name, len(extents))
    if operation in _PROJECTIONS:
        if out_features is None:
            raise ValueError(f"{name}: out_features: wanted k_x for {operation}, got None")
        k_x = checks.size(name, "out_features", out_features)
    elif operation != "synthesis":
        wanted = 1 if operation == "rotation" else 2
        if len(extents) != wanted:
            raise ValueError(
                f"{name}: factor_sizes must have {wanted} entries for {operation}, got {extents}"
            )
        checks.rotatable(name, math.prod(extents), "column")
    checks.countable(name, extents, samples, k_x or 1)
    return samples, extents, k_x


def _backend(operation: str, device: torch.device, dtype: torch.dtype, backend: str | None) -> str:
    """The backend whose scratch is meant: the one asked for, or the first that can serve."""
    names = backends.order(device) if backend is None else (backend,)
    reasons = []
    for name in names:
        if name == "reference":
            reasons.append("reference: what it takes is not counted")
            continue
        reason = backends.why_not(name, operation, device, dtype)
        if reason is None:
            return name
        reasons.append(f"{name}: {reason}")
    said = "; ".join(reasons)
    raise RuntimeError(f"scratch_bytes: no backend serves {dtype} on {device} ({said})")
