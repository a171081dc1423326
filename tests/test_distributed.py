"""Several processes: DTensor over every operation, DDP, FSDP2, by `distributed_checks.py`."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch was built without distributed"
)

TESTS = pathlib.Path(__file__).parent
CHECKS = {
    2: (
        "every_operation",
        "needs_are_told_apart",
        "public_functions",
        "core_rows",
        "compiled",
        "ddp",
        "fsdp2",
    ),
    4: ("every_operation", "core_rows"),
}


def run(processes, folder):
    """What each process wrote: the outcome of every check, empty where it held."""
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
    }
    command = [sys.executable, str(TESTS / "distributed_checks.py")]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(processes), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        errors = [process.communicate(timeout=280)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    written = []
    for rank, error in enumerate(errors):
        file = folder / f"{rank}.json"
        assert file.exists(), error
        written.append(json.loads(file.read_text(encoding="utf-8")))
    return written


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes(processes, tmp_path):
    for rank, outcomes in enumerate(run(processes, tmp_path)):
        for name in CHECKS[processes]:
            outcome = outcomes.get(f"check_{name}", "not reached")
            assert not outcome, f"{name}, process {rank}: {outcome}"
