"""Checks of arguments: type, rank, extent, dtype, device.

The public functions and the raw operations of the namespace `ntensor` make them, and backends rely
on them. Each test is made plainly and its message is built only where it fails.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from ntensor.backends import DTYPES
from ntensor.backends._torch import disabled_torch_function, is_any_autocast_enabled, tracing_state

from .saved import cast

LAYOUTS = ("column", "row")
MOST_ELEMENTS = 1 << 48
MOST_MULTIPLY_ADDS = 1 << 60
MOST_FACTORS = 63  # the kernels keep an index for each of them in a fixed array


def tensors(operation: str, names: Sequence[str], values: Sequence[Any]) -> None:
    """Every value is a tensor."""
    for place, value in enumerate(values):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{operation}: {names[place]} must be a torch.Tensor, got {type(value).__name__}"
            )


def overridden(values: Sequence[Any]) -> bool:
    """Whether a `__torch_function__`, of a value's type or of a mode, is to take the call."""
    return not torch.compiler.is_compiling() and has_torch_function(values)


def overrides_torch(values: Sequence[Any]) -> bool:
    """Whether a type among them has a `__torch_function__` of its own, and may know a function of
    torch that ours stands in for; the tracer of torch.fx records any function."""
    if not overridden(values):
        return False
    usual = getattr(Tensor.__torch_function__, "__func__", None)
    for value in values:
        own = getattr(type(value), "__torch_function__", disabled_torch_function)
        if own is disabled_torch_function or isinstance(value, torch.fx.Proxy):
            continue
        if getattr(own, "__func__", None) is not usual:
            return True
    return False


def recorded() -> bool:
    """Whether `torch.jit.trace` records the call."""
    return not torch.compiler.is_compiling() and tracing_state() is not None


