"""Commands that are killed and stopped at random moments, and go on as if nothing had happened.

    NTENSOR_FACE_KILLS=500 pytest -m "slow or not slow" tests/faces/test_kills.py

`NTENSOR_FACE_KILLS`: how many kills in all; `NTENSOR_FACE_SEED`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("kills.py")
# Shares of the kills.
KILLS = {
    "train": 12,
    "endless": 5,
    "threads": 4,
    "render": 13,
    "sweep": 5,
    "evaluate": 4,
    "verification": 4,
    "edit": 3,
}
SLOW = ("endless", "threads", "sweep", "evaluate", "verification", "edit")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in KILLS]
)
def test_killed_commands_go_on_bit_for_bit(case):
    total = int(os.environ.get("NTENSOR_FACE_KILLS", "5"))
    kills = -(-KILLS[case] * total // sum(KILLS.values()))
    seed = os.environ.get("NTENSOR_FACE_SEED", "0")
    # Threads that wait for each other in a loop take long where other processes run.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    environment["PYTHONPATH"] = os.pathsep.join([str(PROGRAM.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, str(PROGRAM), case, "--kills", str(kills), "--seed", seed],
        env=environment,
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{case}: {kills} kills" in done.stdout
