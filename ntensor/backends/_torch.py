"""Every private name of torch that the library uses, why, and what takes its place should it go.

All of them are there from torch 2.9 on. One that is missing is an error when `ntensor` is imported,
except those of DTensor, which are looked for where it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch._C._autograd
import torch._C._functorch
from torch import Tensor
from torch._decomp import decomposition_table as _decomposition_table
from torch._decomp import register_decomposition as _register_decomposition
from torch.autograd import forward_ad as forward_ad

# The base of a dispatch mode, the modes that look at a call, and the tensors of a nested result.
# They are used by many and documented; their modules alone are private.
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves as tree_leaves

# What looks at a call beside autograd. A plain call, one that nothing looks at, goes straight to
# its backend; each question costs some 30 ns in every eager call. Without one of them: take it that
# the answer is yes, and leave every call to the dispatcher, which is slower.
are_functorch_transforms_active = torch._C._are_functorch_transforms_active
count_dispatch_modes = torch._C._len_torch_dispatch_stack
count_function_modes = torch._C._len_torch_function_stack
is_any_autocast_enabled = torch._C._is_any_autocast_enabled
is_profiler_enabled = torch._C._autograd._profiler_enabled
tracing_state = torch._C._get_tracing_state
keys_of = torch._C._dispatch_keys

# The `__torch_function__` of a type that has none. Without it: `Parameter.__torch_function__`.
disabled_torch_function = torch._C._disabled_torch_function_impl

# Calls an operation without its kernel for autograd, where this has recorded, or has nothing to
# record. Without it: `OpOverload.redispatch`.
below_autograd = torch._C._AutoDispatchBelowAutograd

# Whether the running backward pass comes to a node of the graph; it raises in one that is for
# gradients that are returned. Without it `accumulate_core_grad` cannot keep its promise for
# `backward(inputs=...)`, and would refuse it.
will_execute = torch._C._will_engine_execute_node

# The older vmap, which only `torch.autograd.grad(is_grads_batched=True)` runs: it has no public way
# to its batches. Where it is gone, so is the need.
is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor
add_batch_dim = torch._add_batch_dim
remove_batch_dim = torch._remove_batch_dim


# Torch's table of decompositions, where the exporter to ONNX looks. Without it every caller of the
# exporter hands over a table of his own.
register_decomposition = _register_decomposition
decomposition_table = _decomposition_table


def legacy_vmap_level() -> int:
    level: int = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    return level


def in_forward_mode() -> bool:
    """Whether forward-mode differentiation is on. Without it: `unpack_dual` of every operand."""
    return forward_ad._current_level >= 0


def is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work."""
    return are_functorch_transforms_active() or forward_ad._current_level >= 0


def plain_keys(device: str) -> Iterator[Any]:
    """`keys_of` tensors that are nothing but memory on a "CPU" or "CUDA", in inference mode and out
    of it.

    Without them: `type(tensor)` and the tensor's own flags, at several times the cost.
    """
    keys = torch._C.DispatchKey
    inference = torch._C.DispatchKeySet(getattr(keys, device))
    inference = inference.add(getattr(keys, f"Autocast{device}"))
    yield inference
    yield inference.add(keys.ADInplaceOrView).add(getattr(keys, f"Autograd{device}"))


def arguments_of(operation: Any) -> list[Any]:
    """The arguments in an operation's schema. Without it: reading the text that defined it."""
    arguments: list[Any] = operation._schema.arguments
    return arguments


def current_stream(index: int) -> int:
    """The address of a GPU's current stream. Without it: `torch.cuda.current_stream(index)`, at the
    cost of an object."""
    address: int = torch._C._cuda_getCurrentRawStream(index)
    return address


def allows_tf32() -> bool:
    """Whether products of float32 on a GPU may be rounded to TF32. Without it:
    `torch.backends.cuda.matmul.fp32_precision`, which asks the same at six times the cost."""
    precision: str = torch._C._get_fp32_precision_getter("cuda", "matmul")
    return precision == "tf32"


def is_in_ddp_forward() -> bool:
    """Whether DistributedDataParallel runs a module. Without it: an argument of the caller's."""
    return torch.nn.parallel.DistributedDataParallel._get_active_ddp_module() is not None


def version_of(tensor: Tensor) -> int:
    """How often torch has counted a write to the tensor's memory. Without it nothing is kept."""
    return tensor._version


def is_known_to_storage_alone(storage: torch.UntypedStorage) -> bool:
    """Whether no tensor refers to a storage's memory in C++. Without it no memory is kept."""
    count: int = torch._C._storage_Use_Count(storage._cdata)
    return count == 1


def flop_counters() -> Iterator[Any]:
    """The counters of operations that look at a call now: each has its own copy of the formulas,
    made when it was. Without it only those that are made after the first such call count."""
    counting = sys.modules.get("torch.utils.flop_counter")
    if counting is not None:
        for mode in _get_current_dispatch_mode_stack():
            counter = getattr(mode, "counter", None)
            if isinstance(counter, counting.FlopCounterMode):
                yield counter


def depend_on_all_arguments(operation: Any) -> None:
    """DTensor's decisions on an operation are remembered for all of its arguments, not for tensors
    alone. Without it: one operation for each set of gradients that are needed."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._op_schema import RuntimeSchemaInfo

    schemas = DTensor._op_dispatcher.sharding_propagator.op_to_schema_info
    schemas[operation] = RuntimeSchemaInfo(0, needs_pytree=True)
