"""The raw operations: the kinds of their arguments, and their values in float64."""

import math
from typing import Any, NamedTuple

import torch


class Call(NamedTuple):
    name: str
    arguments: list[Any]
    backend: str | None


# The kind of each argument, in the order of the schema.
KINDS = {
    "synthesis": ("factors",),
    "synthesis_grads": ("feature", "factors", "needs"),
    "synthesis_projection": ("core", "factors"),
    "synthesis_projection_with_mean": ("core", "factors"),
    "projection_factor_grads": ("core", "grad", "grad_mean", "factors", "needs"),
    "projection_core_grad": ("grad", "grad_mean", "factors"),
    "projection_core_grad_": ("core", "grad", "grad_mean", "factors"),
    "grouped_projection": ("core", "factors", "groups"),
    "grouped_projection_factor_grads": ("core", "grad", "factors", "groups", "needs"),
    "grouped_projection_core_grad": ("grad", "factors", "groups"),
    "rotation": ("y", "R", "layout"),
    "rotation_matrix_grad": ("turned", "y", "layout"),
    "rotated_synthesis": ("z_exp", "z_id", "R", "layout"),
    "rotated_synthesis_grads": ("rotated", "z_exp", "z_id", "R", "layout", "three"),
}


def features(factors):
    y = factors[0]
    for z in factors[1:]:
        y = torch.einsum("sa,sb->sab", y, z).reshape(y.shape[0], y.shape[1] * z.shape[1])
    return y


def feature_grad(grad, factors, mode):
    """`(n, k_m)`: in the place of a factor each of its unit vectors."""
    columns = [torch.zeros_like(factors[mode]) for _ in range(factors[mode].shape[1])]
    for place, column in enumerate(columns):
        column[:, place] = 1
        y = features([*factors[:mode], column, *factors[mode + 1 :]])
        columns[place] = torch.einsum("sk,sk->s", grad, y)
    return torch.stack(columns, 1) if columns else torch.zeros_like(factors[mode])


def constant_lead(factors):
    lead = factors[0]
    return [torch.full_like(lead, 1 / max(1, lead.shape[1])), *factors[1:]]


def rotate(y, R, layout):
    n, K = y.shape
    if layout == "row":
        return torch.einsum("sab,sbj->saj", R, y.reshape(n, 3, K // 3)).reshape(n, K)
    return torch.einsum("sab,sjb->sja", R, y.reshape(n, K // 3, 3)).reshape(n, K)


def matrix_grad(grad, y, layout):
    n, K = y.shape
    if layout == "row":
        return torch.einsum("saj,sbj->sab", grad.reshape(n, 3, K // 3), y.reshape(n, 3, K // 3))
    return torch.einsum("sja,sjb->sab", grad.reshape(n, K // 3, 3), y.reshape(n, K // 3, 3))


def side_by_side(parts, n):
    return torch.cat(parts, 1) if parts else torch.zeros(n, 0, dtype=torch.float64)


def expected(call):
    """The result in float64."""
    name, wide = call.name, [_double(argument) for argument in call.arguments]
    if name.startswith("grouped"):
        return [torch.cat([_of_group(name, *each) for each in _groups(name, wide)])]
    if name == "synthesis":
        return [features(*wide)]
    if name == "synthesis_grads":
        grad, z, needs = wide
        parts = [feature_grad(grad, z, mode) for mode, need in enumerate(needs) if need]
        return [side_by_side(parts, z[0].shape[0])]
    if name.startswith("synthesis_projection"):
        core, z = wide
        matrix = core.reshape(
            core.shape[0], core[:1].numel() if len(core) else math.prod(core.shape[1:])
        )
        outputs = [z, constant_lead(z)] if name.endswith("mean") else [z]
        return [torch.einsum("sk,xk->sx", features(each), matrix) for each in outputs]
    if name == "projection_factor_grads":
        return [factor_grads(*wide)]
    if name.startswith("projection_core_grad"):
        grad, grad_mean, z = wide[-3:]
        total = 0 if name == "projection_core_grad" else wide[0]
        for each, lead in ((grad, z), (grad_mean, constant_lead(z))):
            if each is not None:
                part = torch.einsum("sx,sk->xk", each, features(lead))
                total = total + part.reshape(each.shape[1], *(factor.shape[1] for factor in z))
        return [total]
    if name == "rotation":
        return [rotate(*wide)]
    if name == "rotation_matrix_grad":
        return [matrix_grad(*wide)]
    if name == "rotated_synthesis":
        z_exp, z_id, R, layout = wide
        return [rotate(features([z_exp, z_id]), R, layout)]
    grad, z_exp, z_id, R, layout, needs = wide
    back, z = rotate(grad, R.mT, layout), [z_exp, z_id]
    parts = [feature_grad(back, z, mode) for mode in range(2) if needs[mode]]
    if needs[2]:
        parts.append(matrix_grad(grad, features(z), layout).reshape(len(grad), 9))
    return [side_by_side(parts, len(grad))]


def _groups(name, wide):
    """The arguments of each group, in the order core, grad, factors, needs; None for the absent."""
    of = dict(zip(KINDS[name], wide, strict=True))
    parts = [
        tensor.tensor_split(of["groups"])
        for tensor in (of.get("core"), of.get("grad"), *of["factors"])
        if tensor is not None
    ]
    for group in zip(*parts, strict=True):
        rest = list(group)
        core = rest.pop(0) if "core" in of else None
        grad = rest.pop(0) if "grad" in of else None
        yield core, grad, rest, of.get("needs")


def _of_group(name, core, grad, z, needs):
    if core is None:
        whole = torch.einsum("sx,sk->xk", grad, features(z))
        return whole.reshape(grad.shape[1], *(factor.shape[1] for factor in z))
    if grad is None:
        return torch.einsum(
            "sk,xk->sx", features(z), core.reshape(len(core), math.prod(core.shape[1:]))
        )
    return factor_grads(core, grad, None, z, needs)


def factor_grads(core, grad, grad_mean, z, needs):
    matrix = core.reshape(core.shape[0], math.prod(core.shape[1:]))
    parts = []
    for mode, need in enumerate(needs):
        if need:
            part = torch.zeros_like(z[mode])
            if grad is not None:
                part = part + feature_grad(torch.einsum("sx,xk->sk", grad, matrix), z, mode)
            if grad_mean is not None and mode > 0:
                wide = torch.einsum("sx,xk->sk", grad_mean, matrix)
                part = part + feature_grad(wide, constant_lead(z), mode)
            parts.append(part)
    return side_by_side(parts, z[0].shape[0])


def _double(value):
    if isinstance(value, list):
        return [_double(each) for each in value]
    return value.double() if isinstance(value, torch.Tensor) else value
