"""A projection whose output mode lies anywhere in memory, by the compiled core for CPUs."""

from __future__ import annotations

from torch import Tensor

from ntensor.backends.native import call, plans
from ntensor.backends.native.library import NO_MATRIX
from ntensor.backends.native.memory import new_result


def mttkrp(tensor: Tensor, others: list[Tensor], mode: int) -> Tensor | None:
    """`(I_mode, R)`; others: at least two matrices `(I_m, R)`, one for each of the other modes.
    None on a GPU, whose kernels do not have it."""
    return _of_mode(tensor, [matrix.T for matrix in others], mode, False)


def rows_of_mode(tensor: Tensor, others: list[Tensor], mode: int) -> Tensor | None:
    """The same as `(R, I_mode)`, for matrices `(R, I_m)`."""
    return _of_mode(tensor, others, mode, True)


def _of_mode(tensor: Tensor, others: list[Tensor], mode: int, by_rows: bool) -> Tensor | None:
    """By matrices `(R, I_m)`."""
    if call.runs_on_gpu(tensor):
        return None
    rank, k_x = others[0].shape[0], tensor.shape[mode]
    shape = (rank, k_x) if by_rows else (k_x, rank)
    if rank * tensor.numel() == 0:
        return tensor.new_zeros(shape)
    # Those of extent 1, which may stand anywhere, before all others.
    before = [matrix for matrix in others[:mode] if matrix.shape[1] != 1]
    behind = [matrix for matrix in others[mode:] if matrix.shape[1] != 1]
    ones = [matrix for matrix in others if matrix.shape[1] == 1]
    others = [*ones, *before, *behind]
    mode = len(ones) + len(before) if before else 0
    extents = [matrix.shape[1] for matrix in others]
    extents.insert(mode, k_x)
    sizes = call.sizes_of(tensor, rank, tuple(extents), 1)
    projects, split = plans.mttkrp(sizes, mode, plans.forced(), by_rows)
    described = _describe(others)
    if projects:
        out = new_result(shape, tensor)
        places = (tensor.data_ptr(), k_x, out.data_ptr(), 0)
        job = (sizes.dtype, rank, described, *places, split, call.ALONE)
        call.run("projection", tensor, sizes.threads, *job)
        return out
    out = new_result((rank, k_x), tensor)
    upstream = before[0]
    factors = _describe([*ones, *before[1:]])
    factors += (tensor.data_ptr(), k_x, 0, 0, *_describe(behind))  # the slot is not read
    addresses = [0] * (len(extents) - 1)
    addresses[mode - 1] = out.data_ptr()
    grads_job = (
        rank,
        factors,
        addresses,
        0,
        tensor.data_ptr(),
        upstream.shape[1],
        (upstream.data_ptr(), *upstream.stride()),
        NO_MATRIX,
        split,
        call.ALONE,
    )
    call.run("projection_factor_grads", tensor, sizes.threads, sizes.dtype, *grads_job)
    return out if by_rows else out.T.contiguous()


def _describe(matrices: list[Tensor]) -> list[int]:
    described: list[int] = []
    for matrix in matrices:
        described += (matrix.data_ptr(), matrix.shape[1], *matrix.stride())
    return described
