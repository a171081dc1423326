"""What a method is, and how a forward in plain torch becomes a step of any pass."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.cases import Case
from harness.problem import Problem
from harness.timing import Step

# Kinds of methods: "ours"; "limit" (the products are given, so only matrix products are timed);
# "torch" (plain PyTorch); "library" (another library).


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    `gradient` says what a backward does with the core's gradient: "fresh" makes a new one each
    step, "adds" adds into the existing `.grad`, "overwrites" writes over it, "" has none.
    `extra_bytes` estimates the memory beside the inputs; `missing` says why it cannot run here;
    `compiles`: its first call compiles, for `compile_seconds` or more.
    """

    name: str
    kind: str
    build: Callable[[Problem], Step]
    gradient: str = ""
    extra_bytes: int = 0
    missing: str = ""
    numpy: bool = False
    compiles: bool = False
    compile_seconds: float = 0.0


def ours(
    case: Case,
    device: torch.device,
    backends: Iterable[str],
    build: Callable[[Problem, str | None, str], Step],
    gradients: Iterable[str],
    extra_bytes: Callable[[str], int] = lambda gradient: 0,
) -> list[Method]:
    """The library's rows, `build(problem, backend, gradient)`: one a backend and gradient."""
    return [
        Method(
            "ntensor" if backend == "auto" else f"ntensor ({backend})",
            "ours",
            lambda p, b=None if backend == "auto" else backend, g=gradient: build(p, b, g),
            gradient,
            extra_bytes(gradient),
            missing_backend(backend, case, device),
        )
        for backend in backends
        for gradient in gradients
    ]


def compiled_methods(
    case: Case,
    device: torch.device,
    name: str,
    build: Callable[[Problem, bool], Step],
    gradient: str,
    extra_bytes: int,
) -> list[Method]:
    """`build(problem, autotune)` by torch.compile; on a GPU also with its own choice of kernels."""
    missing = missing_compiler(device)

    def row(title: str, tune: bool, missing: str, seconds: float) -> Method:
        return Method(
            title,
            "torch",
            lambda problem: build(problem, tune),
            gradient,
            extra_bytes,
            missing,
            compiles=True,
            compile_seconds=seconds,
        )

    listed = [row(f"torch.compile({name})", False, missing, 20.0)]
    if device.type != "cpu":
        missing = missing or ("" if case.autotune else "tunes for minutes; --autotune asks for it")
        listed.append(row(f"torch.compile({name}), max-autotune", True, missing, 120.0))
    return listed


def missing_module(name: str) -> str:
    return "" if importlib.util.find_spec(name) else f"{name} is not installed"


def missing_compiler(device: torch.device) -> str:
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        return "torch.compile needs a C++ compiler"
    return ""


def compiled(forward: Callable[..., object], autotune: bool) -> Callable[..., object]:
    """`forward` by torch.compile; no CUDA graphs of its own, since every method gets one."""
    mode = "max-autotune-no-cudagraphs" if autotune else None
    return torch.compile(forward, dynamic=False, mode=mode)


def missing_backend(backend: str, case: Case, device: torch.device) -> str:
    """Why the library cannot serve the case on a GPU by `backend`; "" where it can."""
    missing = missing_module("ntensor")
    if missing or device.type == "cpu" or backend == "auto":
        return missing
    from ntensor import backends

    operation = case.operation + ("_with_mean" if case.mean else "")
    return backends.why_not(backend, operation, device, getattr(torch, case.dtype)) or ""


def step_of(
    problem: Problem,
    forward: Callable[..., tuple[Tensor, ...]],
    inputs: dict[str, Tensor],
    grads: tuple[Tensor, ...],
    canonical: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
    reused: dict[str, Tensor] | None = None,
    held: tuple[Tensor, ...] = (),
) -> Step:
    """The step of `forward(*inputs)` for the case's pass, by autograd where it differentiates.

    `inputs` maps the names of the gradients (`core_grad`, `factor_grad_0`, ...) to the inputs,
    `reused` names those whose `.grad` is kept between steps. `canonical(name, tensor)` brings a
    result into the library's layout.
    """
    case = problem.case
    reused = reused or {}

    def named(outputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {
            name: canonical(name, x.detach())
            for name, x in zip(case.output_names, outputs, strict=False)
        }

    if not case.differentiates:
        values = tuple(inputs.values())
        return Step(lambda _: forward(*values), named, held=held)

    def operand(name: str, value: Tensor) -> Tensor:
        wanted = case.core_grad if name == "core_grad" else case.factor_grads
        return value.detach().requires_grad_(wanted)

    operands = {name: operand(name, value) for name, value in inputs.items()}
    values = tuple(operands.values())
    leaves = {name: value for name, value in operands.items() if value.requires_grad}

    def begin() -> None:
        for name, leaf in leaves.items():
            leaf.grad = reused.get(name)

    def forget() -> None:
        for leaf in leaves.values():
            leaf.grad = None

    def results(outputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        gradients = {name: canonical(name, leaf.grad) for name, leaf in leaves.items()}
        return named(outputs) | gradients

    def run_forward() -> tuple[Tensor, ...]:
        begin()
        return forward(*values)

    def run_backward(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        torch.autograd.backward(outputs, grads)
        return tuple(x.detach() for x in outputs)

    if case.only_backward:
        return Step(run_backward, results, prepare=run_forward, finish=forget, held=held)
    return Step(lambda _: run_backward(run_forward()), results, finish=forget, held=held)
