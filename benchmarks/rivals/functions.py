"""Hand-written autograd Functions over `torch.mm`: what a careful PyTorch user can reach.

`mode` says what happens to the core's gradient: "fresh" returns a new one, "adds" adds into
`core_grad` by `addmm_`, "overwrites" writes it by `out=`; the last two return None for the core.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.problem import khatri_rao


def write_core_grad(mode: str, core_grad: Tensor | None, left: Tensor, right: Tensor):
    if mode == "fresh":
        return torch.mm(left, right)
    if mode == "adds":
        core_grad.addmm_(left, right)
    else:
        torch.mm(left, right, out=core_grad)
    return None


def factor_grads_of_rows(product_grad: Tensor, factors: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients of all factors `(n, k_m)` from that of their product `(n, K)`."""
    grads = []
    for m in range(len(factors) - 1):
        product_grad = product_grad.reshape(len(product_grad), factors[m].shape[1], -1)
        rest = khatri_rao(factors[m + 1 :])
        grads.append(torch.bmm(product_grad, rest.unsqueeze(2)).squeeze(2))
        product_grad = torch.bmm(factors[m].unsqueeze(1), product_grad).squeeze(1)
    return [*grads, product_grad]


def factor_grads_of_columns(product_grad: Tensor, factors: tuple[Tensor, ...]) -> list[Tensor]:
    """The same for factors `(k_m, n)` and a product gradient `(K, n)`."""
    grads = []
    for m in range(len(factors) - 1):
        product_grad = product_grad.view(factors[m].shape[0], -1, product_grad.shape[-1])
        rest = khatri_rao(factors[m + 1 :], columns=True)
        grads.append((product_grad * rest).sum(1))
        product_grad = (product_grad * factors[m].unsqueeze(1)).sum(0)
    return [*grads, product_grad]


class ProductMatmul(torch.autograd.Function):
    """Product formed once and kept; `order` is "linear" (rows, output `(n, k_x)`), "rows" or
    "columns" (output `(k_x, n)`)."""

    @staticmethod
    def forward(ctx, order, mode, core_grad, core, *factors):
        product = khatri_rao(factors, columns=order == "columns")
        ctx.order, ctx.mode, ctx.core_grad = order, mode, core_grad
        ctx.save_for_backward(core, product, *factors)
        core = core.flatten(1)
        if order == "linear":
            return torch.nn.functional.linear(product, core)
        return torch.mm(core, product if order == "columns" else product.t())

    @staticmethod
    def backward(ctx, grad):
        core, product, *factors = ctx.saved_tensors
        columns = ctx.order == "columns"
        grad_columns = grad.t() if ctx.order == "linear" else grad
        core_grad, grads = None, [None] * len(factors)
        if ctx.needs_input_grad[3]:
            buffer = None if ctx.core_grad is None else ctx.core_grad.flatten(1)
            core_grad = write_core_grad(
                ctx.mode, buffer, grad_columns, product.t() if columns else product
            )
        if not any(ctx.needs_input_grad[4:]):
            pass
        elif columns:
            grads = factor_grads_of_columns(torch.mm(core.flatten(1).t(), grad), factors)
        else:
            grads = factor_grads_of_rows(torch.mm(grad_columns.t(), core.flatten(1)), factors)
        return None, None, None, None if core_grad is None else core_grad.view_as(core), *grads


