"""The differential fuzz (`fuzz.py`): the cases that were wrong once, then random ones for a while.

NTENSOR_FUZZ_SECONDS and NTENSOR_FUZZ_SEED choose how long and from where.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fuzz
from fuzz_cases import Case

SECONDS = float(os.environ.get("NTENSOR_FUZZ_SECONDS", "30"))
SCRIPT = Path(__file__).with_name("fuzz.py")


def run(arguments, tmp_path):
    """The fuzz in a process of its own, since a guard page ends it; what it printed."""
    last = tmp_path / "last"
    command = [sys.executable, "-X", "faulthandler", str(SCRIPT), *arguments, "--last", str(last)]
    done = subprocess.run(command, capture_output=True, text=True)
    case = last.read_text() if last.exists() else ""
    assert done.returncode == 0, f"exit {done.returncode}\n{case}{done.stdout}\n{done.stderr}"
    return done.stdout


def test_cases_that_were_wrong(tmp_path):
    """At every SIMD level, by one and by two threads."""
    run(["--fixed"], tmp_path)


@pytest.mark.timeout(60 + 4 * SECONDS)
@pytest.mark.parametrize("threads", ["1", "2"])
def test_random_cases(threads, tmp_path):
    seed = os.environ.get("NTENSOR_FUZZ_SEED")
    chosen = ["--seed", seed] if seed else []
    said = run(["--seconds", str(SECONDS), "--threads", threads, *chosen], tmp_path)
    print(said)
    assert "none wrong" in said


def test_every_level_has_the_same_problems():
    cases = [Case("projection", 3, (2, 5), threads=2), Case("synthesis", 1, (4,), seed=7)]
    found = list(fuzz.at_every_level(cases, ["avx2", "portable"]))
    assert [each.level for each in found] == ["avx2", "portable"] * 2
    assert [fuzz.replace(each, level="") for each in found] == [cases[0]] * 2 + [cases[1]] * 2


def test_a_wrong_value_is_found_and_made_small(monkeypatch):
    """A planted fault: one element of one result off by a thousandth."""
    ours = fuzz.fuzz_operations.ours

    def planted(case, **options):
        function = ours(case, **options)

        def off(*tensors):
            results = function(*tensors)
            if results[0].shape[1] > 2:
                results[0][-1, 2] += results[0].abs().max() / 1000
            return results

        return off

    monkeypatch.setattr(fuzz.fuzz_operations, "ours", planted)
    case = Case("projection", 40, (7, 5, 9), k_x=33, threads=2, layouts=("sliced",))
    assert fuzz.is_wrong(case)
    assert fuzz.minimal(case, fuzz.is_wrong) == Case("projection", 1, (1,), k_x=3)
