"""Random calls of the raw operations, right and wrong, in a process of their own.

`python tests/raw_fuzz.py SEED COUNT` makes the calls 0 ... COUNT-1 of a seed, `--only I` one of
them. A right call must give the numbers of its definition in float64, a wrong one an exception. A
call is written down before it is made, so that a crash leaves its cause behind.
"""

import argparse
import math
import os
import random

os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import ntensor  # noqa: F401
from raw_values import KINDS, Call, expected

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCE = dict(zip(DTYPES, (1e-5, 1e-12, 2e-2, 2e-3), strict=True))
OTHER_DTYPES = (torch.int64, torch.bool, torch.complex64)
BACKENDS = (None, *["native"] * 4, *["reference"] * 4, "triton")
ERRORS = (TypeError, ValueError, RuntimeError)
MOST_FACTORS = 63


def draw(rng):
    """A right call."""
    name = rng.choice(list(KINDS))
    dtype, n, k_x = rng.choice(DTYPES), rng.choice((0, 1, 2, 3, 5)), rng.choice((0, 1, 2, 7))
    sizes = [rng.choice((0, 1, 2, 2, 3, 4)) for _ in range(rng.choice((1, 1, 2, 2, 2, 3, 4)))]
    pair = rng.choice(((3, 2), (1, 3), (2, 6), (6, 5), (4, 3), (0, 2)))
    width = 3 * rng.choice((0, 1, 2, 5))
    grouped = name.startswith("grouped")
    groups = rng.choice((1, 2, 3)) if grouped else 1
    n *= groups

    def new(*shape):
        return strided(rng, integers(rng, shape, dtype))

    grads = rng.choice(((True, False), (False, True), (True, True)))
    make = {
        "factors": lambda: [new(n, k) for k in sizes],
        "feature": lambda: new(n, math.prod(sizes)),
        "needs": lambda: [rng.random() < 0.6 for _ in sizes],
        "three": lambda: [rng.random() < 0.6 for _ in range(3)],
        "core": lambda: integers(rng, (groups * k_x, *sizes), dtype),
        "groups": lambda: groups,
        "grad": lambda: new(n, k_x) if grads[0] or grouped else None,
        "grad_mean": lambda: new(n, k_x) if grads[1] else None,
        "y": lambda: new(n, width),
        "turned": lambda: new(n, width),
        "R": lambda: new(n, 3, 3),
        "z_exp": lambda: new(n, pair[0]),
        "z_id": lambda: new(n, pair[1]),
        "rotated": lambda: new(n, pair[0] * pair[1]),
        "layout": lambda: rng.choice(("column", "row")),
    }
    return Call(name, [make[kind]() for kind in KINDS[name]], rng.choice(BACKENDS))


def integers(rng, shape, dtype):
    """Small whole numbers, whose products are exact in every type."""
    generator = torch.Generator().manual_seed(rng.getrandbits(31))
    return torch.randint(-2, 3, shape, generator=generator).to(dtype)


def strided(rng, tensor):
    way = rng.randrange(4)
    if way == 0 and tensor.dim() > 1:
        return tensor.mT.contiguous().mT
    if way == 1:
        return torch.stack([tensor, tensor], -1)[..., 0]
    if way == 2 and tensor.dim() > 0 and tensor.shape[0] > 0:
        return tensor[:1].expand(tensor.shape)
    return tensor


def spoil(rng, call):
    """The call with one argument changed, which most often makes it wrong."""
    arguments = list(call.arguments)
    place = rng.randrange(len(arguments) + 1)
    if place == len(arguments):
        return call._replace(backend=rng.choice(("cuda", "", "Native")))
    arguments[place] = spoiled(rng, arguments[place])
    return call._replace(arguments=arguments)


