"""The compiled module called with nonsense: it raises, whatever the sizes, numbers and types.

What lies at an address cannot be checked, so addresses are those of real memory, or 0. A process of
its own makes the calls, so that a crash is a failure with the call printed.
"""

import contextlib
import itertools
import os
import random
import subprocess
import sys

import pytest
import torch

from ntensor import _cpu

pytestmark = pytest.mark.sanitizer

CALLS = int(os.environ.get("NTENSOR_RAW_CALLS", "3000"))
ELEMENTS = 1 << 12
LARGE = 1 << 40  # bytes of scratch, were they there: nothing runs in a wrong call
MATRIX = "matrix"  # stands for (address, row stride, column stride)
JOBS = {
    "projection": (
        "dtype",
        "n",
        "factors",
        "address",
        "k_x",
        "address",
        "address or 0",
        "split",
        "stack",
    ),
    "projection_factor_grads": (
        *("dtype", "n", "factors", "grads", "stride", "address", "k_x", MATRIX, MATRIX, "split"),
        "stack",
    ),
    "projection_core_grad": (
        *("dtype", "n", "factors", "k_x", MATRIX, MATRIX, "address", "flag", "split", "stack"),
    ),
    "synthesis": ("dtype", "n", "factors", "address"),
    "synthesis_grads": ("dtype", "n", "factors", "grads", "stride", MATRIX),
    "rotation": ("dtype", "n", "K", "layout", MATRIX, MATRIX, "address"),
    "rotation_matrix_grad": ("dtype", "n", "K", "layout", MATRIX, MATRIX, "address"),
    "rotated_synthesis": ("dtype", "n", "factors", "layout", MATRIX, "address"),
    "rotated_synthesis_grads": (
        *("dtype", "n", "factors", "grads", "stride", "layout", MATRIX, MATRIX),
        *("address or 0", "stride"),
    ),
}
# (hoisted, output_inside, few, transposed) of each job: right ones and wrong ones. Both outputs are
# wanted, or the gradients of both and of every factor.
SPLITS = {
    "projection": (*[(1, 0, few, transposed) for few in (0, 1) for transposed in (0, 1)],),
    "projection_factor_grads": ((0, 0, 0, 0),),
    "projection_core_grad": ((1, 0, 0, 0),),
}
WRONG_SPLITS = {
    "projection": ((0, 0, 0, 0), (0, 0, 1, 1), (1, 1, 0, 0), (1, 1, 1, 1)),
    "projection_factor_grads": ((1, 0, 0, 0), (0, 0, 0, 1)),
    "projection_core_grad": ((0, 0, 0, 0),),
}
TYPES = (None, "float", 1.5, (), {}, 1 << 70)
NOT_SIZES = (0, -1, -3, -(1 << 40), 1 << 48, 1 << 62)
WRONG = {
    "context": (
        *(("avx1024", 1), (None, 1), ("", 0), ("", -1), ("", 1 << 17), ("",), (3, 1), None, ()),
        *((b"x" * 5000, 1), ("", None), ("", 1.5), "avx2", 1),
    ),
    "scratch": (None, 1.5, 1 << 70),
    "dtype": (-1, 4, 99, *TYPES),
    "n": (*NOT_SIZES, *TYPES),
    "k_x": (*NOT_SIZES, *TYPES),
    "K": (*NOT_SIZES, 4, 5, *TYPES),
    "layout": (-1, 2, 77, *TYPES),
    "factors": ([], [1, 2, 3], None, "factors", [1.5] * 8),
    "grads": ([1], [0] * 9, None, [1.5] * 2),
    "address": (0, None, 1.5, 1 << 70),
    MATRIX: (None, (), (1, 2), (1, 2, 3, 4), (0.5,) * 3),
    "stride": (None, "x", 1.5),
    "address or 0": (None, 1.5),
    "flag": ("x", []),
    "stack": (
        *((0, 1), (1, 2), (-1, 1), (1 << 48, 1), (1 << 40, 1 << 17), (3, 0), (3, 1 << 40)),
        *((), (1,), (1, 1, 1), (1.5, 1), (1, None), "11", 1, None),
    ),
    "split": (
        *((-1, 0, 0, 0), (2, 0, 0, 0), (3, 0, 1, 0), (-(1 << 31), 0, 0, 0), (1 << 31, 0, 0, 0)),
        *((), (1, 0, 0), (1, 0, 0, 0, 0), (1.0, 0, 0, 0), (1, None, 0, 0), "1000", 1, None),
    ),
}


