"""Runs TensorLy's own tests, as they are installed with it, with and without `ntensor` registered.

    python tools/tensorly_suite.py                  # all that concern it, both ways
    python tools/tensorly_suite.py --only ntensor decomposition/tests/test_cp.py

TensorLy's torch backend is used, or NumPy's with --backend numpy, where everything is served
however small, though TensorLy's own functions would be faster. The exit code is 1 if a test that is
green without `ntensor` is not green with it, or if `ntensor` served nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FILES = (
    "decomposition/tests/test_cp.py",
    "decomposition/tests/test_cp_power.py",
    "decomposition/tests/test_constrained_parafac.py",
    "decomposition/tests/test_parafac2.py",
    "decomposition/tests/test_cmtf_als.py",
    "decomposition/tests/test_symmetric_cp.py",
    "regression/tests/test_cp_regression.py",
    "tests/test_cp_tensor.py",
    "tests/test_parafac2_tensor.py",
    "tenalg/tests/test_khatri_rao.py",
    "tenalg/tests/test_kronecker.py",
    "tenalg/tests/test_tenalg_backend.py",
    "tenalg/tests/test_unfolding_dot_khatri_rao.py",
)
WAYS = ("tensorly", "ntensor")
# Some of the tests end in one or another local minimum by the last bit of a matrix product: MKL
# is told to calculate alike whatever the alignment of its operands. The options for the project's
# own tests are not for these.
SETTINGS = {
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "PYTEST_ADDOPTS": "",
}


class Recorder:
    """A plugin of pytest: the outcome of every test, and how often `ntensor` served."""

    def __init__(self, registered: bool) -> None:
        self.registered = registered
        self.outcomes: dict[str, str] = {}
        self.served = {"mttkrp": 0, "khatri_rao": 0}

    def pytest_sessionstart(self) -> None:
        if self.registered:
            from ntensor.integrations import arrays, tensorly

            arrays.FORMED = arrays.FORMED_FOR_MTTKRP = 0
            tensorly.MttkrpSweep.__call__ = self._counted(tensorly.MttkrpSweep.__call__, "mttkrp")
            tensorly.mttkrp = self._counted(tensorly.mttkrp, "mttkrp")
            tensorly.mttkrp_directly = self._counted(tensorly.mttkrp_directly, "mttkrp")
            arrays.directly = self._counted(arrays.directly, "mttkrp")
            tensorly.synthesis = self._counted(tensorly.synthesis, "khatri_rao")
            tensorly.register()

    def _counted(self, function, name):
        def count(*arguments, **keywords):
            result = function(*arguments, **keywords)
            self.served[name] += result is not None
            return result

        return count

    def pytest_runtest_setup(self) -> None:
        import numpy
        import torch

        numpy.random.seed(0)
        torch.manual_seed(0)

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome


def run_one_way(registered: bool, files: list[str], out: Path) -> None:
    """Runs the files in this process and writes what was recorded."""
    import pytest
    import tensorly

    folder = Path(tensorly.__file__).parent
    recorder = Recorder(registered)
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"]
    options += ["-c", os.devnull, "--rootdir", str(folder.parent), "-W", "ignore"]
    status = pytest.main([*options, *(str(folder / file) for file in files)], plugins=[recorder])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended early: {status!r}")
    out.write_text(json.dumps({"outcomes": recorder.outcomes, "served": recorder.served}))


def run_ways(ways: tuple[str, ...], files: list[str], backend: str = "pytorch") -> dict[str, dict]:
    """What was recorded, one process a way."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            out = Path(folder) / f"{way}.json"
            command = [sys.executable, __file__, *files, "--only", way, "--record", str(out)]
            environment = os.environ | SETTINGS | {"TENSORLY_BACKEND": backend}
            result = subprocess.run(command, env=environment, capture_output=True, text=True)
            if not out.exists():
                raise RuntimeError(f"{' '.join(command)} ended early:\n{result.stderr[-2000:]}")
            found[way] = json.loads(out.read_text()) | {"output": result.stdout}
    return found


def failed(record: dict) -> set[str]:
    return {test for test, outcome in record["outcomes"].items() if outcome == "failed"}


def broken(found: dict[str, dict]) -> list[str]:
    """The tests that are not green with `ntensor`, though they are without it."""
    without = failed(found["tensorly"]) if "tensorly" in found else set()
    return sorted(failed(found["ntensor"]) - without) if "ntensor" in found else []


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="below the package tensorly; default: all")
    parser.add_argument("--only", choices=WAYS, help="one way alone")
    parser.add_argument("--backend", choices=("pytorch", "numpy"), default="pytorch")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    files = options.files or list(FILES)
    if options.record:
        run_one_way(options.only == "ntensor", files, options.record)
        return 0
    found = run_ways((options.only,) if options.only else WAYS, files, options.backend)
    for way, record in found.items():
        outcomes = list(record["outcomes"].values())
        counts = {kind: outcomes.count(kind) for kind in ("passed", "failed", "skipped")}
        print(f"{way}: {counts}, served by ntensor: {record['served']}")
        for test in sorted(failed(record)):
            print(f"  failed: {test}")
    for test in broken(found):
        print(f"green without ntensor, not with it: {test}\n{found['ntensor']['output'][-4000:]}")
    unserved = "ntensor" in found and not all(found["ntensor"]["served"].values())
    if unserved:
        print("ntensor served nothing of a kind")
    return int(bool(broken(found)) or unserved)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
