"""The figures that the model of the GPU kernels assumes, each with its source.

Sources:
    [W] NVIDIA's white papers and data sheets of the A100, H100/H200, B200 and RTX 5090
    [L] Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture",
        arXiv:2402.13499, and "Dissecting the NVIDIA Hopper Architecture", arXiv:2501.12084
    [P] CUDA C++ Programming Guide, technical specifications by compute capability
    [A] assumed: no source gives it
"""

from typing import NamedTuple


class Card(NamedTuple):
    """What a kernel finds; rates are of one multiprocessor and cycle."""

    name: str
    architecture: str
    multiprocessors: int  # [W]
    gigahertz: float  # [W] boost; the H200's is what long kernels hold [A]
    bandwidth: float  # [W] bytes/s; the H200's is of a copy, 0.9 of the data sheet [A]
    registers: int  # [P]
    threads: int  # [P]
    blocks: int  # [P]
    shared: int  # [P] bytes, of which every block takes 1024 more than it asks for
    # Multiply-adds of float16 and bfloat16 by the synchronous instructions [W]; TF32 has half. On
    # Hopper they reach 0.62 of the peak, which only the asynchronous ones do [L].
    synchronous: float
    asynchronous: float  # the same by HGMMA or UTCHMMA; 0 where there is none


CARDS = {
    "sm_80": Card(
        "A100 80GB", "sm_80", 108, 1.410, 2.039e12, 65536, 2048, 32, 164 << 10, 1024, 0
    ),
    "sm_90a": Card(
        "H200", "sm_90a", 132, 1.755, 4.3e12, 65536, 2048, 32, 228 << 10, 0.62 * 2048, 2048
    ),
    "sm_100": Card(
        "B200", "sm_100", 148, 1.965, 8.0e12, 65536, 2048, 32, 228 << 10, 1024, 4096
    ),
    "sm_120": Card(
        "RTX 5090", "sm_120", 170, 2.407, 1.792e12, 65536, 1536, 24, 100 << 10, 512, 0
    ),
}  # fmt: skip

SCHEDULERS = 4  # of a multiprocessor [P]

# Cycles from issue to result of what a scoreboard waits for.
LATENCY = {
    "LDS": 30,  # [L]
    "LDSM": 33,  # [L]
    "LDG": 270,  # from the second-level cache, where all but the core lies [L]
    "SHFL": 24,  # [A]
    "HMMA": 33,  # [L]
    "other": 22,  # [A] conversions, special registers, 64-bit products
}
MEMORY_LATENCY = 800  # of an asynchronous copy under load [A]; 480 to 660 without [L]
# The second-level cache delivers to a multiprocessor and cycle [L].
CACHE_BYTES = 32
SHARED_BYTES = 128  # [P] of shared memory a cycle

# Beside its blocks, a kernel takes this long in a stream [A]: start, first and last blocks.
LAUNCH_SECONDS = 1.5e-6
BLOCK_CYCLES = 600  # of a block: start, first addresses, end [A]
