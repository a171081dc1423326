"""Whether a backend's results are those of the definitions: outputs, then all gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

import ntensor
from gpu.operations import Call, Operand, calls
from ntensor import backends

BACKENDS = ("native", "triton", "reference")
DTYPES = ("bfloat16", "float32", "float16", "float64")
# Largest error of an element that is right, over the largest element of the result: a result is
# rounded once, as are products of factors and rotated factors; float32 is no TF32.
ALLOWED = {"float64": 1e-12, "float32": 5e-6, "bfloat16": 2e-2, "float16": 3e-3}
# A gradient that is added to begins with this number.
PRESENT = 1.0


def contiguous(values: Tensor) -> Tensor:
    return values


def transposed(values: Tensor) -> Tensor:
    """The sample is the fastest index."""
    return values.t().contiguous().t()


def stepped(values: Tensor) -> Tensor:
    """Every second column, NaN between."""
    whole = values.new_full((values.shape[0], 2 * values.shape[1] + 1), math.nan)
    whole[:, 1::2] = values
    return whole[:, 1::2]


def offset(values: Tensor) -> Tensor:
    """Contiguous, at an address that is no multiple of a vector's; NaN before and after."""
    whole = values.new_full((values.numel() + 6,), math.nan)
    whole[3:-3] = values.flatten()
    return whole[3:-3].view(values.shape)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    made.__name__: made for made in (contiguous, transposed, stepped, offset)
}


@functools.cache
def all_calls() -> dict[str, list[Call]]:
    """By the name of the operation."""
    found: dict[str, list[Call]] = {}
    for call in calls():
        found.setdefault(call.operation, []).append(call)
    return found


def call_named(operation: str, case: str) -> Call:
    return next(call for call in all_calls()[operation] if call.case == case)


def why_not(call: Call, backend: str, dtype: str, device: torch.device) -> str:
    """Why the backend cannot serve the call, "" where it can."""
    return backends.why_not(backend, call.registered, device, getattr(torch, dtype)) or ""


def check(call: Call, backend: str, dtype: str, device: torch.device) -> list[dict]:
    """A row for each result: the largest error over the largest element, and what is allowed."""
    generator = torch.Generator().manual_seed(0)
    rounded = [_random(each, dtype, generator) for each in call.operands]
    expected, cotangents = _expected(call, rounded, dtype, generator)
    operands = [
        LAYOUTS[each.layout](values.to(device))
        for each, values in zip(call.operands, rounded, strict=True)
    ]
    with ntensor.use_backend(backend):
        got = _results(call.function, operands, [c.to(device) for c in cotangents], call)
    rows = []
    for number, (name, wanted) in enumerate(expected.items()):
        error = _error(got[number], wanted)
        row = {"operation": call.operation, "case": call.case, "backend": backend, "dtype": dtype}
        row |= {"result": name, "error": error, "allowed": ALLOWED[dtype]}
        rows.append(row | {"status": "right" if error <= ALLOWED[dtype] else "wrong"})
    return rows


def _random(operand: Operand, dtype: str, generator: torch.Generator) -> Tensor:
    values = torch.randn(operand.shape, generator=generator, dtype=torch.float64)
    return values.mul_(operand.scale).to(getattr(torch, dtype))


def _expected(
    call: Call, operands: list[Tensor], dtype: str, generator: torch.Generator
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The results in float64, named, and the cotangents of the outputs."""
    leaves = [operand.double().requires_grad_() for operand in operands]
    outputs = _in_list(call.definition(*leaves))
    cotangents = [_random(Operand(tuple(out.shape)), dtype, generator) for out in outputs]
    gradients = torch.autograd.grad(
        outputs, leaves, [c.double() for c in cotangents], materialize_grads=True
    )
    named = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    named |= {f"gradient {i}": gradient for i, gradient in enumerate(gradients)}
    if call.accumulates:
        named["gradient 0"] = named["gradient 0"] + PRESENT
    return named, cotangents


def _results(
    function: Callable, operands: list[Tensor], cotangents: list[Tensor], call: Call
) -> list[Tensor]:
    leaves = [operand.detach().requires_grad_() for operand in operands]
    if call.accumulates:
        leaves[0].grad = torch.full_like(leaves[0], PRESENT)
    outputs = _in_list(function(*leaves))
    torch.autograd.backward(outputs, cotangents)
    gradients = [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves]
    return [*(output.detach() for output in outputs), *gradients]


def _in_list(outputs: Tensor | tuple | list) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _error(got: Tensor, wanted: Tensor) -> float:
    """Infinite where a shape is wrong, or a number is none."""
    if got.shape != wanted.shape:
        return math.inf
    error = (got.double().cpu() - wanted).abs().max().item()
    size = wanted.abs().max().item()
    found = error / size if size else error
    return found if math.isfinite(found) else math.inf