def legal(name, kind, buffers, sizes, source):
    if kind == "factors":
        return [v for k in sizes for v in (next(buffers), k, k, 1)]
    if kind == "grads":
        return [next(buffers) for _ in sizes]
    if kind == MATRIX:
        return (next(buffers), 36, 1)
    if kind in ("address", "address or 0"):
        return next(buffers)
    if kind == "split":
        return source.choice(SPLITS[name])
    if kind == "stack":
        return source.choice(((1, 1), (3, 1), (3, 2)))
    return {"dtype": 0, "n": 4, "k_x": 5, "K": 6, "layout": 0, "stride": 8, "flag": False}[kind]


def wrong_factors(source, described):
    """One of: an extent that is none, a missing address, too many factors."""
    way = source.randrange(3)
    if way == 2:
        return described[:4] * source.choice((64, 70, 1000))
    described = list(described)
    place = source.randrange(len(described) // 4)
    described[4 * place + (1 if way == 0 else 0)] = source.choice(NOT_SIZES) if way == 0 else 0
    return described


def call(source, addresses):
    """A function, its arguments, one of which is wrong."""
    name, kinds = source.choice(list(JOBS.items()))
    arguments = [legal(name, kind, addresses, (2, 3), source) for kind in kinds]
    whole = [(source.choice(_cpu.simd_levels()), 1), *arguments, next(addresses), LARGE]
    names = ["context", *kinds, "scratch", "scratch"]
    place = source.randrange(len(names))
    if names[place] == "factors" and source.random() < 0.7:
        whole[place] = wrong_factors(source, whole[place])
    elif names[place] == "split" and source.random() < 0.7:
        whole[place] = source.choice(WRONG_SPLITS[name])
        if name == "projection" and source.random() < 0.3:
            whole[place] = (1, 0, 1, source.randrange(2))
            whole[1 + names.index("n")] = source.choice((65, 1 << 30))
    else:
        whole[place] = source.choice(WRONG[names[place]])
    return name, whole, names[place]


def scratch_of_any_size(source):
    """A job of the projection without scratch, arguments of any sizes and splits."""
    n, k_x, *extents = (
        source.choice((-5, 0, 1, 2, 3, 64, 65, 1 << source.randrange(60)))
        for _ in range(source.randrange(4, 7))
    )
    factors = [v for k in extents for v in (0, k, 1, 1)]
    hoisted = source.randrange(-1, len(extents) + 1)
    split = (hoisted, *(source.randrange(2) for _ in range(3)))
    level, dtype = source.choice(_cpu.simd_levels()), source.randrange(-1, 5)
    grads = [source.randrange(2) * (place >= hoisted) for place in range(len(extents))]
    matrices = [(source.randrange(2), 1, source.choice((1, 2))) for _ in range(2)]
    name, sizes = source.choice(
        (
            ("projection", (0, k_x, 0, source.randrange(2))),
            ("projection_factor_grads", (grads, 0, 0, k_x, *matrices)),
            ("projection_core_grad", (k_x, *matrices, 0, False)),
        )
    )
    threads = source.choice((0, 1, 2, 64))
    problems = source.choice((1, 2, 1 << source.randrange(60)))
    stack = (problems, source.choice((1, 2, 64)))
    return name, ((level, threads), dtype, n, factors, *sizes, split, stack, 0, -1)


def main(calls, seed):
    source = random.Random(seed)
    memory = torch.zeros(64, ELEMENTS)

    def addresses():
        while True:
            for row in memory:
                yield row.data_ptr()

    places = addresses()
    for _ in range(calls):
        name, whole, kind = call(source, places)
        print(name, whole, flush=True)
        try:
            getattr(_cpu, name)(*whole)
        except (ValueError, TypeError):
            pass
        else:
            raise AssertionError(f"no error for a wrong {kind}: {name}{tuple(whole)}")
        with contextlib.suppress(ValueError, TypeError):
            getattr(_cpu, name)(*whole[:-1], -1)
    for name, kinds in JOBS.items():
        for level, split in itertools.product(_cpu.simd_levels(), SPLITS.get(name, ((),))):
            whole = [legal(name, kind, places, (2, 3), source) for kind in kinds]
            if split:
                whole[kinds.index("split")] = split
            assert getattr(_cpu, name)((level, 2), *whole, 0, -1) > 0
    for _ in range(calls // 10):
        name, whole = scratch_of_any_size(source)
        print(name, whole, flush=True)
        with contextlib.suppress(ValueError):
            assert getattr(_cpu, name)(*whole) > 0


def test_nonsense_raises():
    seed = random.SystemRandom().randrange(1 << 30)
    command = [sys.executable, __file__, str(CALLS), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    last = done.stdout.rstrip().rpartition("\n")[2]
    assert done.returncode == 0, f"seed {seed}, exit {done.returncode}: {last}\n{done.stderr}"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
