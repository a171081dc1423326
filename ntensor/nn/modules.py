"""Modules over the operations, one class each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ntensor import ops
from ntensor.ops import checks
from ntensor.ops.accumulate import ensure_grad


class MultilinearProjection(torch.nn.Module):
    r"""Projects the synthesis of `M` factors by a core tensor; linear in each of them.

    .. math:: x = \mathcal{C}_{(1)} (z_1 \otimes \dots \otimes z_M)

    Equations 2, 4 and 15 of the paper; see `ntensor.synthesis_projection`.

    The core is drawn from the uniform distribution of variance `1/K`, `K = k_1 ... k_M`, bounds
    `+-sqrt(3/K)`. An output is a sum of `K` terms, each an element of the core times a product of
    factor elements; if these products have second moment 1, the output has variance 1.

    Args:
        factor_sizes (sequence of int): `k_1, ..., k_M`, at least one.
        out_features (int): `k_x`.
        accumulate_core_grad (bool): backward adds into `core.grad`, as in
            `ntensor.synthesis_projection`. Forward creates `core.grad` where it is None, so with
            `zero_grad(set_to_none=False)` its memory is reused in every step. Call `zero_grad`
            before forward, not between forward and backward.
        device, dtype: of the core.

    Attributes:
        core (Parameter[k_x, k_1, ..., k_M]): stays contiguous under `Module.to` with any
            `memory_format`, which would permute the strides of a core of 4 or 5 dimensions.

    Example:
        >>> import torch, ntensor
        >>> layer = ntensor.nn.MultilinearProjection((2, 3), 5)
        >>> layer(torch.ones(4, 2), torch.ones(4, 3)).shape
        torch.Size([4, 5])
        >>> x, x_mean = layer(torch.ones(4, 2), torch.ones(4, 3), mean=True)
    """

    def __init__(
        self,
        factor_sizes: Sequence[int],
        out_features: int,
        accumulate_core_grad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        operation = "MultilinearProjection"
        self.factor_sizes = checks.sizes(operation, "factor_sizes", factor_sizes)
        self.out_features = checks.size(operation, "out_features", out_features)
        self.accumulate_core_grad = accumulate_core_grad
        checks.factor_count(operation, len(self.factor_sizes))
        shape = (self.out_features, *self.factor_sizes)
        checks.countable(operation, self.factor_sizes, k_x=self.out_features)
        self.core = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws a new core."""
        fan_in = math.prod(self.factor_sizes)
        if fan_in > 0:
            bound = math.sqrt(3 / fan_in)
            torch.nn.init.uniform_(self.core, -bound, bound)

    def forward(self, *factors: Tensor, mean: bool = False) -> Any:
        """Projects the factors.

        Args:
            factors (Tensor[n, k_m]): one for each of `factor_sizes`.
            mean (bool): return `x_mean` as well, with the leading factor replaced by `1/k_1`.

        Returns:
            Tensor[n, k_x], or with `mean` a tuple of two of them.
        """
        if self.accumulate_core_grad:
            self._prepare_core_grad()
        core: Tensor = self.core
        if "core" not in self._parameters:
            core = core.contiguous()  # the result of a parametrization
        project = ops.synthesis_projection_with_mean if mean else ops.synthesis_projection
        return project(core, *factors, accumulate_core_grad=self.accumulate_core_grad)

    def extra_repr(self) -> str:
        accumulate = ", accumulate_core_grad=True" if self.accumulate_core_grad else ""
        return f"factor_sizes={self.factor_sizes}, out_features={self.out_features}{accumulate}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MultilinearProjection:
        super()._apply(fn, recurse)
        core = self._parameters.get("core")
        if core is None:
            return self
        if not core.is_contiguous():
            core.data = core.data.contiguous()
        if core.grad is not None and not core.grad.is_contiguous():
            core.grad = core.grad.contiguous()
        return self

    def _prepare_core_grad(self) -> None:
        # Set by both FSDP versions on every module whose parameters they manage.
        if getattr(self, "_is_fsdp_managed_module", False):
            raise RuntimeError(
                "MultilinearProjection: accumulate_core_grad does not work under FSDP"
            )
        core = self.core
        if core.requires_grad and core.is_leaf and torch.is_grad_enabled():
            ensure_grad(core)


class FeatureRotation(torch.nn.Module):
    """`ntensor.rotation` as a module: rotates a feature seen as a `3 x K/3` matrix.

    Section 3.4 of the paper.

    Args:
        layout (str): `"column"` or `"row"`.

    Example:
        >>> import torch, ntensor
        >>> rotate = ntensor.nn.FeatureRotation()
        >>> rotate(torch.ones(2, 6), torch.eye(3).expand(2, 3, 3)).shape
        torch.Size([2, 6])
    """

    def __init__(self, layout: str = "column") -> None:
        super().__init__()
        checks.rotatable("FeatureRotation", 0, layout)
        self.layout = layout

    def forward(self, y: Tensor, R: Tensor) -> Tensor:
        """Rotates `y` (Tensor[n, K]) by `R` (Tensor[n, 3, 3])."""
        return ops.rotation(y, R, self.layout)

    def extra_repr(self) -> str:
        return f"layout={self.layout!r}"


class Bilinear(torch.nn.Bilinear):
    """`torch.nn.Bilinear` over `ntensor.bilinear`: same signature, initialisation and state dict.

    `ntensor.nn.convert` turns a `torch.nn.Bilinear` into one, in place.

    Args:
        in1_features, in2_features, out_features, bias, device, dtype: as in `torch.nn.Bilinear`;
            the dtype is float32, float64, bfloat16 or float16.

    Attributes:
        weight (Parameter[out_features, in1_features, in2_features]): any strides.
        bias (Parameter[out_features] or None)

    Example:
        >>> import torch, ntensor
        >>> ntensor.nn.Bilinear(2, 3, 5)(torch.ones(4, 2), torch.ones(4, 3)).shape
        torch.Size([4, 5])
    """

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """`input1` (Tensor[..., k_1]), `input2` (Tensor[..., k_2]) to Tensor[..., out_features]."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return ops.bilinear(input1, input2, self.weight, self.bias)
        return torch.nn.functional.bilinear(input1, input2, self.weight, self.bias)
