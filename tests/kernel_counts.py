"""Which GPU kernels the tests have proven without a GPU: a table at the end of their run.

The helpers of the tests note what they ran or compiled. `conftest.py` collects the notes of all
processes of pytest-xdist and prints the table.
"""

import collections
import contextlib
import functools
import importlib.util
import os
import re

import pytest

INTERPRETED = "Triton, run in its interpreter"
AHEAD_OF_TIME = "Triton {}, compiled ahead of time for sm_{}"
BY_NVCC = "CUDA, compiled by nvcc for {}"
ON_THE_SHIM = "CUDA, run by the host shim"

# Way -> (kernel, configuration).
_seen = collections.defaultdict(set)


def note(way, kernel, configuration):
    """A kernel was run or compiled in this way, in this configuration: all that decides its code,
    types and constants."""
    _seen[way].add((kernel, configuration))


def noted():
    """All notes of this process, as plain lists and strings."""
    return {way: sorted(found) for way, found in _seen.items()}


def add(notes):
    """Adds what another process has noted."""
    for way, found in notes.items():
        _seen[way].update(map(tuple, found))


def table():
    """A line a way, with the kernels of each; empty where nothing was noted."""
    for way, found in sorted(_seen.items()):
        counts = collections.Counter(kernel for kernel, _ in found)
        yield f"{way}: {len(counts)} kernels in {len(found)} configurations"
        yield f"    {', '.join(f'{kernel} {count}' for kernel, count in sorted(counts.items()))}"


def name_of(mangled):
    """The name of a CUDA kernel without its namespace and arguments."""
    return re.match(r"_ZN7ntensor4cuda\d+([a-z_]+?)I", mangled)[1]


@contextlib.contextmanager
def interpreted_kernels():
    """Notes every kernel that Triton's interpreter runs inside."""
    if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
        yield
        return
    from ntensor.backends.triton import launch, projection, rotation, synthesis

    run = launch.launch

    @functools.wraps(run)
    def noting(made, *arguments):
        if not arguments[0].is_meta:
            types = [str(a.dtype) for a in arguments if hasattr(a, "dtype")]
            constants = sorted(made.constants.items(), key=str)
            note(INTERPRETED, made.kernel.fn.__name__, f"{types} {constants}")
        run(made, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        for module in (projection, rotation, synthesis):
            patch.setattr(module, "launch", noting)
        yield
