"""The shortest way from a plain eager call to the compiled core for CPUs: `csrc/cpu/direct.cpp`.

Each function answers None where the call is not plain, or anything is wrong with it; the ordinary
way then serves it, or raises. Code under `torch.compile` must not come here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,
    _dispatch_keys,
    _get_tracing_state,
    _is_any_autocast_enabled,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch._C._autograd import _profiler_enabled
from torch.autograd import forward_ad

from ntensor import backends
from ntensor.backends.native import library, plans, scratch

from .dispatch import PLAIN_KEYS

# `Call` of direct.cpp.
_PROJECTION, _MTTKRP, _CORE_GRAD, _FACTOR_GRADS, _SYNTHESIS = range(5)

Passes = tuple[str, int, int, list[tuple[plans.Split, int] | None]]


def _plan(
    call: int, dtype: int, n: int, extents: tuple[int, ...], k_x: int, option: int, threads: int
) -> Passes:
    """The plan of `ntensor.backends.native.plans` as direct.cpp keeps it."""
    level = library.simd_level()
    rows = 1 if call == _MTTKRP else k_x
    work = n * rows * math.prod(extents)
    each = library.ELEMENTS_A_THREAD if call == _SYNTHESIS else library.MULTIPLY_ADDS_A_THREAD
    threads = max(1, min(threads, work // each))
    if call == _SYNTHESIS:
        return (
            level,
            threads,
            0,
            [(plans.Split(), scratch.synthesis(level, dtype, n, extents, threads))],
        )
    if call == _PROJECTION:
        plan = plans.projection(level, dtype, n, extents, k_x, bool(option), threads, None)
        return level, threads, 0, _pass(plan)
    if call == _MTTKRP:
        projects, plan = plans.mttkrp(level, dtype, n, extents, option, threads, None)
        return level, threads, int(projects), [(plan.split, plan.scratch)]
    if call == _CORE_GRAD:
        plan = plans.core_grad(level, dtype, n, extents, k_x, True, False, threads, None)
        return level, threads, 0, _pass(plan)
    in_rows, needed = bool(option % 2), option // 2
    needs = tuple(bool(needed >> m & 1) for m in range(len(extents)))
    grads = plans.factor_grads(
        *(level, dtype, n, extents, k_x, True, False, in_rows, needs, True, threads, None)
    )
    inner, outer = (
        None if part is None else (part.split, part.scratch) for part in (grads.inner, grads.outer)
    )
    return level, threads, grads.hoisted, [inner, outer, (plans.Split(), grads.spread)]


def _pass(plan: plans.Plan) -> list[tuple[plans.Split, int] | None]:
    """None for products of torch, which the ordinary way makes."""
    return [None if plan.split == plans.PRODUCT else (plan.split, plan.scratch)]


def _never(*_: Any) -> None:
    return None


def _set_up() -> bool:
    try:
        module = library.cpu_module()
    except ImportError:
        return False
    given = {
        "torch": torch,
        "tensor": Tensor,
        "parameter": torch.nn.Parameter,
        "dispatch_keys": _dispatch_keys,
        "plain_keys": list(PLAIN_KEYS),
        "questions": [
            _len_torch_dispatch_stack,
            _len_torch_function_stack,
            _get_tracing_state,
            _is_any_autocast_enabled,
            _profiler_enabled,
            _are_functorch_transforms_active,
        ],
        "overrides": [backends.forced, plans.forced_plan],
        "forced_level": library.forced_level,
        "forward_ad": forward_ad,
        "is_grad_enabled": torch.is_grad_enabled,
        "thread_count": torch.get_num_threads,
        "dtypes": list(library.DTYPES),
        "cpu": library.CPU,
        "plan": _plan,
    }
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    return capsule is not None and bool(module.set_up_direct_calls(capsule, given))


synthesise: Callable[..., Tensor | None] = _never
project: Callable[..., Any] = _never
mttkrp: Callable[..., Tensor | None] = _never
gradients: Callable[..., list[Tensor | None] | None] = _never

if _set_up():
    synthesise = library.cpu_module().synthesise
    project = library.cpu_module().project
    mttkrp = library.cpu_module().mttkrp
    gradients = library.cpu_module().gradients
