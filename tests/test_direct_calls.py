"""The shortest way, `ntensor/ops/direct.py`: open for plain eager calls alone, and then right."""

import contextlib
import random
import threading

import pytest
import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import layouts
import ntensor
from ntensor import _cpu
from ntensor.backends.native import force_simd_level
from ntensor.backends.native.plans import force_plan
from ntensor.ops import direct
from tolerances import DTYPES

pytestmark = pytest.mark.sanitizer

SIZES = ((3, (2, 3), 4), (1, (5, 4, 3), 2), (70, (6, 1, 9), 33), (5, (2,) * 8, 3))


def tensors(n, extents, k_x, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    core = torch.randn((k_x, *extents), generator=generator).to(dtype)
    return core, *(torch.randn((n, k), generator=generator).to(dtype) for k in extents)


def is_open(values=None):
    values = tensors(3, (2, 3), 4) if values is None else values
    found = direct.project(tuple(values), False)
    others = direct.synthesise(tuple(values[1:])), direct.project(tuple(values), True)
    assert all((each is None) == (found is None) for each in others)
    return found is not None


def test_open():
    assert is_open()
    with torch.no_grad():
        assert is_open()
    with torch.inference_mode():
        assert is_open()
    assert is_open(
        [torch.nn.Parameter(each, requires_grad=False) for each in tensors(3, (2, 3), 4)]
    )


class _Look(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        return function(*arguments, **(keywords or {}))


class _Function(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), keywords=None):
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize(
    "around",
    [
        _Look,
        _Function,
        lambda: torch.autocast("cpu", torch.bfloat16),
        forward_ad.dual_level,
        torch.profiler.profile,
        lambda: ntensor.use_backend("reference"),
        lambda: ntensor.use_backend("native"),
        lambda: force_plan(0),
    ],
)
def test_closed_inside(around):
    with around():
        assert not is_open()
    assert is_open()


def test_closed_under_transforms():
    seen = []
    core, *factors = tensors(3, (2, 3), 4)

    def look(core):
        seen.append(is_open((core, *factors)))
        return core.sum()

    torch.func.grad(look)(core)
    torch.func.vmap(look)(core[None])
    torch.jit.trace(look, core, check_trace=False)
    assert seen == [False] * 3


class _Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.requires_grad_(),
        lambda t: t.as_subclass(_Subclass),
        lambda t: t.to("meta"),
        lambda t: t.int(),
        lambda t: t.to(torch.complex64),
        lambda t: torch._neg_view(t),
        lambda t: t.to_sparse(),
        lambda t: t[:0],
        lambda t: t.numpy(),
        lambda t: None,
        lambda t: t.double(),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_closed_for(change, place):
    values = list(tensors(3, (2, 3), 4))
    values[place] = change(values[place])
    assert direct.project(tuple(values), False) is None
    assert direct.project(tuple(values), True) is None


@pytest.mark.parametrize(
    "values",
    [
        (),
        tensors(3, (2,), 4),
        tensors(3, (2,) * 9, 1),
        tensors(3, (2, 3), 4)[:2],
        tensors(0, (2, 3), 4),
        tensors(3, (2, 3), 0),
        (tensors(3, (2, 3), 4)[0].mT.contiguous().mT, *tensors(3, (2, 3), 4)[1:]),
        (*tensors(3, (2, 3), 4)[:2], torch.ones(2, 3)),
        (*tensors(3, (2, 3), 4)[:2], torch.ones(3, 2)),
        (*tensors(3, (2, 3), 4)[:2], torch.ones(3)),
        (torch.ones(4, 6), *tensors(3, (2, 3), 4)[1:]),
    ],
)
def test_closed_for_what_does_not_fit(values):
    assert direct.project(values, False) is None
    assert direct.project(list(values), False) is None


def closed(function, right, wrong):
    """Each of `wrong` is declined: arguments, by place, that replace the right ones."""
    assert function(*right) is not None
    for place, values in wrong.items():
        for value in values:
            arguments = [*right[:place], value, *right[place + 1 :]]
            assert function(*arguments) is None, (place, value)


def test_mttkrp_closed_for_what_does_not_fit():
    tensor, a, b = torch.ones(4, 3, 5), torch.ones(3, 2), torch.ones(5, 2)
    wrong_tensors = (
        *(tensor.mT, tensor.int(), tensor[0], tensor.double(), torch.ones((2,) * 9)),
        *(torch.ones(4, 3, 0), torch.ones(0, 3, 5), torch.ones(4, 2, 5), None),
    )
    wrong_others = (
        *((a,), (a, b, b), (a, b[0]), (a, b.double()), (a, b[:4]), (a, b[:, :1]), (a, None)),
        *((a[:, :0], b[:, :0]), (a, b.clone().requires_grad_()), None),
    )
    closed(
        direct.mttkrp,
        (tensor, (a, b), 0),
        {0: wrong_tensors, 1: wrong_others, 2: (-1, 3, 1 << 40, "a", None)},
    )


def test_gradients_closed_for_what_does_not_fit():
    values = tensors(3, (2, 3), 4)
    grad = torch.ones(3, 4)
    wrong_grads = (grad.double(), grad[:2], grad[:, :3], grad[None], None, grad.int())
    with torch.no_grad():
        closed(
            direct.gradients,
            (values, grad, [True] * 3, 1),
            {
                0: (values[:2], (), None),
                1: wrong_grads,
                2: ([True] * 2, [], None),
                3: (0, -1, 2, 1 << 40, "a", None),
            },
        )
        assert direct.gradients(values, None, [True] * 3, 1, None) is None
        assert direct.gradients(values, grad, [True] * 3, 1, None) is not None
        for wrong in (*wrong_grads[:4], wrong_grads[-1], "a"):
            assert direct.gradients(values, grad, [True] * 3, 1, wrong) is None
        with force_plan(0):
            assert direct.gradients(values, grad, [True] * 3, 1) is None
    assert direct.gradients(values, grad, [True] * 3, 1) is None


def test_synthesis_closed_for_what_does_not_fit():
    a, b = torch.ones(3, 2), torch.ones(3, 5)
    long = torch.ones(3, 1).expand(3, 1 << 40)
    half = torch.ones(3, 1).expand(3, 1 << 31)
    wrong = (
        *((), (a,) * 9, (a, b[0]), (a, b[:2]), (a, b.double()), (a, b[:, :0]), (a[:0], b[:0])),
        *((long, long), (half, half), (a, None), None),
    )
    closed(direct.synthesise, ((a, b),), {0: wrong})


@pytest.mark.skipif("avx2" not in _cpu.simd_levels(), reason="plans of avx2")
def test_products_of_torch_are_left_to_it():
    values = tensors(512, (16, 16), 1024)
    grad = torch.ones(512, 1024)
    with force_simd_level("avx2"), torch.no_grad():
        assert direct.project(values, False) is None
        for needs in ([True, False, False], [False, True, True]):
            assert direct.gradients(values, grad, needs, 1) is None


def test_gradient_of_the_leading_factor_alone():
    """By a projection of the incoming gradient."""
    core, *factors = tensors(64, (20, 30), 256)
    grad = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = direct.gradients((core, *factors), grad, [False, True, False], 1)
    wide = [each.double() for each in (grad, core, factors[1])]
    assert found[0] is None and found[2] is None
    close(found[1], torch.einsum("nx,xab,nb->na", *wide), torch.float32)


@pytest.mark.parametrize("level", _cpu.simd_levels())
def test_more_scratch_than_a_thread_keeps(level):
    """Each of many threads has some."""
    values = tensors(600, (60, 30), 16)
    before = torch.get_num_threads()
    torch.set_num_threads(24)
    try:
        with force_simd_level(level):
            needed = ntensor.scratch_bytes("synthesis_projection", 600, (60, 30), 16)
            found = direct.project(values, False)
    finally:
        torch.set_num_threads(before)
    wanted = torch.einsum("xab,na,nb->nx", *(each.double() for each in values))
    assert needed > 1 << 20
    close(found, wanted, torch.float32)


def test_nonsense():
    functions = direct.project, direct.project_groups, direct.gradients, direct.mttkrp
    for function in (*functions, direct.synthesise):
        for arguments in ((), (1,), (None, None), ("a", 2, 3), ({}, [], ()), (1,) * 7):
            assert function(*arguments) is None


def close(found, wanted, dtype):
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 4e-2)
    scale = wanted.abs().max().item() + 1e-30
    assert found.dtype is dtype
    torch.testing.assert_close(found.double() / scale, wanted / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("level", _cpu.simd_levels())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_values(level, dtype, sizes):
    n, extents, k_x = sizes
    core, *factors = tensors(*sizes, dtype)
    grad = torch.randn(n, k_x, generator=torch.Generator().manual_seed(1)).to(dtype)
    wide = [each.double().requires_grad_() for each in (core, *factors)]
    letters = "abcdefgh"[: len(extents)]
    equation = f"x{letters},{','.join('n' + each for each in letters)}->nx"
    wanted = torch.einsum(equation, *wide)
    gradients = torch.autograd.grad(wanted, wide, grad.double())
    with force_simd_level(level), torch.no_grad():
        close(direct.project((core, *factors), False), wanted.detach(), dtype)
        _, x_mean = direct.project((core, *factors), True)
        constant = [wide[0], torch.full_like(wide[1], 1 / extents[0]), *wide[2:]]
        close(x_mean, torch.einsum(equation, *constant).detach(), dtype)
        for needs in (
            [True] * len(wide),
            [True] + [False] * len(extents),
            [False, *[True] * len(extents)],
        ):
            found = direct.gradients((core, *factors), grad, needs, 1)
            for need, each, right in zip(needs, found, gradients, strict=True):
                assert (each is not None) == need
                if need:
                    close(each, right, dtype)


@pytest.mark.parametrize("level", _cpu.simd_levels())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("of_x", [True, False])
def test_gradients_of_the_mean_output(level, dtype, of_x):
    """By the shortest way where it is open, and then as by float64."""
    answered = 0
    for n, extents, k_x in (*SIZES, (5, (1, 7, 1, 40), 300), (300, (30, 9), 2), (2, (1, 6), 3)):
        core, *factors = tensors(n, extents, k_x, dtype)
        generator = torch.Generator().manual_seed(1)
        upstream = [torch.randn(n, k_x, generator=generator).to(dtype) for _ in range(2)]
        wide = [each.double().requires_grad_() for each in (core, *factors)]
        letters = "abcdefgh"[: len(extents)]
        equation = f"x{letters},{','.join('n' + each for each in letters)}->nx"
        constant = [wide[0], torch.full_like(wide[1], 1 / extents[0]), *wide[2:]]
        total = (torch.einsum(equation, *constant) * upstream[1]).sum()
        if of_x:
            total = total + (torch.einsum(equation, *wide) * upstream[0]).sum()
        right = torch.autograd.grad(total, wide, allow_unused=True)
        grad = upstream[0] if of_x else None
        for needs in (
            [True] * len(wide),
            [True] + [False] * len(extents),
            [False, True, *[False] * (len(extents) - 1)],
            [False, False, *[True] * (len(extents) - 1)],
        ):
            with force_simd_level(level), torch.no_grad():
                found = direct.gradients((core, *factors), grad, needs, 1, upstream[1])
            if found is None:
                continue
            answered += 1
            for place, (need, each, exact) in enumerate(zip(needs, found, right, strict=True)):
                assert (each is not None) == (need and (of_x or place != 1))
                if each is not None:
                    close(each, exact, dtype)
    assert answered > 4


@pytest.mark.parametrize(
    "layout",
    sorted(
        set(layouts.__dict__)
        & {
            "transposed",
            "sliced",
            "stepped",
            "offset",
            "expanded",
            "expanded_rows",
            "expanded_columns",
            "overlapping",
        }
    ),
)
def test_strides(layout):
    n, extents, k_x = 19, (4, 5, 3), 6
    generator = torch.Generator().manual_seed(0)
    core = torch.randn((k_x, *extents), generator=generator)
    factors = [layouts.make(layout, (n, k), torch.float32, generator) for k in extents]
    wanted = torch.einsum("xabc,na,nb,nc->nx", *(each.double() for each in (core, *factors)))
    close(direct.project((core, *factors), False), wanted, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 3, 5), (2, 3, 2, 7), (30, 1, 40)])
