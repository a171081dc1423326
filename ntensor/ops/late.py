"""What modules of torch that `import torch` does not load have to know of the operations.

Importing them takes longer than importing the library, so the library does not. It is a dispatch
mode or a type of tensor that asks what they know, and a call that one of these looks at is not
plain: such a call tells them what they do not know yet.

One call cannot: that of `torch.ops.ntensor` itself in inference mode, which the kernel for autograd
does not see. DTensor refuses it unless another call came before.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from ntensor.backends._torch import flop_counters

_COUNTER = "torch.utils.flop_counter"
_SHARDING = "torch.distributed.tensor"

_untold: dict[str, list[Callable[[], None]]] = {_COUNTER: [], _SHARDING: []}
_counted: list[Any] = []
_telling = threading.RLock()


def count(packet: Any, flops: Callable[..., int]) -> None:
    """`FlopCounterMode` counts an operation, an `OpOverloadPacket`, by a function of the shapes of
    its arguments."""

    def tell() -> None:
        from torch.utils.flop_counter import register_flop_formula

        register_flop_formula(packet)(flops)
        _counted.append(packet)

    _untold[_COUNTER].append(tell)


def shard(register: Callable[[], None]) -> None:
    """Calls `register` before DTensor is given an operation."""
    _untold[_SHARDING].append(register)


def tell() -> None:
    """Tells the modules that are loaded what they do not know, and the counters at work."""
    for name, untold in _untold.items():
        if untold and name in sys.modules:
            with _telling:
                while untold:
                    untold[0]()
                    del untold[0]
    for counter in flop_counters():
        from torch.utils.flop_counter import flop_registry

        for packet in _counted:
            counter.flop_registry.setdefault(packet, flop_registry[packet])
