"""`torch.einsum` for forms that are linear in each of a tensor and some matrices, per sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from ntensor import backends
from ntensor.backends import DTYPES
from ntensor.backends._torch import is_transformed

from . import checks, direct
from .arranged import arranged, by_rows
from .dispatch import differentiated, plain
from .equations import Direct, DirectGroups, Equation, Labels, classify, direct_way, read_arguments
from .groups import GROUPED_PROJECTION
from .mttkrp import at_once, in_memory_order, rows_of_mode
from .projection import PROJECTION_CORE_GRAD
from .synthesis import SYNTHESIS, synthesise_directly


class EinsumPath(NamedTuple):
    """How `einsum` computes an equation.

    Attributes:
        kernel (str): `"synthesis_projection"`, `"mttkrp"`, `"projection_core_grad"`, `"synthesis"`,
            `"grouped_projection"` or `"torch.einsum"`.
        reason (str): why `torch.einsum` serves; empty where a kernel does.
        saved_bytes (int): of the product of all matrices of all samples, which a chain of matrix
            products forms, and the kernel does not.
    """

    kernel: str
    reason: str
    saved_bytes: int


def einsum(*arguments: Any) -> Tensor:
    r"""Sums products of elements of the operands over the labels that the output lacks.

    The syntax is that of `torch.einsum`: `einsum(equation, *operands)`, with spaces, an ellipsis
    and an implicit output, or `einsum(operand, labels, ..., output_labels)`. These forms run on the
    kernels, in any order of operands and labels, with any number of matrices from two on; `b` and
    `r` stand for one or several labels, the ellipsis among them, and each takes a factor with these
    labels alone besides:

    | equation | kernel |
    |---|---|
    | `"bi,bj,oij->bo"`, `"bi,bj,ijo->bo"`, `"bi,bj,ij->b"`, `"ijk,jr,kr->ir"` | `synthesis_projection`, `mttkrp` |
    | `"ir,jr,kr->ijk"`: a CP reconstruction, the gradient of a core | `projection_core_grad` |
    | `"bi,bj->bij"` | `synthesis` |
    | `"big,bjg,oijg->bog"`: a core for each `g` | `grouped_projection` |

    Everything else goes to `torch.einsum` as it is; `einsum_path` says why. A core that is dense is
    read as it lies, permuted or not; where the output is not its first mode in memory, and that is
    cheaper, a kernel makes a copy with this mode in front, of at most 32 MiB. Another core, a slice
    or an expanded tensor, is copied once, and so is a large matrix of a column a sample.

    Args:
        arguments: an equation and tensors, or tensors and lists of labels in turn.

    Returns:
        Tensor: that of `torch.einsum`, up to its strides. Differentiable in every operand, any
        number of times.

    Raises:
        RuntimeError, TypeError, ValueError: as `torch.einsum`.

    Example:
        >>> import torch, ntensor
        >>> weight = torch.ones(2, 3, 4)
        >>> ntensor.einsum("bi,bj,ijo->bo", torch.ones(5, 2), torch.ones(5, 3), weight).shape
        torch.Size([5, 4])
    """  # noqa: E501
    equation, operands = read_arguments(arguments)
    if not torch.compiler.is_compiling():
        found = _directly(equation, operands, arguments)
        if found is not None:
            return found
    if checks.overridden(operands) and not checks.overrides_torch(operands):
        taken: Tensor = handle_torch_function(einsum, operands, *arguments)
        return taken
    call = _recognise(equation, operands)
    return torch.einsum(*arguments) if isinstance(call, str) else call.compute()


def einsum_path(*arguments: Any) -> EinsumPath:
    """Which kernel computes an equation, or why none does.

    Args:
        arguments: as of `einsum`.

    Returns:
        EinsumPath

    Example:
        >>> import torch, ntensor
        >>> operands = torch.ones(5, 2), torch.ones(5, 3), torch.ones(4, 2, 3)
        >>> ntensor.einsum_path("bi,bj,oij->bo", *operands)
        EinsumPath(kernel='synthesis_projection', reason='', saved_bytes=120)
    """
    equation, operands = read_arguments(arguments)
    call = _recognise(equation, operands)
    return EinsumPath("torch.einsum", call, 0) if isinstance(call, str) else call.path()


class _Call:
    """A recognised equation and its operands, cast where autocast says so."""

    def __init__(self, form: Equation, operands: Sequence[Tensor], sizes: dict[Any, int]) -> None:
        self.form, self.terms, self.output = form, form.terms, form.output
        self.operands, self.sizes = operands, sizes
        self.n = math.prod([self.sizes[label] for label in form.batch])
        self.groups = math.prod([self.sizes[label] for label in form.groups])

    def compute(self) -> Tensor:
        backend = backends.requested(None)
        if self.form.core is None:
            first, *others = self.matrices(self.form.labels)
            if self.form.summed:
                result: Tensor = PROJECTION_CORE_GRAD((first, None, *others), backend)
                return self.in_order(result, self.form.labels, merged=False)
            given = (first, *others)
            found = None if torch.compiler.is_compiling() else synthesise_directly(given)
            # The public function would cast to autocast's dtype.
            result = SYNTHESIS(given, backend) if found is None else found
            return self.in_order(result, (*self.form.batch, *self.form.labels))
        if self.form.groups:
            return self.compute_groups(backend)
        core, order, mode = self.core()
        rest = self.rest(order)
        merged = len(rest) != 1 or len(self.form.batch) != 1
        others = self.matrices([label for label in order if label not in rest])
        if mode and self.by_columns and self.output == (*rest, *self.form.batch):
            turned = at_once(core, [factor.T for factor in others], mode, backend)
            if turned is not None:
                return self.in_order(turned, self.output, merged)
        found = None
        if not torch.compiler.is_compiling() and mode == 0:
            found = direct.project((core, *others), False)
        x = rows_of_mode(core, others, mode, backend) if found is None else found
        return self.in_order(x, (*self.form.batch, *rest), merged)

    @property
    def by_columns(self) -> bool:
        """Whether the samples are the last label of every matrix."""
        places = [place for place in self.form.matrices if place is not None]
        return all(self.terms[place][-1] in self.form.batch for place in places)

    def compute_groups(self, backend: str | None) -> Tensor:
        """Each group by its own core. These lie behind one another, so the tensor is copied where
        its first labels in memory are not those of the groups and then of the output."""
        assert self.form.core is not None
        groups, rest = self.form.groups, self.rest(self.form.labels)
        own = [label for label in self.form.labels if label not in rest]
        labels = (*groups, *rest, *own)
        core = _permuted(self.operands[self.form.core], self.terms[self.form.core], labels)
        k_x = math.prod([self.sizes[label] for label in rest])
        shape = (self.groups * k_x, *(self.sizes[label] for label in own))
        core = core.reshape(shape).contiguous()
        labels = (*groups, *self.form.batch, *rest)
        # No groups are one group of no samples and no outputs.
        x = GROUPED_PROJECTION((core, *self.matrices(own)), max(1, self.groups), backend)
        return self.in_order(x, labels)

    def path(self) -> EinsumPath:
        own = [
            self.sizes[label]
            for label, place in zip(self.form.labels, self.form.matrices, strict=True)
            if place is not None
        ]
        formed = self.n * math.prod(own) * self.operands[0].element_size()
        if self.form.core is None:
            kernel = "projection_core_grad" if self.form.summed else "synthesis"
            return EinsumPath(kernel, "", formed if self.form.summed else 0)
        if self.form.groups:
            return EinsumPath("grouped_projection", "", self.groups * formed)
        _, _, mode = self.core()
        return EinsumPath("mttkrp" if mode else "synthesis_projection", "", formed)

    def matrices(self, labels: Sequence[Any]) -> list[Tensor]:
        """Those of some labels, each `(n, k)`."""
        places = dict(zip(self.form.labels, self.form.matrices, strict=True))
        samples = (*self.form.groups, *self.form.batch)
        found = [self.rows(places[label], (*samples, label)) for label in labels]
        for place in self.form.scales:
            extents = [matrix.shape[1] for matrix in found]
            smallest = extents.index(min(extents))
            found[smallest] = found[smallest] * self.rows(place, samples)
        return found

    def rows(self, place: int | None, labels: Labels) -> Tensor:
        """An operand as `(n, ...)`, `labels` its own in that order."""
        assert place is not None
        operand = _permuted(self.operands[place], self.terms[place], labels)
        of_matrix = len(labels) > len(self.form.groups) + len(self.form.batch)
        if of_matrix and len(labels) == 2:
            return operand
        samples = self.groups * self.n
        return operand.reshape(samples, self.sizes[labels[-1]] if of_matrix else 1)

    def rest(self, labels: Sequence[Any]) -> Labels:
        """Those of the tensor's labels that the output has."""
        places = dict(zip(self.form.labels, self.form.matrices, strict=True))
        return tuple(label for label in labels if places[label] is None)

    def core(self) -> tuple[Tensor, Labels, int]:
        """The tensor, contiguous, those modes side by side that the output has merged into one;
        its labels before that; and the place of that mode."""
        assert self.form.core is not None
        core, labels = self.operands[self.form.core], self.terms[self.form.core]
        core, places = in_memory_order(core)
        labels = tuple([labels[place] for place in places])
        rest = self.rest(labels)
        mode = labels.index(rest[0]) if rest else 0
        if labels[mode : mode + len(rest)] != rest:
            order = (*rest, *(label for label in labels if label not in rest))
            core, labels, mode = _permuted(core, labels, order).contiguous(), order, 0
        if len(rest) == 1:
            return core, labels, mode
        shape = list(core.shape)
        shape[mode : mode + len(rest)] = [math.prod([self.sizes[label] for label in rest])]
        return core.reshape(shape), labels, mode

    def in_order(self, result: Tensor, labels: Labels, merged: bool = True) -> Tensor:
        """The result, whose dimensions these labels have when they are taken apart."""
        whole = result.reshape([self.sizes[label] for label in labels]) if merged else result
        return _permuted(whole, labels, self.output)


