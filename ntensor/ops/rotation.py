"""Rotation of a feature seen as a `3 x K/3` matrix, alone and fused with the synthesis."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence, Set
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from ntensor import backends

from . import checks, direct
from .forms import Form, Slot, Values, split_columns
from .operation import Operation
from .synthesis import SYNTHESIS, fake_joined


def rotation(y: Tensor, R: Tensor, layout: str = "column", *, backend: str | None = None) -> Tensor:
    r"""Multiplies each feature, reshaped to a `3 x K/3` matrix, by `R` from the left.

    .. math:: x_{(a, j)} = \sum_{b=1}^{3} R[a, b]\, y_{(b, j)}, \qquad
              (a, j) \mapsto 3 j + a \ \text{("column")}, \quad j + a K / 3 \ \text{("row")}

    This is the feature rotation of section 3.4 of the paper, which does not say how the vector
    becomes a matrix; its appendix stacks columns, hence the default. The two layouts are different
    models. `R` may be any `3 x 3` matrix; whether it is orthogonal is not checked.

    Args:
        y (Tensor[n, K]): 3 divides `K`; any strides; float32, float64, bfloat16 or float16.
        R (Tensor[n, 3, 3]): one matrix per sample, any strides, of the dtype of `y`.
        layout (str): `"column"` or `"row"`.
        backend (str or None): `"native"`, `"triton"`, `"reference"`; None: as in
            `ntensor.use_backend`, or automatic.

    Returns:
        Tensor[n, K]: in the dtype of `y`. Differentiable in `y` and `R` any number of times.

    Raises:
        TypeError: no tensor, or a dtype that is unsupported or differs between `y` and `R`.
        ValueError: a wrong rank or extent, `K` not divisible by 3, an unknown layout, two devices.
        RuntimeError: the requested backend cannot serve; the message gives the reason.

    Example:
        >>> import torch, ntensor
        >>> swap = torch.tensor([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> ntensor.rotation(torch.arange(6.0).reshape(1, 6), swap)
        tensor([[1., 0., 2., 4., 3., 5.]])
        >>> ntensor.rotation(torch.arange(6.0).reshape(1, 6), swap, layout="row")
        tensor([[2., 3., 0., 1., 4., 5.]])
    """
    if backend is None and not torch.compiler.is_compiling():
        found = direct.rotate(y, R, layout)
        if found is not None:
            return found
    result: Tensor
    if checks.overridden((y, R)):
        result = handle_torch_function(rotation, (y, R), y, R, layout, backend=backend)
        return result
    values = _checked("rotation", ("y", "R"), (y, R), ("K",))
    checks.rotatable("rotation", values[0].shape[1], layout)
    result = ROTATION(values, layout, backends.requested(backend))
    return result


def rotated_synthesis(
    z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str = "column", *, backend: str | None = None
) -> Tensor:
    r"""`rotation(synthesis(z_exp, z_id), R, layout)`, without storing the unrotated feature.

    .. math:: x_{(a, j)} = \sum_{b=1}^{3} R[a, b]\, (z_{exp} \otimes z_{id})_{(b, j)}

    with `(a, j)` as in `ntensor.rotation`: the second stream of section 3.4 of the paper. In the
    layout "row" with 3 dividing `k_exp` the rotation acts on `z_exp` alone, and in "column" with 3
    dividing `k_id` on `z_id` alone: `synthesis((R (x) I) z_exp, z_id)` is then what is computed, or
    `synthesis(z_exp, (I (x) R) z_id)`.

    Args:
        z_exp (Tensor[n, k_exp]): any strides; float32, float64, bfloat16 or float16.
        z_id (Tensor[n, k_id]): any strides, of the dtype of `z_exp`; 3 divides `k_exp k_id`.
        R (Tensor[n, 3, 3]): one matrix per sample, any strides, of the dtype of `z_exp`.
        layout (str): `"column"` or `"row"`.
        backend (str or None): `"native"`, `"triton"`, `"reference"`; None: as in
            `ntensor.use_backend`, or automatic.

    Returns:
        Tensor[n, K]: with `K = k_exp k_id`, in the dtype of `z_exp`. Differentiable in all three
        any number of times.

    Raises:
        TypeError: no tensor, or a dtype that is unsupported or differs between operands.
        ValueError: a wrong rank or extent, `K` not divisible by 3, an unknown layout, two devices.
        RuntimeError: the requested backend cannot serve; the message gives the reason.

    Example:
        >>> import torch, ntensor
        >>> z_exp, z_id = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 10.0]])
        >>> ntensor.rotated_synthesis(z_exp, z_id, 2 * torch.eye(3)[None])
        tensor([[ 2., 20.,  4., 40.,  6., 60.]])
    """
    given = (z_exp, z_id, R)
    if backend is None and not torch.compiler.is_compiling():
        found = direct.synthesise_rotated(given, layout)
        if found is not None:
            return found
    result: Tensor
    if checks.overridden(given):
        result = handle_torch_function(rotated_synthesis, given, *given, layout, backend=backend)
        return result
    values = _checked("rotated_synthesis", ("z_exp", "z_id", "R"), given, ("k_exp", "k_id"))
    z_exp, z_id, R = values
    k_exp = z_exp.shape[1]
    checks.rotatable("rotated_synthesis", k_exp * z_id.shape[1], layout)
    backend = backends.requested(backend)
    if layout == "row" and k_exp % 3 == 0 and z_exp.device.type != "cpu":
        # Kernels of GPUs rotate the whole feature.
        result = SYNTHESIS((ROTATION((z_exp, R), layout, backend), z_id), backend)
    else:
        result = ROTATED_SYNTHESIS(values, layout, backend)
    return result


def _checked(
    operation: str, names: tuple[str, ...], values: tuple[Tensor, ...], symbols: tuple[str, ...]
) -> Any:
    checks.tensors(operation, names, values)
    cast = checks.autocast(values)
    _check_operands(operation, names, cast, symbols)
    return cast


def _check_operands(
    operation: str, names: Sequence[str], values: Sequence[Tensor], symbols: Sequence[str]
) -> None:
    """Matrices of these widths, and `R` at the end."""
    checks.alike(operation, names, values)
    checks.matrices(operation, names, values[:-1], symbols)
    checks.rotations(operation, values[-1], values[0].shape[0])


def _at_once(gradients: Callable[..., Any]) -> Callable[..., Any]:
    """`Operation.at_once` by a direct call, which no backend is named for."""

    def serve(
        tensors: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        needs: Sequence[bool],
        layout: str,
        backend: str | None,
    ) -> Any:
        return gradients(tensors, cotangents[0], layout, needs) if backend is None else None

    return serve


class RotationForm(Form):
    """`s(G, y, R) = <G, rotation(y, R)>`; `options` are the layout and the backend."""

    heads = ("grad", "y", "R")

    def axes(self, slot: Slot, factors: int) -> tuple[Hashable | None, ...]:
        return ("n", None, None) if slot == "R" else ("n", None)

    def partials(
        self, values: Values, wanted: Set[Slot], options: tuple[Any, ...]
    ) -> dict[Slot, Tensor]:
        grad, y, R = values["grad"], values["y"], values["R"]
        found: dict[Slot, Tensor] = {}
        if "grad" in wanted:
            found["grad"] = ROTATION((y, R), *options)
        if "y" in wanted:
            assert R is not None
            found["y"] = ROTATION((grad, R.transpose(1, 2)), *options)
        if "R" in wanted:
            found["R"] = ROTATION_MATRIX_GRAD((grad, y), *options)
        return found


class RotatedSynthesisForm(Form):
    """`s(G, z_exp, z_id, R) = <G, rotated_synthesis(z_exp, z_id, R)>`."""

    heads = ("grad", "z_exp", "z_id", "R")

    def axes(self, slot: Slot, factors: int) -> tuple[Hashable | None, ...]:
        return ("n", None, None) if slot == "R" else ("n", None)

    def partials(
        self, values: Values, wanted: Set[Slot], options: tuple[Any, ...]
    ) -> dict[Slot, Tensor]:
        grad, operands = values["grad"], [values[head] for head in self.heads[1:]]
        layout, backend = options
        found: dict[Slot, Tensor] = {}
        if "grad" in wanted:
            found["grad"] = ROTATED_SYNTHESIS(operands, layout, backend)
        needs = [head in wanted for head in self.heads[1:]]
        if any(needs):
            joined = ROTATED_SYNTHESIS_GRADS((grad, *operands), layout, needs, backend)
            like: Any = {head: values[head] for head in self.heads[1:] if head in wanted}
            found |= split_columns(joined, like)
        return found


def _check_rotation(operation: str, y: Tensor, R: Tensor, layout: str) -> None:
    _check_operands(operation, ("y", "R"), (y, R), ("K",))
    checks.rotatable(operation, y.shape[1], layout)


def _check_matrix_grad(operation: str, grad: Tensor, y: Tensor, layout: str) -> None:
    checks.alike(operation, ("grad", "y"), (grad, y))
    checks.matrices(operation, ("y",), (y,), ("K",))
    checks.fits(operation, "grad", grad, tuple(y.shape), y)
    checks.rotatable(operation, y.shape[1], layout)


def _check_rotated(operation: str, z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str) -> None:
    _check_operands(operation, ("z_exp", "z_id", "R"), (z_exp, z_id, R), ("k_exp", "k_id"))
    checks.rotatable(operation, z_exp.shape[1] * z_id.shape[1], layout)


def _check_rotated_grads(
    operation: str,
    grad: Tensor,
    z_exp: Tensor,
    z_id: Tensor,
    R: Tensor,
    layout: str,
    needs: list[bool],
) -> None:
    _check_rotated(operation, z_exp, z_id, R, layout)
    checks.fits(operation, "grad", grad, (z_exp.shape[0], z_exp.shape[1] * z_id.shape[1]), z_exp)
    checks.needs(operation, needs, 3)


def _fake_grads(
    grad: Tensor, z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str, needs: list[bool]
) -> Tensor:
    return fake_joined(z_exp, [z_exp.shape[1], z_id.shape[1], 9], needs)


def _grads_flops(grad: Any, z_exp: Any, z_id: Any, R: Any, layout: str, needs: list[bool]) -> int:
    """The rotated gradient once for both factors; the unrotated feature for that of `R`."""
    both, of_R = any(needs[:2]), needs[2]
    return (6 * both + 2 * sum(needs[:2]) + 7 * of_R) * z_exp[0] * z_exp[1] * z_id[1]


_ROTATION_FORM = RotationForm()
_ROTATED_SYNTHESIS_FORM = RotatedSynthesisForm()

ROTATION = Operation(
    _ROTATION_FORM,
    "rotation(Tensor y, Tensor R, str layout, str? backend=None) -> Tensor",
    stem="rotation",
    returns=("grad",),
    check=_check_rotation,
    fake=lambda y, R, layout: y.new_empty(y.shape),
    at_once=_at_once(lambda *arguments: direct.rotation_gradients(*arguments)),
    direct=lambda tensors, layout: direct.rotate(*tensors, layout),
    flops=lambda y, R, layout: 6 * math.prod(y),
)

ROTATION_MATRIX_GRAD = Operation(
    _ROTATION_FORM,
    "rotation_matrix_grad(Tensor grad, Tensor y, str layout, str? backend=None) -> Tensor",
    stem="rotation",
    returns=("R",),
    check=_check_matrix_grad,
    fake=lambda grad, y, layout: y.new_empty((y.shape[0], 3, 3)),
    flops=lambda grad, y, layout: 6 * math.prod(y),
)

ROTATED_SYNTHESIS = Operation(
    _ROTATED_SYNTHESIS_FORM,
    "rotated_synthesis(Tensor z_exp, Tensor z_id, Tensor R, str layout, str? backend=None) "
    "-> Tensor",
    stem="rotation",
    returns=("grad",),
    check=_check_rotated,
    fake=lambda z_exp, z_id, R, layout: z_exp.new_empty(
        (z_exp.shape[0], z_exp.shape[1] * z_id.shape[1])
    ),
    at_once=_at_once(lambda *arguments: direct.rotated_gradients(*arguments)),
    direct=lambda tensors, layout: direct.synthesise_rotated(tensors, layout),
    flops=lambda z_exp, z_id, R, layout: 7 * z_exp[0] * z_exp[1] * z_id[1],
)

ROTATED_SYNTHESIS_GRADS = Operation(
    _ROTATED_SYNTHESIS_FORM,
    "rotated_synthesis_grads(Tensor grad, Tensor z_exp, Tensor z_id, Tensor R, str layout, "
    "bool[] needs, str? backend=None) -> Tensor",
    stem="rotation",
    returns=("z_exp", "z_id", "R"),
    check=_check_rotated_grads,
    fake=_fake_grads,
    flops=_grads_flops,
)
