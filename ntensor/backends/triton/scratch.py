"""The scratch memory of the Triton backend, rehearsed on tensors without memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ntensor.backends._torch import TorchDispatchMode, tree_leaves

from . import launch, projection, rotation, synthesis


class _Allocations(TorchDispatchMode):
    """Follows the tensors that are made: the most bytes that are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._follow((args, kwargs), given=True)
        result = func(*args, **(kwargs or {}))
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        self._follow(result, given=False)
        self.peak = max(self.peak, sum(count for _, count in self._alive.values()))
        return result

    def _follow(self, tensors: Any, given: bool) -> None:
        """Memory that is first seen as an argument is not of the call's making."""
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                count = 0 if given else storage.nbytes()
                self._alive.setdefault(reference.cdata, (reference, count))


def scratch_bytes(
    operation: str,
    n: int,
    extents: tuple[int, ...],
    k_x: int,
    dtype: torch.dtype,
    device: torch.device,
) -> int:
    """What `ntensor.scratch_bytes` says of these kernels; arguments are checked, no size is 0."""

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    z, needs = [new(n, k) for k in extents], [True] * len(extents)
    y, x, R = new(n, math.prod(extents)), new(n, k_x), new(n, 3, 3)
    calls: list[Callable[[], Any]]
    if operation == "synthesis":
        calls = [
            lambda: synthesis.synthesis(z),
            lambda: synthesis.synthesis_grads(y, z, needs),
        ]
    elif operation == "rotation":
        calls = [
            lambda: rotation.rotation(y, R, "column"),
            lambda: rotation.rotation_matrix_grad(y, y, "column"),
        ]
    elif operation == "rotated_synthesis":
        calls = [
            lambda: rotation.rotated_synthesis(z[0], z[1], R, "column"),
            lambda: rotation.rotated_synthesis_grads(y, z[0], z[1], R, "column", [True] * 3),
        ]
    else:
        core, mean = new(k_x, *extents), operation.endswith("mean")
        calls = [
            lambda: getattr(projection, operation)(core, z),
            lambda: projection.projection_factor_grads(core, x, x if mean else None, z, needs),
            lambda: projection.projection_core_grad(x, x if mean else None, z),
        ]
    with launch.rehearsal(launch.capability(device)):
        return max(map(_beside_results, calls))


def _beside_results(call: Callable[[], Any]) -> int:
    with _Allocations() as allocations:
        results = call()
    return allocations.peak - sum(result.nbytes for result in tree_leaves(results))
