"""The compiled module `ntensor._cuda`, for CUDA GPUs: loading it, and what it can run on."""

import functools
import json
from types import ModuleType

import torch

from ntensor.backends._torch import allows_tf32 as allows_tf32
from ntensor.backends._torch import current_stream
from ntensor.backends.native.library import cpu_module

LEAST_CAPABILITY = (8, 0)

Context = tuple[int, int, bool, int]


@functools.cache
def cuda_module() -> ModuleType:
    """`ntensor._cuda`; raises `ImportError` where it was not built or cannot be loaded."""
    from ntensor import _cuda

    return _cuda


@functools.cache
def why_not(device: torch.device) -> str | None:
    """Why `ntensor._cuda` cannot serve `device`, in words; None where it can."""
    try:
        module = cuda_module()
    except ImportError as error:
        return f"the CUDA kernels (ntensor._cuda) cannot be loaded: {_why_not_built(error)}"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU"
    return why_not_runnable(
        module.architectures(),
        module.runtime_version(),
        module.driver_version(),
        torch.cuda.get_device_capability(device),
    )


def _why_not_built(error: ImportError) -> str:
    """The build's own reason where it left the module out, else what the import says."""
    try:
        build = json.loads(cpu_module().build_info())
    except ImportError:
        return str(error)
    return str(error) if build["cuda"] else f"they were not built: {build['cuda_reason']}"


def why_not_runnable(
    architectures: str, runtime: int, driver: int, capability: tuple[int, int]
) -> str | None:
    """Why kernels compiled for `architectures` cannot run on a card of this capability, or None.

    Args:
        architectures: in CMake's words: `"80,90a-real"`; a number without `-real` brings code that
            the driver can compile for newer cards too.
        runtime: version of CUDA that the module was built with, 1000 major + 10 minor.
        driver: the newest version that the driver runs.
        capability: (major, minor) of the card.
    """
    card = f"this card is sm_{capability[0]}{capability[1]}"
    if capability < LEAST_CAPABILITY:
        return f"{card}, and the kernels need sm_80 (Ampere) or later"
    forms = {_form_for(one, capability) for one in architectures.split(",")}
    wanted = f"NTENSOR_CUDA_ARCHITECTURES={capability[0]}{capability[1]}-real"
    if forms == {None}:
        return (
            f"it was built for the architectures {architectures}, and {card}: build with {wanted}"
        )
    if driver // 1000 < runtime // 1000:
        return (
            f"it was built with CUDA {_version(runtime)}, but the driver runs CUDA "
            f"{_version(driver)} at most: update the driver, or build with an older CUDA"
        )
    # Machine code runs on every driver of its major version, PTX on none that is older.
    if "machine code" not in forms and driver < runtime:
        return (
            f"{card}, for which it brings PTX of CUDA {_version(runtime)} alone, but the driver "
            f"runs CUDA {_version(driver)} at most: update the driver, or build with {wanted}"
        )
    return None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _form_for(architecture: str, capability: tuple[int, int]) -> str | None:
    """What a card runs of the code for an architecture: "machine code", "PTX", or None."""
    name, _, form = architecture.partition("-")
    digits = name.rstrip("af")
    built = (int(digits[:-1]), int(digits[-1]))
    family = built[0] == capability[0] and built <= capability
    if name.endswith("a"):
        machine_code = ptx = built == capability
    else:
        machine_code, ptx = family, family if name.endswith("f") else built <= capability
    if machine_code and form != "virtual":
        return "machine code"
    return "PTX" if ptx and form != "real" else None


def call_context(like: torch.Tensor) -> Context:
    """(device, stream, whether float32 may be rounded to TF32, multiprocessors)."""
    index = like.get_device()
    return (
        index,
        current_stream(index),
        allows_tf32(),
        _multiprocessors(index),
    )


@functools.cache
def _multiprocessors(index: int) -> int:
    count: int = torch.cuda.get_device_properties(index).multi_processor_count
    return count
