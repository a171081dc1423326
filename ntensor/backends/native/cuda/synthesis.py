"""Synthesis and its gradients by the CUDA kernels."""

import torch
from torch import Tensor

from ntensor.backends.native.cuda.library import run
from ntensor.backends.native.library import (
    DTYPES,
    describe_factors,
    describe_grads,
    describe_matrix,
    needed_width,
)


def synthesis(factors: list[Tensor]) -> Tensor:
    z = factors[0]
    n = z.shape[0]
    described, _, K = describe_factors(factors)
    y = torch.empty((n, K), dtype=z.dtype, device=z.device)
    if n * K > 0:
        run("synthesis", z, (DTYPES[z.dtype], n, described, y.data_ptr()))
    return y


def synthesis_grads(grad: Tensor, factors: list[Tensor], needs: list[bool]) -> Tensor:
    z = factors[0]
    n = z.shape[0]
    described, extents, K = describe_factors(factors)
    width = needed_width(extents, needs)
    if n * K * width == 0:
        return z.new_zeros((n, width))
    out = torch.empty((n, width), dtype=z.dtype, device=z.device)
    grads = describe_grads(out, extents, needs)
    arguments = (DTYPES[z.dtype], n, described, grads, width, describe_matrix(grad))
    run("synthesis_grads", z, arguments)
    return out
