"""Synthesis and its gradients by the compiled core."""

from torch import Tensor

from ntensor.backends.native.call import run
from ntensor.backends.native.library import (
    DTYPES,
    ELEMENTS_A_THREAD,
    describe_factors,
    describe_grads,
    describe_matrix,
    in_order,
    needed_width,
    threads_for,
)
from ntensor.backends.native.memory import HUGE_BYTES, new_result


def synthesis(factors: list[Tensor]) -> Tensor:
    z = factors[0]
    n, dtype = z.shape[0], z.dtype
    described, _, K, _ = describe_factors(factors)
    y = new_result((n, K), z, HUGE_BYTES)
    if n * K > 0:
        threads = threads_for(n * K, ELEMENTS_A_THREAD)
        run("synthesis", z, threads, DTYPES[dtype], n, described, y.data_ptr())
    return y


def synthesis_grads(grad: Tensor, factors: list[Tensor], needs: list[bool]) -> Tensor:
    z = factors[0]
    n, dtype = z.shape[0], z.dtype
    described, _, K, order = describe_factors(factors)
    extents = tuple([z.shape[1] for z in factors])
    width = needed_width(extents, needs)
    if n * K * width == 0:
        return z.new_zeros((n, width))
    out = new_result((n, width), z, HUGE_BYTES)
    grads = in_order(describe_grads(out, extents, needs), order)
    job = (DTYPES[dtype], n, described, grads, width, describe_matrix(grad))
    run("synthesis_grads", z, threads_for(n * K, ELEMENTS_A_THREAD), *job)
    return out
