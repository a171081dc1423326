"""The way of one call of `gpu_check.py` through its steps.

Knows neither a GPU nor a clock: both are given. Imports neither torch nor numpy.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from gpu.results import Results
from gpu.step import FAILED, LATITUDE, NOT_FINISHED, NOT_RUN, PASSED, Outcome, Step

# From a step's name and the seconds that it may take, its outcome.
Execute = Callable[[Step, float], Outcome]


class Session:
    """Runs steps until they, or the seconds, are used up.

    Args:
        steps: all of them, in order of worth.
        clock: seconds, from any beginning.
        seconds: how long the call may take.
        workers: how many steps that allow it run at the same time.
        rest: called where nothing runs, between steps of which only some allow neighbours.
        stop: called where the call ends before its steps do; what runs must end soon.
        say: prints a line.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        results: Results,
        execute: Execute,
        clock: Callable[[], float],
        seconds: float,
        workers: int = 1,
        rest: Callable[[], None] = lambda: None,
        stop: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.steps, self.results, self.execute = steps, results, execute
        self.clock, self.end, self.workers = clock, clock() + seconds, workers
        self.rest, self.stop, self.say = rest, stop, say
        self.interrupted = False

    def run(self, chosen: Iterable[Step]) -> None:
        """Runs the chosen ones: first what has no outcome yet, then what did not pass."""
        chosen = list(chosen)
        again = (FAILED, NOT_RUN)
        for wanted in (
            [step for step in chosen if self.state(step) not in (PASSED, *again)],
            [step for step in chosen if self.state(step) in again],
        ):
            for beside, group in itertools.groupby(wanted, lambda step: step.beside):
                if beside and self.workers > 1:
                    self._run_beside(list(group))
                else:
                    for step in group:
                        self._run_one(step)
                self.rest()
        self.results.write(self.steps)

    def state(self, step: Step) -> str:
        outcome = self.results.outcomes.get(step.name)
        return outcome.state if outcome else ""

    def _run_beside(self, group: list[Step]) -> None:
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for done in [pool.submit(self._run_one, step) for step in group]:
                    done.result()
            except BaseException:
                self.interrupted = True
                pool.shutdown(wait=False, cancel_futures=True)
                self.stop()
                raise

    def _run_one(self, step: Step) -> None:
        start = self.clock()
        if self.interrupted or start + step.seconds > self.end:
            return
        limit = min(LATITUDE * step.seconds, self.end - start)
        try:
            outcome = self.execute(step, limit)
        except Exception as error:
            traceback.print_exc()
            outcome = Outcome(FAILED, [f"{type(error).__name__}: {error}"])
        if self.interrupted:  # which ended what it used
            return
        now = self.clock()
        outcome.seconds = round(now - start, 3)
        if outcome.state == NOT_FINISHED and now < self.end:
            outcome.state = FAILED  # by its own limit, which more calls would not move
        self.results.add(step.name, outcome)
        self.results.write(self.steps)
        self.say(f"{step.name}: {outcome.state}, {outcome.seconds:.1f} s")
        for line in outcome.lines[:20]:
            self.say(f"  {line}")
