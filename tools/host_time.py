"""What a call on a GPU costs the host, without a GPU: the kernels' launches are faked.

    python tools/host_time.py                  # every call of the list, by both backends
    python tools/host_time.py --backend triton --n 64

Operands lie on the CPU. Triton's launches return at once; those of the CUDA kernels are noted by
the host shim of the tests, which its C++ compiler builds once. So what is counted is ours: the
checks, the choice of the backend, the plan, tensors for results and parts, the arguments of each
launch. What a driver, or Triton's own launcher, takes is not in it, nor the difference between an
allocation on a GPU and one of the CPU.

Parts come from calls that leave out one layer after another, as medians of interleaved rounds of
the thread's own processor time, in microseconds: `checks` is the way from the public function to
the backend, under autograd with the recording; `plan` chooses and makes tensors; `launches` makes
the arguments of all launches and hands them over.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import ntensor  # noqa: E402
from ntensor import backends  # noqa: E402
from ntensor.backends._torch import plain_keys  # noqa: E402
from ntensor.ops import direct  # noqa: E402

BACKENDS = ("triton", "native")
PARTS = ("checks", "plan", "launches")
SIZES = (64, (9, 15, 80))


class Layers(NamedTuple):
    """One call, by the public function and by the backend's."""

    name: str
    public: Callable[[], object]
    backend: Callable[[], object]


class Fake:
    """Launches that return at once. Inside `silent` not even their arguments are made."""

    def __init__(self, modules: Sequence[ModuleType], name: str) -> None:
        self._places = [(module, name, getattr(module, name)) for module in modules]

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        for module, name, _ in self._places:
            setattr(module, name, _nothing)
        try:
            yield
        finally:
            for place in self._places:
                setattr(*place)


def _nothing(*arguments: object, **options: object) -> None:
    pass


@contextlib.contextmanager
def fake_triton() -> Iterator[Fake]:
    """Triton serves CPU tensors, and nothing runs."""
    from triton.runtime.jit import JITFunction

    from ntensor.backends import triton
    from ntensor.backends.triton import launch, projection, rotation, synthesis

    precision, gpu = launch.precision, torch.device("cuda")

    def add_parts(parts: torch.Tensor) -> torch.Tensor:
        return parts[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "why_not", lambda *asked: None)
        patch.setattr(JITFunction, "run", _nothing)
        patch.setattr(projection, "precision", lambda dtype, _: precision(dtype, gpu))
        for module in (projection, rotation, synthesis):
            if hasattr(module, "add_parts"):
                patch.setattr(module, "add_parts", add_parts)
        with _chosen("triton", patch):
            yield Fake((projection, rotation, synthesis), "launch")


@contextlib.contextmanager
def fake_native() -> Iterator[Fake]:
    """The CUDA kernels' host code, compiled against the shim, serves CPU tensors."""
    import cuda_shim
    from ntensor.backends.native import call, gpu

    def context(like: torch.Tensor) -> gpu.Context:
        return like.get_device() + 1, 0, gpu.allows_tf32(), 132

    with (
        cuda_shim.native_on_the_shim(),
        cuda_shim.recording(),
        pytest.MonkeyPatch.context() as patch,
        _chosen("native", patch),
    ):
        patch.setattr(gpu, "call_context", context)
        yield Fake((call,), "run")


@contextlib.contextmanager
def _chosen(backend: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, CPU tensors are taken for those of a GPU, which a backend serves without a request.

    The direct calls of the CPU's kernels decline them as they would: by their dispatch keys.
    """
    patch.setattr(backends, "_ORDER", {"cpu": (backend,)})
    patch.setattr(direct, "plain_keys", lambda device: plain_keys("CUDA"))
    direct._set_up()
    _forget()
    try:
        yield
    finally:
        patch.undo()
        direct._set_up()
        _forget()


def _forget() -> None:
    backends.implementation.cache_clear()
    backends.shortcut.cache_clear()


def calls(n: int) -> Iterator[Layers]:
    """Forwards without autograd, and the same recorded."""
    k_x, sizes = SIZES
    core = torch.randn(k_x, *sizes) / 100
    z = [torch.randn(n, k) for k in sizes]
    for name in ("synthesis_projection", "synthesis_projection_with_mean"):
        serve = backends.implementation("projection", name, core.device, core.dtype, None)
        public = getattr(ntensor, name)
        for recorded in (False, True):
            operands = [each.detach().requires_grad_(recorded) for each in (core, *z)]
            yield Layers(
                f"{name}, {'recorded' if recorded else 'no autograd'}",
                lambda public=public, operands=operands: public(*operands),
                lambda serve=serve: serve(core, z),
            )


def measure(layers: Layers, fake: Fake, rounds: int, inner: int = 5) -> dict[str, float]:
    """Microseconds of the parts: the differences of the layers' medians."""

    def seconds(call: Callable[[], object], silent: bool) -> float:
        with fake.silent() if silent else contextlib.nullcontext():
            call()
            start = time.thread_time()
            for _ in range(inner):
                call()
            return (time.thread_time() - start) / inner

    asked = {
        "public": (layers.public, False),
        "backend": (layers.backend, False),
        "plan": (layers.backend, True),
    }
    samples: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(rounds):
        for name, way in asked.items():
            samples[name].append(1e6 * seconds(*way))
    median = {name: statistics.median(times[1:]) for name, times in samples.items()}
    return {
        "checks": median["public"] - median["backend"],
        "plan": median["plan"],
        "launches": median["backend"] - median["plan"],
        "all": median["public"],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--n", type=int, default=16, help="samples (default: 16)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    os.environ.pop("TRITON_INTERPRET", None)  # which Triton reads when it is imported
    print(f"{'':67}" + "".join(f"{part:>10}" for part in (*PARTS, "all us")))
    for backend in options.backend:
        with (fake_triton if backend == "triton" else fake_native)() as fake:
            for layers in calls(options.n):
                parts = measure(layers, fake, options.rounds)
                cells = "".join(f"{parts[part]:10.2f}" for part in (*PARTS, "all"))
                print(f"{backend + ': ' + layers.name:67}{cells}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
