"""`python -m ntensor.info`: what is installed, and what each operation can run on."""

import os
import platform
import signal
import subprocess
import sys

import pytest
import torch

import ntensor.info
from ntensor import backends
from ntensor.backends.native import simd_level
from ntensor.backends.native.gpu import why_not_runnable

OPERATIONS = [
    "synthesis",
    "synthesis_projection",
    "synthesis_projection_with_mean",
    "rotation",
    "rotated_synthesis",
]


@pytest.fixture(scope="module")
def report():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    process = subprocess.run(
        [sys.executable, "-m", "ntensor.info"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert not process.stderr, process.stderr
    return process.stdout


def test_versions(report):
    for version in (ntensor.__version__, torch.__version__, platform.python_version()):
        assert version in report


def test_build_and_processor(report):
    """The compiler, the SIMD level in use, and the threads."""
    lowered = report.lower()
    assert simd_level() in report
    assert "compiler" in lowered
    assert "threads" in lowered
    assert str(torch.get_num_threads()) in report


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_and_backend(report, operation):
    """A row an operation: ready, or why not."""
    assert operation in report
    for backend in ("native", "reference", "triton"):
        assert backend in report
    assert "ready" in report


def test_reason_of_a_backend_that_cannot_serve(report):
    """Triton serves no CPU tensor here: the interpreter is off."""
    wanted = "not CPU tensors" if torch.cuda.is_available() else "there is no CUDA device"
    assert wanted in report


@pytest.mark.parametrize(
    ("architectures", "runtime", "driver", "capability", "reason"),
    [
        ("80,90a-real", 13000, 13000, (9, 0), None),
        ("80,90a-real", 12040, 12080, (8, 6), None),
        ("80,90a-real", 13000, 13010, (12, 0), None),
        ("90a-real", 13000, 13000, (8, 0), "NTENSOR_CUDA_ARCHITECTURES=80-real"),
        ("80-real", 13000, 13000, (9, 0), "architectures 80-real"),
        ("80,90a-real", 13000, 12080, (9, 0), "driver runs CUDA 12.8"),
        ("80,90a-real", 13010, 13000, (9, 0), None),
        ("80,90a-real", 13010, 13000, (12, 0), "PTX of CUDA 13.1"),
        ("90-virtual", 13010, 13000, (9, 0), "PTX of CUDA 13.1"),
        ("90-virtual", 13010, 13010, (9, 0), None),
        ("100f-real", 13000, 13000, (10, 3), None),
        ("100f", 13000, 13000, (12, 0), "architectures 100f"),
        ("75", 13000, 13000, (7, 5), "sm_75"),
    ],
)
def test_why_kernels_for_gpus_do_not_run(architectures, runtime, driver, capability, reason):
    answer = why_not_runnable(architectures, runtime, driver, capability)
    assert answer is None if reason is None else reason in answer


def test_automatic_choice(report):
    assert "cpu  native, then reference" in report
    assert backends.order(torch.device("cuda", 0)) == ("triton", "native", "reference")
    assert backends.order(torch.device("meta")) == ("reference",)


def test_a_plan_is_explained(capsys):
    sizes = ["--n", "512", "--k-x", "1", "--extents", "512", "512"]
    ntensor.info.main(["--explain", "synthesis_projection", *sizes])
    assert "1 hoisted" in capsys.readouterr().out
    for wrong in (["rotation", *sizes], ["synthesis_projection", "--n", "512"]):
        with pytest.raises(SystemExit):
            ntensor.info.main(["--explain", *wrong])
        assert "got" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.parametrize("words", [[], ["--help"]])
def test_a_report_that_nobody_reads(words):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ntensor.info", *words]
    with os.fdopen(writing) as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, timeout=120)
    # A shell shows 128 + SIGPIPE.
    assert ended.stderr == b"" and ended.returncode == -signal.SIGPIPE


def test_import_does_no_work():
    """Importing the package starts no process, compiles nothing and imports no optional library."""
    code = (
        "import sys, torch; before = set(sys.modules); import ntensor;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "assert not new & {'triton', 'tensorly', 'matplotlib', 'tqdm'}, new"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