@pytest.mark.parametrize("rank", [1, 3, 20])
def test_mttkrp(dtype, shape, rank):
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(shape, generator=generator).to(dtype)
    factors = [torch.randn((k, rank), generator=generator).to(dtype) for k in shape]
    letters = "abcd"[: len(shape)]
    for mode in range(len(shape)):
        others = [each for place, each in enumerate(factors) if place != mode]
        names = [each + "r" for place, each in enumerate(letters) if place != mode]
        wanted = torch.einsum(
            f"{letters},{','.join(names)}->{letters[mode]}r",
            tensor.double(),
            *(each.double() for each in others),
        )
        close(direct.mttkrp(tensor, others, mode), wanted, dtype)


def test_plans_follow_threads_and_level():
    """What is kept for one number of threads or level is not taken for another."""
    values = tensors(64, (9, 40), 300)
    wanted = torch.einsum("xab,na,nb->nx", *(each.double() for each in values))
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 2, 1):
            torch.set_num_threads(threads)
            for level in (*_cpu.simd_levels(), None):
                with force_simd_level(level) if level else contextlib.nullcontext():
                    close(direct.project(values, False), wanted, torch.float32)
    finally:
        torch.set_num_threads(before)


def test_threads_at_once():
    """Each has scratch of its own."""
    cases = [tensors(n, extents, k_x, seed=n) for n, extents, k_x in SIZES * 3]
    wanted = [ntensor.synthesis_projection(*case, backend="reference") for case in cases]
    wrong = []

    def work(seed):
        source = random.Random(seed)
        for _ in range(200):
            place = source.randrange(len(cases))
            found = direct.project(cases[place], False)
            if not torch.allclose(found, wanted[place], rtol=1e-4, atol=1e-4):
                wrong.append(place)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