class HoistedMatmul(torch.autograd.Function):
    """Leading factor applied after the product: `x = sum_l z_1[l] (core_l W)`, all `core_l W` by
    one product; with `mean` also their mean. Factors `(k_m, n)`, outputs `(k_x, n)`."""

    @staticmethod
    def forward(ctx, mean, mode, core_grad, core, leading, *rest):
        weights = khatri_rao(rest, columns=True)
        slices = torch.mm(core.view(-1, len(weights)), weights).view(len(core), len(leading), -1)
        ctx.mode, ctx.core_grad = mode, core_grad
        ctx.save_for_backward(core, leading, slices, weights, *rest)
        output = (slices * leading).sum(1)
        return (output, slices.mean(1)) if mean else output

    @staticmethod
    def backward(ctx, grad, grad_mean=None):
        core, leading, slices, weights, *rest = ctx.saved_tensors
        scaled = grad.unsqueeze(1) * leading
        if grad_mean is not None:
            scaled += grad_mean.unsqueeze(1) / len(leading)
        scaled = scaled.view(-1, grad.shape[1])
        core_grad, grads = None, [None] * (1 + len(rest))
        if ctx.needs_input_grad[3]:
            buffer = None if ctx.core_grad is None else ctx.core_grad.view(-1, len(weights))
            core_grad = write_core_grad(ctx.mode, buffer, scaled, weights.t())
        if any(ctx.needs_input_grad[4:]):
            leading_grad = (slices * grad.unsqueeze(1)).sum(0)
            weights_grad = torch.mm(core.view(-1, len(weights)).t(), scaled)
            grads = [leading_grad, *factor_grads_of_columns(weights_grad, tuple(rest))]
        return None, None, None, None if core_grad is None else core_grad.view_as(core), *grads


class Synthesis(torch.autograd.Function):
    """Two factors; their gradients by batched products, without `(n, K)` temporaries."""

    @staticmethod
    def forward(ctx, *factors):
        ctx.save_for_backward(*factors)
        return khatri_rao(factors)

    @staticmethod
    def backward(ctx, grad):
        return tuple(factor_grads_of_rows(grad, ctx.saved_tensors))


class RowRotatedSynthesis(torch.autograd.Function):
    """Row layout with 3 dividing k_exp: the rotation acts on `z_exp` alone."""

    @staticmethod
    def forward(ctx, z_exp, z_id, matrix):
        ctx.save_for_backward(z_exp, z_id, matrix)
        rotated = torch.bmm(matrix, z_exp.view(len(z_exp), 3, -1)).flatten(1)
        return (rotated.unsqueeze(2) * z_id.unsqueeze(1)).flatten(1)

    @staticmethod
    def backward(ctx, grad):
        z_exp, z_id, matrix = ctx.saved_tensors
        blocks = z_exp.view(len(z_exp), 3, -1)
        rotated = torch.bmm(matrix, blocks).flatten(1)
        grad = grad.view(len(grad), z_exp.shape[1], -1)
        rotated_grad = torch.bmm(grad, z_id.unsqueeze(2)).view_as(blocks)
        z_id_grad = torch.bmm(rotated.unsqueeze(1), grad).squeeze(1)
        z_exp_grad = torch.bmm(matrix.transpose(1, 2), rotated_grad).flatten(1)
        return z_exp_grad, z_id_grad, torch.bmm(rotated_grad, blocks.transpose(1, 2))


class ColumnRotatedSynthesis(torch.autograd.Function):
    """Column layout: the feature is formed again in backward instead of kept."""

    @staticmethod
    def forward(ctx, z_exp, z_id, matrix):
        ctx.save_for_backward(z_exp, z_id, matrix)
        feature = khatri_rao((z_exp, z_id)).view(len(z_exp), -1, 3)
        return torch.bmm(feature, matrix.transpose(1, 2)).flatten(1)

    @staticmethod
    def backward(ctx, grad):
        z_exp, z_id, matrix = ctx.saved_tensors
        grad = grad.view(len(grad), -1, 3)
        feature = khatri_rao((z_exp, z_id)).view_as(grad)
        matrix_grad = torch.bmm(grad.transpose(1, 2), feature)
        feature_grad = torch.bmm(grad, matrix).flatten(1)
        z_exp_grad, z_id_grad = factor_grads_of_rows(feature_grad, (z_exp, z_id))
        return z_exp_grad, z_id_grad, matrix_grad
