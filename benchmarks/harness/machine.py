"""The machine under the figures: what it is, what it has free."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

from harness.options import ROOT, allocator


def describe(threads: int, device: torch.device) -> dict[str, object]:
    """Machine, versions and settings, one column of the CSV each."""
    host = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%MZ"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": "cpu",
        "threads": threads,
        "simd": _simd(),
        "huge_pages": _huge_pages(),
        "allocator": allocator() or "system",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "ntensor": _ntensor_version(),
        "blas_of_torch": _blas_of_torch(),
        "blas_of_numpy": _blas_of_numpy(),
    }
    if device.type == "cpu":
        return host
    from harness.device import describe_device

    return host | describe_device(device)


def available_bytes(device: torch.device) -> int:
    """Memory that a method may still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        if found:
            return int(found[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class PeakMemory:
    """Peak of the memory in use during a block, above what was in use at its start, in bytes.

    On a CPU the resident set: the kernel's high-water mark, set back at the start, so that every
    allocator counts. Free heap pages, MKL's cached buffers and the memory that ntensor keeps are
    given back first. `extra` is None where the system offers no such mark.
    """

    extra: int | None

    def __init__(self, device: torch.device):
        self._device = device

    def __enter__(self) -> PeakMemory:
        gc.collect()
        self.extra = None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._start = torch.cuda.memory_allocated(self._device)
        elif _CLEAR_REFS.exists():
            _give_back_free_memory()
            _CLEAR_REFS.write_text("5")
            self._start = _status_bytes("VmRSS")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self.extra = torch.cuda.max_memory_allocated(self._device) - self._start
        elif _CLEAR_REFS.exists():
            self.extra = max(0, _status_bytes("VmHWM") - self._start)


class ForeignLoad:
    """Share of the CPUs' time that went to other processes (or was stolen) during a block."""

    share: float | None = None

    def __enter__(self) -> ForeignLoad:
        self._start = _busy_seconds(), sum(os.times()[:4]), time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        busy, own, start = self._start
        if busy is not None:
            elapsed = (time.perf_counter() - start) * (os.cpu_count() or 1)
            foreign = (_busy_seconds() - busy) - (sum(os.times()[:4]) - own)
            self.share = min(1.0, max(0.0, foreign / elapsed))


_CLEAR_REFS = Path("/proc/self/clear_refs")


def _status_bytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024


def _give_back_free_memory() -> None:
    if "ntensor" in sys.modules:
        sys.modules["ntensor"].release_memory()
    torch_library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    for library, name, arguments in (
        (torch_library, "mkl_serv_free_buffers", ()),
        (None, "malloc_trim", (0,)),
    ):
        if library is None or library.exists():
            function = getattr(ctypes.CDLL(library and str(library)), name, None)
            if function is not None:
                function(*arguments)


def _busy_seconds() -> float | None:
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"
        )
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        fields = {
            key: found[1].strip()
            for key in ("model name", "cpu family", "model")
            if (found := re.search(rf"^{key}\s*:(.*)$", text, re.M))
        }
        if "model name" in fields:
            return (
                f"{fields['model name']} (family {fields.get('cpu family', '?')}, "
                f"model {fields.get('model', '?')})"
            )
    return platform.processor() or platform.machine()


def _simd() -> str:
    try:
        from ntensor.backends.native import simd_level
    except ImportError:
        return f"unknown (torch: {torch.backends.cpu.get_cpu_capability()})"
    return str(simd_level())


def _huge_pages() -> str:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    found = re.search(r"\[(\w+)\]", setting.read_text()) if setting.exists() else None
    system = found[1] if found else "unknown"
    torch_asks = "yes" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else "no"
    ntensor_asks = "no" if os.environ.get("NTENSOR_HUGE_PAGES") == "0" else "for large results"
    return f"system: {system}; asked for by torch: {torch_asks}, by ntensor: {ntensor_asks}"


def _ntensor_version() -> str:
    try:
        import ntensor
    except ImportError:
        return "not installed"
    return ntensor.__version__


def _blas_of_torch() -> str:
    text = torch.__config__.show()
    name = re.search(r"BLAS_INFO=(\w+)", text)
    version = re.search(r"Math Kernel Library Version (\S+)", text)
    return " ".join(found[1] for found in (name, version) if found) or "unknown"


def _blas_of_numpy() -> str:
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