def _directly(equation: str, operands: Sequence[Any], arguments: Sequence[Any]) -> Tensor | None:
    """The result by the shortest way, which looks at no label; None where it is not open."""
    for operand in operands:
        if type(operand) is not Tensor and type(operand) is not torch.nn.Parameter:
            return None
    if checks.overridden(operands):
        return None  # a mode
    way = direct_way(equation, tuple([operand.dim() for operand in operands]))
    if isinstance(way, str):
        return torch.einsum(*arguments)
    if way is None:
        return None
    given = [operands[place] for place in way.operands]
    found: Tensor | None
    if isinstance(way, DirectGroups):
        if checks.recorded():
            return None
        orders = zip(given, way.orders, strict=True)
        given = [each if order is None else each.permute(order) for each, order in orders]
        found = direct.project_groups(given, 0)
        if found is None:
            found = _project_groups(checks.autocast(given))
        return found if found is None or way.output is None else found.permute(way.output)
    if way.mode is None:
        found = synthesise_directly(given)
        if found is None:
            return None
        return found.view(given[0].shape[0], *[factor.shape[1] for factor in given])
    return _of_mode(given, way)


def _of_mode(given: Sequence[Tensor], way: Direct) -> Tensor | None:
    """`(n, x)` or `(x, n)` of a tensor and the matrices of its other modes."""
    core, mode = given[0], way.mode
    assert mode is not None
    dense, columns = core.is_contiguous(), True in way.columns
    if differentiated(given):
        lies = mode == 0 and dense and not columns
        if not lies and _fits(given, way) and backends.requested(None) is None:
            found = arranged(given, way.columns, mode)
            if found is not None:
                return found if way.output_rows else found.T
    elif dense and mode and not way.output_rows and False not in way.columns:
        found = direct.mttkrp(core, given[1:], mode)
        if found is not None:
            return found
    if (columns or not (dense and way.output_rows)) and (is_transformed() or not plain(given)):
        return None  # somebody sees the views
    matrices = list(given[1:])
    if columns:
        pairs = zip(matrices, way.columns, strict=True)
        matrices = [by_rows(matrix, core) if turned else matrix for matrix, turned in pairs]
    if not dense:
        core, places = in_memory_order(core)
        matrices.insert(mode, core)
        matrices = [matrices[place] for place in places if place != mode]
        mode = places.index(mode)
    found = _rows(core, matrices, mode)
    if found is None and not checks.recorded():
        values = checks.autocast((core, *matrices))
        if checks.fit(values, mode):
            found = rows_of_mode(values[0], [*values[1:]], mode, backends.requested(None))
    return found if found is None or way.output_rows else found.T


