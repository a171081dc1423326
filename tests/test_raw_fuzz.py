"""The raw operations of the namespace, called at random in a process of their own (`raw_fuzz.py`).

`NTENSOR_RAW_FUZZ_SEED` draws other calls than the usual ones.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ntensor  # noqa: F401
from backends import each_backend

SEED = os.environ.get("NTENSOR_RAW_FUZZ_SEED", "0")


def run(count):
    script = Path(__file__).with_name("raw_fuzz.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), SEED, str(count)],
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"seed {SEED}, exit {done.returncode}: {last}\n{done.stderr}"
    print(last)


def test_few_calls():
    run(500)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_calls():
    run(30000)


def t(*shape):
    return torch.ones(shape)


WRONG = {
    "no gradient": (
        "projection_factor_grads",
        lambda: (t(5, 3, 4), None, None, [t(2, 3), t(2, 4)], [True, True]),
        "grad or grad_mean must be given",
    ),
    "no core": ("synthesis_projection", lambda: (None, [t(2, 3)]), "core must be a torch.Tensor"),
    "three does not divide K": (
        "rotation",
        lambda: (t(2, 4), t(2, 3, 3), "column"),
        "K must be divisible by 3, got K = 4",
    ),
    "a gradient of two dimensions": (
        "rotation_matrix_grad",
        lambda: (t(2), t(2, 6), "row"),
        r"grad must have shape \(2, 6\)",
    ),
    "too few needs": (
        "rotated_synthesis_grads",
        lambda: (t(2, 6), t(2, 2), t(2, 3), t(2, 3, 3), "row", [True, True]),
        "needs must have 3 entries, got 2",
    ),
    "64 factors": ("synthesis", lambda: ([t(1, 1)] * 64,), "at most 63 factors"),
    "a core for 64 factors": (
        "synthesis_projection",
        lambda: (t(*[1] * 65), [t(1, 1)] * 64),
        "at most 63 factors",
    ),
}


@each_backend
@pytest.mark.parametrize("case", WRONG)
def test_the_words_of_an_error(case, backend):
    name, arguments, words = WRONG[case]
    with pytest.raises((TypeError, ValueError), match=f"^{name}: .*{words}"):
        getattr(torch.ops.ntensor, name)(*arguments(), backend)
