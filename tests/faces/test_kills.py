"""Commands that are killed and stopped at random moments, and go on as if nothing had happened.

    NTENSOR_FACE_KILLS=500 NTENSOR_FACE_SEED=7 pytest tests/faces/test_kills.py

`NTENSOR_FACE_KILLS`: how many kills in all; without it each command is killed once at least.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attack_counts

PROGRAM = Path(__file__).with_name("kills.py")
TOTAL = int(os.environ.get("NTENSOR_FACE_KILLS", "15"))
SEED = os.environ.get("NTENSOR_FACE_SEED", "0")
# Shares of the kills; the cases of a group run in one process, which imports what they need once.
GROUPS = {
    "training": {"train": 12, "endless": 5, "threads": 4, "sweep": 5},
    "others": {"render": 13, "evaluate": 4, "verification": 4, "edit": 3},
}
SHARES = sum(sum(cases.values()) for cases in GROUPS.values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("group", GROUPS)
def test_killed_commands_go_on_bit_for_bit(group, record_property):
    kills = {case: -(-share * TOTAL // SHARES) for case, share in GROUPS[group].items()}
    # Threads that wait for each other in a loop take long where other processes run.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    environment["PYTHONPATH"] = os.pathsep.join([str(PROGRAM.parent), *sys.path])
    cases = [f"{case}={number}" for case, number in kills.items()]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *cases, "--seed", SEED],
        env=environment,
        capture_output=True,
        text=True,
    )
    rows = []
    for case, line in re.findall(r"^(\w+): (.*) whole ends", done.stdout, re.M):
        numbers = re.findall(r"(\d+) (\w+)", line + " ends")
        rows.append(
            attack_counts.row("disturbed commands", case, **{k: int(n) for n, k in numbers})
        )
    record_property(attack_counts.KEY, rows)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {case: ends["kills"] for _, case, ends in rows} == kills