def _fits(given: Sequence[Tensor], way: Direct) -> bool:
    """Whether the operands have the shapes, the dtype and the device of a projection."""
    core = given[0]
    mode, dtype, device = way.mode, core.dtype, core.device
    if dtype not in DTYPES or len(given) < 2:
        return False
    samples, place = -1, 0
    for matrix, turned in zip(given[1:], way.columns, strict=True):
        place += place == mode
        rows, extent = reversed(matrix.shape) if turned else matrix.shape
        if samples < 0:
            samples = rows
        if rows != samples or extent != core.shape[place]:
            return False
        if matrix.dtype is not dtype or matrix.device != device:
            return False
        place += 1
    return True


def _rows(core: Tensor, matrices: Sequence[Tensor], mode: int) -> Tensor | None:
    """`(n, x)` by the shortest way, None where it is not open."""
    if mode:
        return direct.mttkrp(core, matrices, mode, True)
    found: Tensor | None = direct.project((core, *matrices), False)
    return found


def _project_groups(values: Sequence[Tensor]) -> Tensor | None:
    """`(g, x, ...), (g, n, k_m)... -> (g, n, x)`; None where the shapes or dtypes do not fit."""
    groups, n = values[1].shape[:2]
    if any(len(each) != groups for each in values) or groups == 0:
        return None
    flat = [each.flatten(0, 1) for each in values]
    flat[0] = flat[0].contiguous()
    if not checks.fit(flat) or any(each.shape[1] != n for each in values[1:]):
        return None
    x: Tensor = GROUPED_PROJECTION(flat, groups, backends.requested(None))
    return x.view(groups, n, values[0].shape[1])


