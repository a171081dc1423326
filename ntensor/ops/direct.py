"""The shortest way from a plain eager call to the compiled core for CPUs: `csrc/cpu/direct.cpp`
and `direct_features.cpp`.

Each function answers None where the call is not plain, or anything is wrong with it; the ordinary
way then serves it, or raises. Code under `torch.compile` must not come here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ntensor import backends
from ntensor.backends._torch import (
    are_functorch_transforms_active,
    count_dispatch_modes,
    count_function_modes,
    forward_ad,
    is_any_autocast_enabled,
    is_profiler_enabled,
    keys_of,
    plain_keys,
    tracing_state,
)
from ntensor.backends.native import library, memory, plans
from ntensor.backends.native.call import divide, work_of

# `Call` of direct.cpp.
_PROJECTION, _MTTKRP, _CORE_GRAD, _FACTOR_GRADS, _FEATURES, _MODE_GRADIENTS = range(6)
_MOST_FACTORS = 8  # `most_direct_factors` of direct_operands.h
# Whether the gradients of x and of x_mean are given.
_OUTPUTS = ((True, False), (True, True), (False, True))


def _plan(
    call: int,
    dtype: int,
    n: int,
    extents: tuple[int, ...],
    k_x: int,
    option: int,
    threads: int,
    problems: int,
) -> tuple[str, int, int, int, list[plans.Split | None]]:
    """Level, threads of a problem, problems at the same time, choice and splits, as direct.cpp
    keeps them; None for what the ordinary way makes of several calls."""
    level = library.simd_level()
    each = library.ELEMENTS_A_THREAD if call == _FEATURES else library.MULTIPLY_ADDS_A_THREAD
    of_mode = call in (_MTTKRP, _MODE_GRADIENTS)
    work = n * (1 if of_mode else k_x) * math.prod(extents)
    if problems > 1:
        work = work_of(problems, n, extents, k_x)
    threads, at_once = divide(problems, max(1, min(threads, work // each)), work)
    sizes = plans.Sizes(level, dtype, n, extents, k_x, threads, problems // at_once)
    choice = 0
    splits: list[plans.Split | None] = [plans.Split()]
    if call == _PROJECTION:
        splits = [plans.projection(sizes, bool(option), None)]
    elif call == _MTTKRP:
        projects, split = plans.mttkrp(sizes, option >> 1, None, bool(option & 1))
        choice, splits = int(projects), [split]
    elif call == _MODE_GRADIENTS:
        needs = tuple([bool(option >> m & 1) for m in range(len(extents) + 1)])
        moves, moves_core = plans.mode_gradients(sizes._replace(k_x=1), k_x, needs, None)
        choice = moves + 2 * moves_core
    elif call == _CORE_GRAD:
        splits = [plans.core_grad(sizes, *_OUTPUTS[option], None)]
    elif call == _FACTOR_GRADS:
        needs = tuple(bool(option >> m & 1) for m in range(len(extents)))
        outputs = _OUTPUTS[option >> _MOST_FACTORS]
        way, *splits = plans.factor_grads(sizes, *outputs, needs, True, None)
        choice = way.hoisted
    return (
        level,
        threads,
        at_once,
        choice,
        [None if each is None or each.hoisted < 0 else each for each in splits],
    )


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
        "dispatch_keys": keys_of,
        "plain_keys": [keys.raw_repr() for keys in plain_keys("CPU")],
        "questions": [
            count_dispatch_modes,
            count_function_modes,
            tracing_state,
            is_any_autocast_enabled,
            is_profiler_enabled,
            are_functorch_transforms_active,
        ],
        "overrides": [backends.forced, plans.forced_plan],
        "forced_level": library.forced_level,
        "forward_ad": forward_ad,
        "is_grad_enabled": torch.is_grad_enabled,
        "thread_count": library.thread_count,
        "dtypes": list(library.DTYPES),
        "cpu": library.CPU,
        "plan": _plan,
        "large_result": memory.large_result,
        "large_bytes": memory.LARGE_BYTES,
        "huge_bytes": memory.HUGE_BYTES,
    }
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    return capsule is not None and bool(module.set_up_direct_calls(capsule, given))


project: Callable[..., Any] = _never
project_groups: Callable[..., Tensor | None] = _never
mttkrp: Callable[..., Tensor | None] = _never
gradients: Callable[..., list[Tensor | None] | None] = _never
synthesise: Callable[..., Tensor | None] = _never
synthesis_gradients: Callable[..., list[Tensor | None] | None] = _never
rotate: Callable[..., Tensor | None] = _never
rotation_gradients: Callable[..., list[Tensor | None] | None] = _never
synthesise_rotated: Callable[..., Tensor | None] = _never
rotated_gradients: Callable[..., list[Tensor | None] | None] = _never
mode_gradients: Callable[..., list[Tensor | None] | None] = _never
contract: Callable[..., Tensor | None] = _never
is_one_output: Callable[..., bool | None] = _never
scales_rows: Callable[..., bool | None] = _never

if _set_up():
    project = library.cpu_module().project
    project_groups = library.cpu_module().project_groups
    mttkrp = library.cpu_module().mttkrp
    gradients = library.cpu_module().gradients
    synthesise = library.cpu_module().synthesise
    synthesis_gradients = library.cpu_module().synthesis_gradients
    rotate = library.cpu_module().rotate
    rotation_gradients = library.cpu_module().rotation_gradients
    synthesise_rotated = library.cpu_module().synthesise_rotated
    rotated_gradients = library.cpu_module().rotated_gradients
    mode_gradients = library.cpu_module().mode_gradients
    contract = library.cpu_module().contract
    is_one_output = library.cpu_module().is_one_output
    scales_rows = library.cpu_module().scales_rows
