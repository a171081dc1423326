"""Which implementation serves an operation: the choice, and the reason where one cannot serve.

A backend is a package in this folder. Its `why_not(operation, device, dtype)` answers None where it
can serve, else the reason in words; its modules hold one function an operation, of the operation's
name and arguments.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from ntensor.backends.override import Override, Overrides

BACKENDS = ("native", "triton", "reference")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# The automatic choice, by the type of the device: the order in which backends are asked. Triton
# serves CPUs in its interpreter alone, so only where it is forced. On GPUs it comes first, since no
# measurement shows the compiled core to be faster there.
_ORDER = {"cpu": ("native", "reference"), "cuda": ("triton", "native", "reference")}

# Global, because torch.compile guards on it; it does not on a thread-local or a ContextVar.
forced = Overrides()


class use_backend:
    """Forces the backend of every `ntensor` call in its block; None: the automatic choice.

    The backend that is in force when an operation is called also computes its gradients, whenever
    backward runs. A `backend=` argument of a call wins over the block. The choice holds for the
    whole process, not for one thread; of several blocks that are open, in whatever threads, the one
    that was opened last. Code under `torch.compile` sees it, inside and outside of the
    compiled region, and is recompiled when it changes.

    Args:
        name (str or None): `"native"`, `"triton"`, `"reference"`, or None.

    Raises:
        ValueError: for another name.
        RuntimeError: by an operation in the block that the backend cannot serve, with the reason.

    Example:
        >>> import torch, ntensor
        >>> with ntensor.use_backend("reference"):
        ...     ntensor.synthesis(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[3., 4., 6., 8.]])
    """

    def __init__(self, name: str | None) -> None:
        self.name = check_name(name)
        self.entered: list[Override] = []

    def __enter__(self) -> None:
        self.entered.append(forced.enter(self.name))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        forced.leave(self.entered.pop())


def check_name(name: str | None) -> str | None:
    if name is not None and name not in BACKENDS:
        raise ValueError(f"backend must be None or one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def requested(backend: str | None) -> str | None:
    """The backend that the caller asked for, by argument or by `use_backend`; None: automatic."""
    return forced.value if backend is None else check_name(backend)


def why_not(backend: str, operation: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason why `backend` cannot serve `operation` on `device` in `dtype`; None if it can."""
    if dtype not in DTYPES:
        return f"it serves {', '.join(map(str, DTYPES))}, not {dtype}"
    reason: str | None = _package(backend).why_not(operation, device, dtype)
    return reason


def order(device: torch.device) -> tuple[str, ...]:
    """The backends that serve a device without a request, in the order in which they are asked."""
    return _ORDER.get(device.type, ("reference",))


def ask(
    backend: str, stem: str, operation: str, device: torch.device, dtype: torch.dtype
) -> Callable[..., Any] | str:
    """The function of `operation` in the module `stem` of a backend, or why it cannot serve."""
    reason = why_not(backend, operation, device, dtype)
    if reason is not None:
        return reason
    name = f"{__name__}.{backend}.{stem}"
    module = importlib.import_module(name) if importlib.util.find_spec(name) else None
    found: Callable[..., Any] | None = getattr(module, operation, None)
    return "it does not have this operation" if found is None else found


@functools.cache
def implementation(
    stem: str, operation: str, device: torch.device, dtype: torch.dtype, backend: str | None
) -> Callable[..., Any]:
    """The function of `operation` in the module `stem` of the chosen backend.

    Raises:
        RuntimeError: naming every backend that was asked and its reason, where none can serve.
    """
    reasons = []
    for name in order(device) if backend is None else (backend,):
        answer = ask(name, stem, operation, device, dtype)
        if not isinstance(answer, str):
            return answer
        reasons.append(f"{name}: {answer}")
    failed = "no backend can serve" if backend is None else "the forced backend cannot serve"
    raise RuntimeError(f"ntensor.{operation}: {failed} {dtype} on {device} ({'; '.join(reasons)})")


@functools.cache
def shortcut(
    stem: str,
    name: str,
    operation: str,
    device: torch.device,
    dtype: torch.dtype,
    backend: str | None,
) -> Callable[..., Any] | None:
    """The function `name` beside the one that serves `operation`; None where there is none."""
    serve = implementation(stem, operation, device, dtype, backend)
    found: Callable[..., Any] | None = getattr(sys.modules[serve.__module__], name, None)
    return found


def _package(backend: str) -> Any:
    return importlib.import_module(f"{__name__}.{backend}")