def spoiled(rng, value):
    if isinstance(value, (str, int)):
        return rng.choice(("diagonal", "", "Row", None, 1))
    if value is None:
        return torch.ones(rng.choice(((), (2,), (2, 7), (1, 0))))
    if isinstance(value, list):
        return spoiled_list(rng, list(value))
    return spoiled_tensor(rng, value)


def spoiled_list(rng, values):
    place = rng.randrange(len(values)) if values else 0
    way = rng.randrange(6)
    if way == 0:
        return []
    if way == 1:
        return [*values, *values[-1:]]
    if way == 2:
        return values[:-1]
    if values and isinstance(values[0], torch.Tensor):
        if way == 3:
            ones = torch.ones((*values[0].shape[:1], 1), dtype=values[0].dtype)
            return [ones] * rng.choice((MOST_FACTORS, MOST_FACTORS + 1, 70, 500))
        values[place] = spoiled(rng, values[place])
        return values
    return rng.choice(([True] * 64, [True] * 9, values[::-1]))


def spoiled_tensor(rng, tensor):
    if _has_sparse(tensor):
        return tensor
    shape = list(tensor.shape)
    dim = rng.randrange(len(shape)) if shape else None
    way = rng.randrange(9)
    if way == 0:
        return None
    if way == 1:
        return tensor.to(rng.choice((*DTYPES, *OTHER_DTYPES)))
    if way == 2:
        return tensor.to("meta")
    if way == 3:
        return tensor.unsqueeze(rng.randrange(len(shape) + 1))
    if way == 4 and shape:
        return tensor.flatten()
    if way == 5 and dim is not None:
        shape[dim] = rng.choice((0, 1, shape[dim] + 1, max(0, shape[dim] - 1), 1000))
        return integers(rng, shape, tensor.dtype)
    if way == 6:
        return tensor.new_ones(()).expand(shape)
    if way == 7 and shape:
        return tensor.transpose(dim, -1)
    if way == 8:
        sparse = rng.random() < 0.3 and not tensor.is_meta
        return tensor.to_sparse() if sparse else tensor.reshape(-1)[:1].squeeze()
    return strided(rng, tensor)


def is_right(call, devices=("cpu",)):
    """The contract, written apart from the library."""
    of = dict(zip(KINDS[call.name], call.arguments, strict=True))
    factors = of.get("factors")
    optional = ("grad", "grad_mean") if "grad_mean" in of else ()
    if any(value is None and kind not in optional for kind, value in of.items()):
        return False
    tensors = [value for value in call.arguments if isinstance(value, torch.Tensor)]
    if factors is not None:
        if not isinstance(factors, list) or not 1 <= len(factors) <= MOST_FACTORS:
            return False
        tensors += factors
    if call.backend not in (None, "native", "reference", "triton") or not tensors:
        return False
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors) or not all(
        tensor.dtype in DTYPES
        and tensor.dtype is tensors[0].dtype
        and tensor.device.type in devices
        and tensor.device == tensors[0].device
        and tensor.layout is torch.strided
        for tensor in tensors
    ):
        return False
    return _fits_factors(of) if factors is not None else _fits_rotation(call, of)


def _fits_factors(of):
    factors = of["factors"]
    if any(z.dim() != 2 or z.shape[0] != factors[0].shape[0] for z in factors):
        return False
    n, sizes = factors[0].shape[0], [z.shape[1] for z in factors]
    groups, wanted = of.get("groups", 1), {}
    if not isinstance(groups, int) or groups < 1 or n % groups:
        return False
    if "feature" in of:
        wanted["feature"] = (n, math.prod(sizes))
    if "grad" in of:
        given = [of[name] for name in ("grad", "grad_mean") if of.get(name) is not None]
        if not given or given[0].dim() != 2:
            return False
        k_x = given[0].shape[1]
        if "core" in of and of["core"].dim():
            k_x = of["core"].shape[0] // groups
        wanted["grad"] = wanted["grad_mean"] = (n, k_x)
    if "core" in of:
        if of["core"].dim() == 0 or not of["core"].is_contiguous():
            return False
        if of["core"].shape[0] % groups:
            return False
        wanted["core"] = (of["core"].shape[0], *sizes)
    if "needs" in of and len(of["needs"]) != len(factors):
        return False
    return all(
        of.get(name) is None or tuple(of[name].shape) == shape for name, shape in wanted.items()
    )


