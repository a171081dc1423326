"""Several processes: DTensor over every operation, DDP, FSDP2, by `distributed_checks.py`."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch

pytestmark = [
    pytest.mark.skipif(
        not torch.distributed.is_available(), reason="torch was built without distributed"
    ),
    pytest.mark.xdist_group("processes"),
]

TESTS = pathlib.Path(__file__).parent
NAMES = {
    2: ("every_operation", "needs_are_told_apart", "public_functions", "core_rows", "ddp", "fsdp2"),
    4: ("every_operation", "core_rows"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """For a number of processes what each of them wrote; they run once."""
    return functools.cache(lambda count: run(count, tmp_path_factory.mktemp("processes")))


def run(count, folder):
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
    }
    command = [sys.executable, str(TESTS / "distributed_checks.py")]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(count), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
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


@pytest.mark.parametrize(
    ("processes", "name"), [(count, name) for count, names in NAMES.items() for name in names]
)
def test_processes(outcomes, processes, name):
    for rank, each in enumerate(outcomes(processes)):
        outcome = each.get(f"check_{name}", "not reached")
        assert not outcome, f"process {rank}: {outcome}"
