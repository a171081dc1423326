"""Settings of every test: poisoned memory, a fixed seed, the thread count put back."""

import gc
import os

import hypothesis
import pytest
import torch

import attack_counts
import backends
import kernel_counts
import partials

# Triton's kernels run on the CPU in its interpreter, which is chosen when they are imported.
if torch.cuda.is_available():
    # cuBLAS is deterministic only so, and is refused otherwise.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
else:
    os.environ["TRITON_INTERPRET"] = "1"

hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("full", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: in the full run only")
    config.addinivalue_line("markers", "exhaustive: hours, in .ci/exhaustive only; slow as well")
    config.addinivalue_line("markers", "in_turn: of two dtypes in Triton's interpreter one runs")
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    config.addinivalue_line(
        "markers", "sanitizer: calls the compiled core eagerly; runs under AddressSanitizer too"
    )
    # Workers that run side by side share the cores.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        backends.mark_the_other_dtype(items)


def pytest_collection_finish():
    """What stands by now, all items among it, is not looked through by each `gc.collect`."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session):
    """A worker hands its notes on kernels to the process that started it."""
    gc.unfreeze()  # bindings of C++ name what is left at the interpreter's end
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["kernels"] = kernel_counts.noted()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    kernel_counts.add(getattr(node, "workeroutput", {}).get("kernels", {}))


def pytest_terminal_summary(terminalreporter):
    reports = [report for found in terminalreporter.stats.values() for report in found]
    sections = {
        "GPU kernels, without a GPU": kernel_counts.table(),
        "attacks": attack_counts.table(reports),
    }
    for name, lines in sections.items():
        if lines := list(lines):
            terminalreporter.section(name)
            for line in lines:
                terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def counted_kernels():
    with kernel_counts.interpreted_kernels():
        yield


@pytest.fixture(autouse=True)
def poisoned_memory():
    """`torch.empty` gives NaN, so that a result that was never written cannot pass."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def settled():
    """A fixed seed before, the thread count as it was after."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def in_float64():
    """New tensors are of float64 where nothing else is said."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def fresh_compiler():
    """No compiled code of another test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def shared_at_any_size():
    """`partials.sharing_at_any_size`."""
    with partials.sharing_at_any_size():
        yield


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def device():
    """The GPU of the tests that need one."""
    return torch.device("cuda", 0)
