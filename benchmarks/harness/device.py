"""The GPU under the figures: what it is, its clock, and its roofs."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Callable

import torch

from harness.roof import Roof
from harness.timing import DeviceClock

ROOF_BYTES = 1 << 30
GEMM_SIZE = 8192
ROOF_SAMPLES = 20
LEAST_FLUSHED_BYTES = 256 << 20


def missing_device(name: str) -> str:
    """Why there is no device of this name, in one sentence; "" where there is."""
    device = torch.device(name)
    if device.type == "cpu":
        return ""
    if device.type != "cuda":
        return f"The benchmarks run on cpu and cuda, not on {name!r}."
    if not torch.cuda.is_available():
        return f"There is no CUDA GPU that torch {torch.__version__} can use, so nothing was run."
    if (device.index or 0) >= torch.cuda.device_count():
        return f"There is no device {name}: torch sees {torch.cuda.device_count()} of them."
    return ""


def describe_device(device: torch.device) -> dict[str, object]:
    """The GPU and the software between it and the program, one column of the CSV each."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "capability": f"sm_{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "device_memory_gb": round(properties.total_memory / 1e9, 1),
        "l2_cache_mb": round(properties.L2_cache_size / 1e6, 1),
        "cuda": torch.version.cuda,
        "driver": _driver(),
        "triton": _version_of("triton"),
        "float32_matmul": torch.backends.cuda.matmul.fp32_precision,
    }


def device_clock(device: torch.device) -> DeviceClock:
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return DeviceClock(device, max(LEAST_FLUSHED_BYTES, 4 * cache))


def measure_device_roof(
    clock: DeviceClock,
    dtypes: set[str],
    roof_bytes: int = ROOF_BYTES,
    gemm_size: int = GEMM_SIZE,
    samples: int = ROOF_SAMPLES,
) -> Roof:
    """The best of torch's own copies, reads, writes and large matrix products, under `clock`.

    A bandwidth is that of `roof_bytes` (copy: read and written); a matrix product is square and of
    random numbers. The first samples bring the clocks of the GPU up.
    """

    def best(*calls: Callable[[], object]) -> float:
        return min(clock.events(call) for _ in range(samples) for call in calls)

    source = torch.rand(roof_bytes // 4, device=clock.device)
    target = torch.empty_like(source)
    total = torch.empty((), device=clock.device)
    product_rates = _product_rates(best, clock.device, dtypes, gemm_size)
    size = source.nbytes
    return Roof(
        {
            "read": size
            / best(
                lambda: torch.sum(source, 0, out=total),
                lambda: torch.amax(source, 0, out=total),
                lambda: torch.dot(source, source, out=total),
            ),
            "write": size / best(lambda: target.fill_(1.0), target.zero_),
            "copy": 2
            * size
            / best(lambda: target.copy_(source), lambda: torch.neg(source, out=target)),
            **product_rates,
        }
    )


def _product_rates(
    best: Callable[..., float], device: torch.device, dtypes: set[str], size: int
) -> dict[str, float]:
    """Rates in flop/s; float32 by IEEE products and by TF32, which three of make one."""
    rates = {}

    def measure(kind: str, dtype: torch.dtype) -> None:
        a, b = (torch.rand(size, size, device=device).sub_(0.5).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        rates[f"gemm_{kind}"] = 2 * size**3 / best(lambda: torch.mm(a, b, out=out))

    for name in sorted({*dtypes, "bfloat16"} - {"float32"}):
        measure(name, getattr(torch, name))
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    try:
        settings.fp32_precision = "ieee"
        measure("float32", torch.float32)
        settings.fp32_precision = "tf32"
        measure("tf32", torch.float32)
    finally:
        settings.fp32_precision = before
    return rates


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    return found[0] if found else "unknown"


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
