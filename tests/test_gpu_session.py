"""A call of `gpu_check.py` that is cut anywhere, and the next one, with a clock that is none."""

import itertools
import json
import os
import threading

import pytest

from gpu import results as results_module
from gpu.results import FILE, InUse, Results
from gpu.session import Session
from gpu.step import FAILED, LATITUDE, NOT_FINISHED, NOT_RUN, PASSED, Outcome, Step
from harness import files

SUBJECT = {"tree": "abc", "device": "some GPU", "driver": "1", "torch": "2", "triton": "3"}
STEPS = [
    Step("build", "Build", "look", 3.0),
    *(
        Step(f"check {n}", "Correctness", "check", 4.0, table="correctness-gpu", beside=True)
        for n in range(3)
    ),
    Step("row", "Benchmark", "bench", 9.0, table="synthesis-gpu"),
    Step("tool", "compute-sanitizer", "sanitizer", 5.0),
]
# What each step leaves, and the seconds that it takes.
LEFT = {
    "build": (Outcome(PASSED, ["built"]), 1.0),
    "check 0": (Outcome(PASSED, rows=[{"case": "a", "error": 0.5}]), 2.0),
    "check 1": (Outcome(FAILED, ["wrong: b"], [{"case": "b", "error": 1.5}]), 2.5),
    "check 2": (Outcome(PASSED, rows=[{"case": "c", "error": 0.25}]), 2.0),
    "row": (Outcome(PASSED, ["reached 1"], [{"case": "d", "ms": 7.0}]), 6.0),
    "tool": (Outcome(NOT_RUN, ["not installed"]), 0.5),
}


class Cut(BaseException):
    """The process is killed here."""


class World:
    """A clock, steps that take time on it, and a kill at the point of this number."""

    def __init__(self, cut=None):
        self.now, self.cut, self.done = 0.0, cut, []
        self.points = itertools.count()

    def point(self):
        if next(self.points) == self.cut:
            raise Cut

    def execute(self, step, seconds):
        outcome, takes = LEFT[step.name]
        self.point()
        self.now += min(takes, seconds)
        self.point()
        self.done.append(step.name)
        if takes > seconds:
            return Outcome(NOT_FINISHED)
        return Outcome(outcome.state, [*outcome.lines], [*outcome.rows])


class PointsIn:
    """The module `os` with a point before and after each of these, and in the middle of a write."""

    def __init__(self, world):
        self.world = world

    def __getattr__(self, name):
        return getattr(os, name)

    def _at_points(self, call, *arguments):
        self.world.point()
        result = call(*arguments)
        self.world.point()
        return result

    def fsync(self, file):
        return self._at_points(os.fsync, file)

    def replace(self, path, target):
        return self._at_points(os.replace, path, target)

    def write(self, file, text):
        half = len(text) // 2
        self.world.point()
        os.write(file, text[:half])
        self.world.point()
        return half + os.write(file, text[half:])


def call(folder, world, monkeypatch, seconds=1000.0, subject=SUBJECT, **options):
    """One call of the command, whose process ends in any case."""
    points = PointsIn(world)
    monkeypatch.setattr(results_module, "os", points)
    monkeypatch.setattr(files, "os", points)
    results = Results(folder, subject)
    try:
        session = Session(STEPS, results, world.execute, lambda: world.now, seconds, **options)
        session.run(STEPS)
    finally:
        results.close()
    return results


def left_in(folder):
    """What a folder says: the last outcome of each step, the summary, the tables."""
    lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    written = {path.name: path.read_text() for path in folder.glob("*.[cm][sd]*")}
    return {line.get("step", ""): line for line in lines}, written


def test_an_uncut_call(tmp_path, monkeypatch):
    world = World()
    call(tmp_path, world, monkeypatch)
    outcomes, written = left_in(tmp_path)
    assert world.done == [step.name for step in STEPS] == [*outcomes][1:]
    assert {name: line["state"] for name, line in outcomes.items() if name} == {
        name: outcome.state for name, (outcome, _) in LEFT.items()
    }
    assert sorted(written) == ["correctness-gpu.csv", "summary.md", "synthesis-gpu.csv"]
    assert written["correctness-gpu.csv"] == "case,error\na,0.5\nb,1.5\nc,0.25\n"
    text = written["summary.md"]
    assert "**Did not pass: check 1.** Of 6 steps: 4 passed, 1 failed, 1 not run." in text
    assert "- device: some GPU" in text and "- wrong: b" in text and "- not installed" in text
    assert not list(tmp_path.glob(".unfinished*"))


