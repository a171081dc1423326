"""Ways to write to a tensor, most of which torch does not count.

A kind takes a tensor and gives one of the same values and a function that changes them.
"""

import math

import numpy as np
import torch


def double(x):
    return lambda: x.mul_(2)


def parameter(step):
    def kind(x):
        leaf = torch.nn.Parameter(x.clone())
        return leaf, step(leaf)

    return kind


def optimizer(cls):
    def step(leaf):
        leaf.grad = torch.ones_like(leaf)
        return cls([leaf], lr=0.5, fused=True).step

    return parameter(step)


def assigned(x):
    def write():
        x.data = x.data * 2

    return x, write


def another_tensor_over_the_storage(x):
    alias = torch.empty(0, dtype=x.dtype)
    return x, double(alias.set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride()))


def written_storage(x):
    other = (2 * x).untyped_storage()
    return x, lambda: x.untyped_storage().copy_(other)


def of_numpy(x):
    array = x.numpy().copy()
    return torch.from_numpy(array), lambda: np.multiply(array, 2, out=array)


def shown_to_numpy(x):
    array = x.numpy()
    return x, lambda: np.multiply(array, 2, out=array)


def handed_in(x):
    other = x.clone()
    return torch.from_dlpack(other), double(other)


def in_shared_memory(x):
    x = x.clone().share_memory_()
    return x, double(x.data)


def in_a_file(folder, x):
    """Two mappings, as two processes have them."""
    mine, theirs = (
        torch.from_file(str(folder / "values"), shared=True, size=x.numel(), dtype=x.dtype)
        for _ in range(2)
    )
    mine.copy_(x.flatten())
    return mine.view(x.shape), double(theirs)


COUNTED = {
    "in place": lambda x: (x, double(x)),
    "a view in place": lambda x: (x, double(x[0])),
    "overwritten": lambda x: (x, lambda: x.copy_(x.flip(0))),
    "set_": lambda x: (x, lambda: x.set_(2 * x)),
}
VISIBLE = COUNTED | {
    "assigned to .data": assigned,
}
# Of such a tensor nothing is kept, though it was stated to be constant.
REFUSED = {
    "of numpy": of_numpy,
    "shown to numpy": shown_to_numpy,
    "handed in": handed_in,
    "in shared memory": in_shared_memory,
    "in a file": in_a_file,
    "vector_to_parameters": parameter(
        lambda leaf: lambda: torch.nn.utils.vector_to_parameters(2 * leaf.flatten(), [leaf])
    ),
    **{
        f"fused {cls.__name__}": optimizer(cls)
        for cls in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)
    },
}
# These a statement rules out.
INVISIBLE = {
    ".data in place": lambda x: (x, lambda: x.data.mul_(2)),
    "another tensor over the storage": another_tensor_over_the_storage,
    "the storage": written_storage,
}
SWAPPED = {"swap_tensors": lambda x: (x, lambda: torch.utils.swap_tensors(x, 2 * x))}
NAN = {"NaN": lambda x: (x, lambda: x.data[0].fill_(math.nan))}
KINDS = VISIBLE | REFUSED | INVISIBLE | SWAPPED | NAN


def written(kind, x, folder):
    value, write = in_a_file(folder, x) if kind == "in a file" else KINDS[kind](x)
    torch.testing.assert_close(value.detach(), x.detach())
    return value, write
