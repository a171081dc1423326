"""The commands that compare methods on cases, from their words to the exit code.

Imports neither torch nor numpy: what they read when they load is set here.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness import options
from harness.cases import Case, Shape

if TYPE_CHECKING:
    from harness.runner import Suite


def main(
    argv: list[str] | None,
    name: str,
    description: str,
    shapes: dict[str, Shape],
    passes: tuple[str, ...],
    cases_of: Callable[[Namespace], list[Case]],
    suite: Callable[[], Suite],
) -> int:
    """Runs the cases that the words ask for; the files are called `name`."""
    given = options.parse(argv, description, shapes, passes)
    options.prepare_process(given)
    from harness import finish
    from harness.device import missing_device
    from harness.runner import run

    if reason := missing_device(given.device):
        print(reason)
        return finish.NO_DEVICE
    cases = options.autotuned(given, cases_of(given))
    result = run(cases, suite(), given, lambda found: finish.save(found, given, name))
    return finish.finish(result, given, name)
