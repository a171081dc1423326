"""What a method is, and how a forward in plain torch becomes a step of any pass."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from _problem import Problem
from _timing import Step

# Kinds of methods: "ours"; "limit" (the products are given, so only matrix products are timed);
# "torch" (plain PyTorch); "library" (another library).


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    `gradient` says what a backward does with the core's gradient: "fresh" makes a new one each
    step, "adds" adds into the existing `.grad`, "overwrites" writes over it, "" has none.
    `extra_bytes` estimates the memory beside the inputs; `missing` says why it cannot run here;
    `compiles`: its first call compiles.
    """

    name: str
    kind: str
    build: Callable[[Problem], Step]
    gradient: str = ""
    extra_bytes: int = 0
    missing: str = ""
    numpy: bool = False
    compiles: bool = False


def missing_module(name: str) -> str:
    return "" if importlib.util.find_spec(name) else f"{name} is not installed"


def missing_compiler(device: torch.device) -> str:
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        return "torch.compile needs a C++ compiler"
    return ""


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

    leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    values = tuple(leaves.values())

    def begin() -> None:
        for name, leaf in leaves.items():
            leaf.grad = reused.get(name)

    def forget() -> None:
        for leaf in values:
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

    if case.pass_ == "backward":
        return Step(run_backward, results, prepare=run_forward, finish=forget, held=held)
    return Step(lambda _: run_backward(run_forward()), results, finish=forget, held=held)