def _fits_rotation(call, of):
    *matrices, _ = call.arguments
    if "three" in of:
        matrices.pop()
    if of["layout"] not in ("column", "row"):
        return False
    if "three" in of and len(of["three"]) != 3:
        return False
    if "R" in of and tuple(of["R"].shape) != (*matrices[0].shape[:1], 3, 3):
        return False
    flat = [m for kind, m in zip(KINDS[call.name], matrices, strict=False) if kind != "R"]
    if any(m.dim() != 2 or m.shape[0] != flat[0].shape[0] for m in flat):
        return False
    if call.name.startswith("rotated"):
        K = of["z_exp"].shape[1] * of["z_id"].shape[1]
        return K % 3 == 0 and ("rotated" not in of or of["rotated"].shape[1] == K)
    return flat[0].shape[1] % 3 == 0 and flat[0].shape == flat[-1].shape


def outcome(call, arguments):
    """The results as a list, or the exception."""
    try:
        result = getattr(torch.ops.ntensor, call.name)(*arguments, call.backend)
    except ERRORS as error:
        return error
    if result is None:
        return [arguments[0]]
    return list(result) if isinstance(result, tuple) else [result]


def fault(call, rng):
    """What is wrong about the outcome of a call, in words; None where nothing is."""
    right, legal = is_right(call), is_right(call, ("cpu", "meta"))
    wanted = expected(call) if right else []
    kinds = {"real": call.arguments}
    if not _has_sparse(call.arguments) and (not right or rng.random() < 0.3):
        kinds["fake"] = _faked(call.arguments)
    for kind, arguments in reversed(kinds.items()):
        found = outcome(call, arguments)
        if legal != isinstance(found, list):
            return f"{kind}: wanted {'a result' if legal else 'an error'}, got {found!r}"
        for x, truth in zip(found, wanted, strict=True) if right else ():
            same = x.shape == truth.shape
            if same and kind == "real":
                largest = truth.abs().max().item() if truth.numel() else 0
                same = torch.allclose(x.double(), truth, 0, TOLERANCE[x.dtype] * (1 + largest))
            if not same:
                return f"{kind}: wanted {truth}, got {x}"
    return None


def _has_sparse(value):
    if isinstance(value, list):
        return any(map(_has_sparse, value))
    return isinstance(value, torch.Tensor) and value.layout is not torch.strided


def _faked(value, mode=None):
    mode = mode or FakeTensorMode()
    if isinstance(value, list):
        return [_faked(each, mode) for each in value]
    if isinstance(value, torch.Tensor):
        return mode.from_tensor(value, static_shapes=True)
    return value


def shown(value):
    if isinstance(value, torch.Tensor):
        steps = tuple(value.stride()) if value.layout is torch.strided else value.layout
        return f"{value.dtype}{tuple(value.shape)} strides {steps} {value.device}"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return repr(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--only", type=int, help="the number of one call")
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True)  # memory that nobody writes is NaN
    torch.set_num_threads(1)
    numbers = range(options.count) if options.only is None else (options.only,)
    right = 0
    for number in numbers:
        rng = random.Random(f"{options.seed} {number}")
        call = draw(rng)
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            call = spoil(rng, call)
        arguments = "; ".join(map(shown, call.arguments))
        print(f"call {number}: {call.name}({arguments}; {call.backend!r})", flush=True)
        right += is_right(call)
        found = fault(call, rng)
        if found is not None:
            raise SystemExit(f"call {number}: {found}")
    print(f"{len(numbers)} calls, {right} of them right")


if __name__ == "__main__":
    main()