def test_a_call_that_is_killed_anywhere_and_the_next_one(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    call(whole, World(), monkeypatch)
    for cut in itertools.count():
        folder, world = tmp_path / str(cut), World(cut)
        try:
            call(folder, world, monkeypatch)
        except Cut:
            pass
        else:
            break
        kept = set(left_in(folder)[0]) if (folder / FILE).read_bytes().endswith(b"\n") else None
        after = World()
        call(folder, after, monkeypatch)
        assert left_in(folder) == left_in(whole), f"cut at {cut}"
        # Nothing that was known to have passed is done again, and what is unknown comes first.
        if kept is not None:
            missing = [step.name for step in STEPS if step.name not in kept]
            again = [name for name in ("check 1", "tool") if name in kept]
            assert after.done == missing + again, f"cut at {cut}"
    assert cut > 60


@pytest.mark.parametrize("seconds", [3.0, 5.0, 9.0, 13.5, 17.0])
def test_calls_that_end_with_their_time(tmp_path, monkeypatch, seconds):
    whole, folder = tmp_path / "whole", tmp_path / "some"
    call(whole, World(), monkeypatch)
    for _ in range(20):
        world = World()
        call(folder, world, monkeypatch, seconds)
        assert world.now <= seconds
        if len(left_in(folder)[0]) == 1 + len(STEPS):
            break
    fits = [step for step in STEPS if step.seconds <= seconds]
    assert set(left_in(folder)[0]) - {""} == {step.name for step in fits}
    if len(fits) == len(STEPS):
        assert left_in(folder) == left_in(whole)
    else:
        assert "not reached: " in left_in(folder)[1]["summary.md"]


def test_a_step_is_stopped(tmp_path, monkeypatch):
    """At its own limit it failed; at the call's end it is done again."""
    monkeypatch.setitem(LEFT, "build", (Outcome(PASSED), 100.0))
    results = call(tmp_path / "own", World(), monkeypatch)
    assert results.outcomes["build"].state == FAILED
    assert results.outcomes["build"].seconds == LATITUDE * STEPS[0].seconds
    results = call(tmp_path / "end", World(), monkeypatch, seconds=4.0)
    assert results.outcomes["build"].state == NOT_FINISHED
    world = World()
    call(tmp_path / "end", world, monkeypatch)
    assert world.done[0] == "build"


def test_a_step_that_raises_is_one_that_failed(tmp_path, monkeypatch, capsys):
    class Raises(World):
        def execute(self, step, seconds):
            if step.name == "row":
                raise OSError("no such thing")
            return super().execute(step, seconds)

    results = call(tmp_path, Raises(), monkeypatch)
    assert results.outcomes["row"].lines == ["OSError: no such thing"]
    assert set(results.outcomes) == {step.name for step in STEPS}


@pytest.mark.parametrize("key", ["tree", "device", "torch"])
def test_results_of_something_else_are_moved(tmp_path, monkeypatch, key):
    call(tmp_path, World(), monkeypatch)
    before = left_in(tmp_path)
    other = SUBJECT | {key: "other"}
    for number in (1, 2):
        results = call(tmp_path, World(), monkeypatch, subject=other if number == 1 else SUBJECT)
        assert f"{key} was" in results.moved and f"earlier-{number}" in results.moved
        assert set(results.outcomes) == {step.name for step in STEPS}
    assert left_in(tmp_path / "earlier-1") == before == left_in(tmp_path)
    results = call(tmp_path, World(), monkeypatch, subject=SUBJECT | {"date": "later"})
    assert not results.moved


def test_one_process_a_folder(tmp_path):
    results = Results(tmp_path, SUBJECT)
    with pytest.raises(InUse, match="another process writes to"):
        Results(tmp_path, SUBJECT)
    results.close()
    Results(tmp_path, SUBJECT).close()


def test_steps_beside_one_another(tmp_path, monkeypatch):
    """All three run at the same time; a folder says the same as one of steps in turn."""
    whole, folder = tmp_path / "whole", tmp_path / "beside"
    call(whole, World(), monkeypatch)
    together, rests = threading.Barrier(3, timeout=20), []

    class Beside(World):
        def execute(self, step, seconds):
            if step.beside:
                together.wait()
            outcome, _ = LEFT[step.name]
            return Outcome(outcome.state, outcome.lines, outcome.rows)

    call(folder, Beside(), monkeypatch, workers=3, rest=lambda: rests.append(1))
    outcomes, written = left_in(folder)
    expected = left_in(whole)[1]
    assert set(outcomes) == set(left_in(whole)[0])
    assert written["correctness-gpu.csv"] == expected["correctness-gpu.csv"]
    assert len(rests) == 3


def test_an_interrupt_stops_what_runs_beside(tmp_path, monkeypatch):
    stopped = threading.Event()

    class Interrupted(World):
        def execute(self, step, seconds):
            if step.name == "check 0":
                raise KeyboardInterrupt
            if step.beside:
                assert stopped.wait(20)
                return Outcome(FAILED, ["its process ended with signal 9"])
            return Outcome(PASSED)

    with pytest.raises(KeyboardInterrupt):
        call(tmp_path, Interrupted(), monkeypatch, workers=2, stop=stopped.set)
    assert stopped.is_set()
    assert set(left_in(tmp_path)[0]) == {"", "build"}
