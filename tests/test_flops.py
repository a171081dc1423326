"""`FlopCounterMode` counts every operation, forward and backward, as torch counts its own."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import definitions
import ntensor
from cases import REGISTERED, Maker
from comparison import in_tuple

N, K_X, SIZES = 6, 7, (3, 4, 5)


def counted(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return {str(op).partition(".")[2]: n for op, n in counter.get_flop_counts()["Global"].items()}


def leaves():
    core = torch.randn(K_X, *SIZES, requires_grad=True)
    return core, *(torch.randn(N, k, requires_grad=True) for k in SIZES)


@pytest.mark.parametrize(
    "operation", ["synthesis_projection", "synthesis_projection_with_mean"], ids=str
)
def test_projection_counts_as_its_matrix_products(operation):
    """One product forward and two backward, as for the synthesis given to a linear layer."""
    product = 2 * N * K_X * 60
    inputs = leaves()
    found = counted(
        lambda: sum(map(torch.sum, in_tuple(getattr(ntensor, operation)(*inputs)))).backward()
    )
    assert found == {
        operation: product,
        "projection_core_grad": product,
        "projection_factor_grads": product,
    }
    plain = counted(lambda: definitions.synthesis_projection(*inputs).sum().backward())
    assert sum(plain.values()) == 3 * product


def test_accumulated_gradient_is_counted():
    core, *z = leaves()
    core.grad = torch.zeros_like(core)
    found = counted(
        lambda: ntensor.synthesis_projection(core, *z, accumulate_core_grad=True).sum().backward()
    )
    assert found["projection_core_grad_"] == 2 * N * K_X * 60


def test_bilinear_and_mttkrp():
    x1, x2, weight = torch.randn(2, 3, 4), torch.randn(2, 3, 5), torch.randn(K_X, 4, 5)
    assert sum(counted(lambda: ntensor.bilinear(x1, x2, weight)).values()) == 2 * N * K_X * 20
    factors = [None, torch.randn(4, 6), torch.randn(5, 6)]
    expected = 2 * 6 * K_X * 20
    assert sum(counted(lambda: ntensor.mttkrp(weight, factors, 0)).values()) == expected


def test_synthesis_and_rotation():
    z_exp, z_id = torch.randn(N, 6, requires_grad=True), torch.randn(N, 5, requires_grad=True)
    R, K = torch.randn(N, 3, 3, requires_grad=True), 30
    found = counted(lambda: ntensor.synthesis(z_exp, z_id).sum().backward())
    assert found == {"synthesis": N * K, "synthesis_grads": 2 * 2 * N * K}
    y = torch.randn(N, K, requires_grad=True)
    found = counted(lambda: ntensor.rotation(y, R).sum().backward())
    assert found == {"rotation": 2 * 6 * N * K, "rotation_matrix_grad": 6 * N * K}
    found = counted(lambda: ntensor.rotated_synthesis(z_exp, z_id, R).sum().backward())
    assert found == {
        "rotated_synthesis": 7 * N * K,
        "rotated_synthesis_grads": (6 + 2 * 2 + 7) * N * K,
    }


@pytest.mark.parametrize("registered", REGISTERED, ids=str)
def test_every_operation_has_a_formula(registered):
    """Without a sample nothing is counted, with twice the samples twice as much."""
    for sample in registered.samples:
        counts = []
        for n in (0, 3, 6):
            new = Maker(torch.float32, "contiguous", not registered.name.endswith("_"))
            arguments = sample(new, n)
            counts.append(sum(counted(lambda a=arguments: registered.op(*a)).values()))
        if registered.name == "synthesis" and len(arguments[0]) == 1:
            assert counts == [0, 0, 0]
        else:
            assert counts[0] == 0 < counts[1] == counts[2] / 2


# Each call is the first of its process: a fork of the one that has imported the library.
PROGRAM = """
import os, sys
import torch, ntensor
assert "torch.utils.flop_counter" not in sys.modules
assert "torch.distributed.tensor" not in sys.modules
from torch.utils.flop_counter import FlopCounterMode
torch.set_num_threads(1)  # a fork would lose the others
with FlopCounterMode(display=False):  # imports what counting takes, once
    torch.ones(2, 2) @ torch.ones(2, 2)

def counts(call):
    counters = FlopCounterMode(display=False), FlopCounterMode(display=False)
    z = [torch.randn(6, 3), torch.randn(6, 4)]
    with torch.no_grad() if "backward" not in call else torch.enable_grad():
        for counter in counters:
            with counter:
                eval(call)
            assert counter.get_flop_counts()["Global"][torch.ops.ntensor.synthesis] >= 72

for call in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        counts(call)
        os._exit(0)  # without the interpreter's own end, which takes as long as its start
    assert os.waitpid(child, 0)[1] == 0, call
"""
CALLS = (
    "ntensor.synthesis(*z)",
    "torch.ops.ntensor.synthesis(z)",
    "torch.inference_mode()(ntensor.synthesis)(*z)",
    "torch.func.jvp(ntensor.synthesis, tuple(z), tuple(z))",
    "ntensor.synthesis(z[0].requires_grad_(), z[1]).sum().backward()",
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_counting_is_loaded_where_it_is_used():
    """Importing the library loads no counter, and the first call under one is counted, as are
    those under a counter that was made before."""
    subprocess.run([sys.executable, "-c", PROGRAM, *CALLS], check=True, timeout=250)