def _permuted(tensor: Tensor, labels: Labels, wanted: Labels) -> Tensor:
    if labels == wanted:
        return tensor
    return tensor.permute([labels.index(label) for label in wanted])


def _recognise(equation: str, operands: Sequence[Any]) -> _Call | str:
    """The call of a kernel, or why there is none."""
    if not all(isinstance(operand, Tensor) for operand in operands) or len(operands) < 2:
        return "a kernel takes two tensors or more"
    if checks.overrides_torch(operands):
        return "an operand has a `__torch_function__` of its own"
    if checks.recorded():
        return "torch.jit.trace records the call"
    sort = classify.__wrapped__ if torch.compiler.is_compiling() else classify
    form = sort(equation, tuple(operand.dim() for operand in operands))
    if isinstance(form, str):
        return form
    # A product without a sum is by elements, which autocast leaves in the widest dtype.
    by_elements = form.core is None and not form.summed
    operands = checks.autocast(operands, widest=by_elements)
    dtype, device = operands[0].dtype, operands[0].device
    for operand in operands:
        if operand.dtype is not dtype or dtype not in DTYPES:
            return "operands must have one dtype, float32, float64, bfloat16 or float16"
    for operand in operands:
        if operand.device != device:
            return "operands lie on several devices"
    sizes: dict[Any, int] = {}
    for term, operand in zip(form.terms, operands, strict=True):
        for label, size in zip(term, operand.shape, strict=True):
            if sizes.setdefault(label, size) != size:
                return f"the label {label} has several sizes"
    return _Call(form, operands, sizes)