def autocast(values: Sequence[Tensor], *, widest: bool = False) -> Sequence[Tensor]:
    """The tensors in autocast's dtype where autocast is on; as for torch's own, float64 stays.

    Args:
        widest: in float32 where one of them is, else as they are: what autocast makes of torch's
            functions that take no lower precision.
    """
    if not is_any_autocast_enabled():
        return values
    device = values[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return values
    dtype = torch.get_autocast_dtype(device)
    if widest:
        if all(value.dtype is not torch.float32 for value in values):
            return values
        dtype = torch.float32
    return [
        cast(value, dtype)
        if value.is_floating_point() and value.dtype is not torch.float64
        else value
        for value in values
    ]


def alike(operation: str, names: Sequence[str], values: Sequence[Tensor]) -> None:
    """All tensors have one dtype, which the library supports, and lie on one device."""
    dtype, device = values[0].dtype, values[0].device
    if dtype not in DTYPES:
        raise TypeError(
            f"{operation}: {names[0]} must be float32, float64, bfloat16 or float16, got {dtype}"
        )
    for place, value in enumerate(values):
        if value.dtype is not dtype:
            raise TypeError(
                f"{operation}: {names[place]} must have the dtype of {names[0]}, {dtype}, "
                f"got {value.dtype}"
            )
        if value.device != device:
            raise ValueError(
                f"{operation}: {names[place]} must be on the device of {names[0]}, {device}, "
                f"got {value.device}"
            )


def matrices(
    operation: str, names: Sequence[str], values: Sequence[Tensor], symbols: Sequence[str]
) -> None:
    """Every tensor is `(n, extent)`, with one `n`."""
    samples = None
    for place, value in enumerate(values):
        if value.dim() != 2:
            shape(operation, names[place], f"2 dimensions, (n, {symbols[place]})", value)
        if samples is None:
            samples = value.shape[0]
        elif value.shape[0] != samples:
            wanted = f"shape (n, {symbols[place]}) with n = {samples} as {names[0]}"
            shape(operation, names[place], wanted, value)


def factor_count(operation: str, count: int) -> None:
    if count == 0:
        raise ValueError(f"{operation}: at least one factor is needed, got none")
    if count > MOST_FACTORS:
        raise ValueError(f"{operation}: at most {MOST_FACTORS} factors are possible, got {count}")


def factors(operation: str, values: Sequence[Tensor]) -> None:
    """The factors are `(n, k_m)`, of one dtype and device."""
    factor_count(operation, len(values))
    names = factor_names(len(values))
    alike(operation, names, values)
    matrices(operation, names, values, factor_symbols(len(values)))


def core_and_factors(operation: str, values: Sequence[Tensor], name: str = "core") -> None:
    """A core and its factors, of one dtype and device."""
    if fit(values):
        return
    first, *rest = values
    factor_count(operation, len(rest))
    names = core_and_factor_names(len(rest))
    alike(operation, names if name == "core" else (name, *names[1:]), values)
    matrices(operation, names[1:], rest, factor_symbols(len(rest)))
    core(operation, name, first, rest)


def fit(values: Sequence[Tensor], mode: int = 0) -> bool:
    """Whether core and factors pass every check of `core_and_factors`, at the least host time.

    mode: the core's that has no factor.
    """
    core = values[0]
    extents: Sequence[int] = core.shape
    if mode:
        extents = (extents[mode], *extents[:mode], *extents[mode + 1 :])
    if not 1 < len(extents) == len(values) <= MOST_FACTORS + 1 or not core.is_contiguous():
        return False
    dtype, device = core.dtype, core.device
    if dtype not in DTYPES:
        return False
    samples = None
    for place in range(1, len(values)):
        value = values[place]
        shape = value.shape
        if samples is None and len(shape) == 2:
            samples = shape[0]
        if shape != (samples, extents[place]):
            return False
        if value.dtype is not dtype or value.device != device:
            return False
    return True


def core(operation: str, name: str, value: Tensor, factors: Sequence[Tensor]) -> None:
    """The core is `(k_x, k_1, ..., k_M)` for factors `(n, k_m)`, and contiguous."""
    extents = value.shape
    if len(extents) != len(factors) + 1:
        wanted = f"{len(factors) + 1} dimensions (k_x and one for each of {len(factors)} factors)"
        shape(operation, name, wanted, value)
    for mode, factor in enumerate(factors):
        if factor.shape[1] != extents[mode + 1]:
            fitting = ", ".join(str(each.shape[1]) for each in factors)
            shape(operation, name, f"shape (k_x, {fitting}) to fit the factors", value)
    contiguous(operation, name, value)


def contiguous(operation: str, name: str, value: Tensor) -> None:
    if not value.is_contiguous():
        raise ValueError(
            f"{operation}: {name} must be contiguous, got strides {tuple(value.stride())} "
            f"for shape {tuple(value.shape)}; pass {name}.contiguous()"
        )


def upstream(
    operation: str,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    extents: tuple[int, ...],
    like: Tensor,
) -> None:
    """The incoming gradients of both outputs of a projection, of which one may be None."""
    if grad is None and grad_mean is None:
        raise ValueError(f"{operation}: grad or grad_mean must be given, got None for both")
    for name, value in (("grad", grad), ("grad_mean", grad_mean)):
        if value is not None:
            fits(operation, name, value, extents, like)


def fits(operation: str, name: str, value: Tensor, extents: tuple[int, ...], like: Tensor) -> None:
    """The tensor has this shape, and the dtype and device of another one."""
    alike(operation, ("the other operands", name), (like, value))
    if tuple(value.shape) != extents:
        shape(operation, name, f"shape {extents}", value)


def needs(operation: str, given: Sequence[bool], count: int) -> None:
    """One entry for each of `count` gradients."""
    if len(given) != count:
        raise ValueError(f"{operation}: needs must have {count} entries, got {len(given)}")


def rotations(operation: str, value: Tensor, samples: int) -> None:
    """`R` is `(n, 3, 3)`."""
    if value.dim() != 3 or tuple(value.shape) != (samples, 3, 3):
        shape(operation, "R", f"shape ({samples}, 3, 3), (n, 3, 3)", value)


def rotatable(operation: str, extent: int, layout: str) -> None:
    """3 divides `K`, and the layout is known."""
    if layout not in LAYOUTS:
        raise ValueError(f'{operation}: layout must be "column" or "row", got {layout!r}')
    if extent % 3 != 0:
        raise ValueError(f"{operation}: K must be divisible by 3, got K = {extent}")


def sizes(operation: str, name: str, given: Any) -> tuple[int, ...]:
    """A sequence of extents, whole numbers that are not negative."""
    if not isinstance(given, Iterable):
        raise TypeError(
            f"{operation}: {name} must be a sequence of int, got {type(given).__name__}"
        )
    values = tuple(given)
    return tuple(size(operation, f"{name}[{place}]", each) for place, each in enumerate(values))


def size(operation: str, name: str, given: Any) -> int:
    if not hasattr(given, "__index__"):
        raise TypeError(f"{operation}: {name} must be an int, got {type(given).__name__}")
    value = operator.index(given)
    if value < 0:
        raise ValueError(f"{operation}: {name} must not be negative, got {value}")
    return value


def countable(operation: str, extents: Sequence[int], n: int = 1, k_x: int = 1) -> None:
    """Sizes of tensors that an address space could hold; an extent of 0 is left out."""
    K = math.prod(max(1, each) for each in extents)
    n, k_x = max(1, n), max(1, k_x)
    if max(n * K, n * k_x, K * k_x) >= MOST_ELEMENTS or n * K * k_x >= MOST_MULTIPLY_ADDS:
        raise ValueError(
            f"{operation}: sizes must give tensors of less than 2^48 elements and less than 2^60 "
            f"multiply-adds, got n = {n}, K = {K}, k_x = {k_x}"
        )


def shape(operation: str, name: str, wanted: str, value: Tensor) -> NoReturn:
    raise ValueError(f"{operation}: {name} must have {wanted}, got shape {tuple(value.shape)}")


def factor_names(count: int) -> Sequence[str]:
    return _FACTORS[count] if count < len(_FACTORS) else _factor_names(count)


def factor_symbols(count: int) -> Sequence[str]:
    return _SYMBOLS[count] if count < len(_SYMBOLS) else _factor_symbols(count)


def core_and_factor_names(count: int) -> Sequence[str]:
    return _CORE_AND_FACTORS[count] if count < len(_FACTORS) else ("core", *_factor_names(count))


def _factor_names(count: int) -> tuple[str, ...]:
    return tuple(f"factors[{mode}]" for mode in range(count))


def _factor_symbols(count: int) -> tuple[str, ...]:
    return tuple(f"k_{mode + 1}" for mode in range(count))


_FACTORS = tuple(_factor_names(count) for count in range(9))
_SYMBOLS = tuple(_factor_symbols(count) for count in range(9))
_CORE_AND_FACTORS = tuple(("core", *names) for names in _FACTORS)
