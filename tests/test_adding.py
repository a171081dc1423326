"""An operation is added as CONTRIBUTING.md says: in three places for the reference backend, and one
for each backend more. It then has derivatives, transforms, checks and a row in `ntensor.info`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ntensor

CONTRACT = '''
from torch import Tensor

from ntensor import backends

from . import checks
from .forms import Form
from .operation import Operation


def hadamard(a: Tensor, b: Tensor, *, backend: str | None = None) -> Tensor:
    """`y[s, i] = a[s, i] b[s, i]`."""
    checks.tensors("hadamard", ("a", "b"), (a, b))
    values = checks.autocast((a, b))
    _check("hadamard", *values)
    return HADAMARD(values, backends.requested(backend))


def _check(operation, a, b):
    checks.alike(operation, ("a", "b"), (a, b))
    checks.matrices(operation, ("a",), (a,), ("k",))
    checks.fits(operation, "b", b, tuple(a.shape), a)


class HadamardForm(Form):
    """`s(G, a, b) = <G, y>`."""

    heads = ("grad", "a", "b")

    def axes(self, slot, factors):
        return ("n", "k")

    def partials(self, values, wanted, options):
        return {
            slot: HADAMARD([values[other] for other in self.heads if other != slot], *options)
            for slot in wanted
        }


HADAMARD = Operation(
    HadamardForm(),
    "hadamard(Tensor a, Tensor b, str? backend=None) -> Tensor",
    stem="hadamard",
    returns=("grad",),
    check=_check,
    fake=lambda a, b: a.new_empty(a.shape),
    flops=lambda a, b: a[0] * a[1],
)
'''
REFERENCE = """
from . import narrow, widen


def hadamard(a, b):
    return narrow(widen(a) * widen(b), a.dtype)
"""
NATIVE = """
def hadamard(a, b):
    return a * b
"""
CHECKS = """
import torch
from torch.utils.flop_counter import FlopCounterMode

import ntensor.info

operation, raw = ntensor.hadamard, torch.ops.ntensor.hadamard
a, b = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
expected = torch.einsum("sk,sk->sk", a, b)
torch.testing.assert_close(operation(a, b), expected)
assert operation(a.bfloat16(), b.bfloat16()).dtype is torch.bfloat16

checks = {"fast_mode": False, "check_forward_ad": True, "check_batched_grad": True}
assert torch.autograd.gradcheck(operation, (a, b), **checks)
assert torch.autograd.gradgradcheck(operation, (a, b), check_batched_grad=True)
assert torch.autograd.gradcheck(raw, (a, b))
torch.testing.assert_close(torch.func.vmap(operation, (0, None))(torch.stack([a, b]), b),
                           torch.stack([expected, b * b]))
compiled = torch.compile(operation, backend="aot_eager", fullgraph=True)
found = torch.autograd.grad(compiled(a, b).square().sum(), (a, b))
wanted = torch.autograd.grad(expected.square().sum(), (a, b))
torch.testing.assert_close(found, wanted)
torch.library.opcheck(raw.default, (a, b))

with FlopCounterMode(display=False) as counter:
    operation(a, b)
assert counter.get_total_flops() == 12
for wrong in ((a, b[:, :2]), (a, b.float())):
    try:
        operation(*wrong)
    except (TypeError, ValueError) as error:
        assert str(error).startswith("hadamard: b must"), error
    else:
        raise AssertionError("nothing was raised")
print(ntensor.info.collect()["operations"]["cpu"]["hadamard"])
"""


@pytest.fixture
def package(tmp_path):
    """A copy of the package, to which files are added."""
    folder = tmp_path / "ntensor"
    source = Path(ntensor.__file__).parent
    shutil.copytree(
        source, folder, copy_function=os.symlink, ignore=shutil.ignore_patterns("faces", "*.pyc")
    )
    (folder / "ops/hadamard.py").write_text(CONTRACT)
    (folder / "backends/reference/hadamard.py").write_text(REFERENCE)
    public = folder / "ops/__init__.py"
    text = public.read_text()
    public.unlink()
    text = text.replace("__all__ = [", 'from .hadamard import hadamard\n\n__all__ = ["hadamard",')
    public.write_text(text)
    return folder


def run(package, program):
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=package.parent, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_operation_of_the_reference_backend(package):
    statuses = run(package, CHECKS)
    assert "'reference': 'ready'" in statuses
    assert "'native': 'it does not have this operation'" in statuses
    refused = run(
        package,
        """
import torch, ntensor
try:
    ntensor.hadamard(torch.ones(1, 2), torch.ones(1, 2), backend="native")
except RuntimeError as error:
    print(error)
""",
    )
    assert "ntensor.hadamard: the forced backend cannot serve" in refused


def test_a_further_backend(package):
    (package / "backends/native/hadamard.py").write_text(NATIVE)
    served = run(
        package,
        """
import torch, ntensor.info
from ntensor import backends
print(ntensor.info.collect()["operations"]["cpu"]["hadamard"])
print(backends.implementation(
    "hadamard", "hadamard", torch.device("cpu"), torch.float32, None).__module__)
""",
    )
    assert "'native': 'ready'" in served
    assert "ntensor.backends.native.hadamard" in served
