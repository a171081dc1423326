"""Optimizers that take a step by the terms of a core's gradient: the same as torch's, by another
way."""

import copy
import gc
import io
import itertools
import weakref

import pytest
import torch

import ntensor
from ntensor import _cpu
from ntensor.backends.native import core_step, force_simd_level
from ntensor.ops import deferred

pytestmark = pytest.mark.sanitizer

CASES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.8, "nesterov": True, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"weight_decay": 0.2, "amsgrad": True}),
    ("AdamW", {"betas": (0.5, 0.9), "eps": 1e-3}),
    ("AdamW", {"weight_decay": 0.3, "amsgrad": True, "maximize": True}),
]
EXTENTS = [(5,), (3, 4), (1, 7), (40, 1), (2, 5, 3), (6, 1, 33), (2, 3, 2, 3), (3, 130)]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 4e-3}


@pytest.fixture
def kernel_steps(monkeypatch):
    """The number of steps that the kernel has taken."""
    taken = []
    take = core_step.step

    def step(*arguments):
        taken.append(1)
        take(*arguments)

    monkeypatch.setattr(core_step, "step", step)
    return taken


def batch(n, extents, k_x, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    z = [torch.randn(n, k, generator=generator).to(dtype) for k in extents]
    return z, torch.randn(2, n, k_x, generator=generator).to(dtype)


def loss(core, z, cotangents, mean, **options):
    if not mean:
        return (ntensor.synthesis_projection(core, *z, **options) * cotangents[0]).sum()
    x, x_mean = ntensor.synthesis_projection_with_mean(core, *z, **options)
    return (x * cotangents[0]).sum() + (x_mean * cotangents[1]).sum()


def run(optimizer, core, batches, mean=False, **options):
    for calls in batches:
        for z, cotangents in calls:
            loss(core, z, cotangents, mean, **options).backward()
        optimizer.step()
        optimizer.zero_grad()


def pair(name, core, **options):
    """The optimizer of torch and ours, each with a copy of the core."""
    cores = [torch.nn.Parameter(core.clone()) for _ in range(2)]
    modules = torch.optim, ntensor.optim
    return cores, [getattr(m, name)([c], **options) for m, c in zip(modules, cores, strict=True)]


def assert_same(core, wanted, start, rate, dtype=torch.float32):
    """Within the tolerance of the way that it went, and of rounding the core itself."""
    tolerance = TOLERANCES[dtype]
    off = (core.detach().double() - wanted.detach().double()).abs().max().item()
    way = (wanted.detach().double() - start.double()).abs().max().item()
    assert off <= tolerance * (way + rate) + tolerance / 8 * start.abs().max().item()


def assert_same_states(optimizers, tolerance):
    theirs, ours = [list(each.state_dict()["state"].values()) for each in optimizers]
    assert [list(state) for state in theirs] == [list(state) for state in ours]
    for state, other in zip(theirs, ours, strict=True):
        for name, value in state.items():
            scale = value.abs().max() + 1e-30
            assert (value - other[name]).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mean", [False, True], ids=["", "mean"])
def test_same_as_torch(name, options, dtype, mean, kernel_steps):
    for place, extents in enumerate(EXTENTS):
        k_x = (1, 6, 33)[place % 3]
        start = torch.randn((k_x, *extents), generator=torch.Generator().manual_seed(place))
        cores, optimizers = pair(name, start.to(dtype), lr=0.01, **options)
        batches = [[batch(n, extents, k_x, dtype, n)] for n in (19, 1, 64)]
        run(optimizers[0], cores[0], batches, mean)
        kernel_steps.clear()
        run(optimizers[1], cores[1], batches, mean, accumulate_core_grad=True)
        assert len(kernel_steps) == 3 and cores[1].grad is None
        assert_same(cores[1], cores[0], start, 0.01, dtype)
        assert_same_states(optimizers, 20 * TOLERANCES[dtype])


@pytest.mark.parametrize("level", _cpu.simd_levels())
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {}), ("SGD", {"momentum": 0.9}), ("AdamW", {"amsgrad": True})]
)
def test_every_level_and_dtype(level, dtype, name, options, kernel_steps):
    """Against float64, from the same start, so that the moments are formed once."""
    for extents, k_x, n in (((7, 50), 21, 40), ((3, 5, 2), 5, 200), ((2, 9000), 3, 7)):
        start = torch.randn((k_x, *extents), generator=torch.Generator().manual_seed(3)).to(dtype)
        cores, optimizers = pair(name, start.double(), lr=0.125, **options)
        core = torch.nn.Parameter(start.clone())
        optimizer = getattr(ntensor.optim, name)([core], lr=0.125, **options)
        z, cotangents = batch(n, extents, k_x, dtype, n)
        run(optimizers[0], cores[0], [[([f.double() for f in z], cotangents.double())]])
        kernel_steps.clear()
        with force_simd_level(level):
            run(optimizer, core, [[(z, cotangents)]], accumulate_core_grad=True)
        assert len(kernel_steps) == 1
        assert_same(core, cores[0], start, 0.125, dtype)


@pytest.mark.parametrize("width", [5, 48])
def test_what_is_not_a_number_stays_so(width):
    start = torch.randn(6, 3, width)
    cores, optimizers = pair("Adam", start, lr=0.1, amsgrad=True)
    z, cotangents = batch(4, (3, width), 6, torch.float32, 1)
    broken = cotangents.clone()
    broken[0, 1, 2] = torch.nan
    batches = [[(z, cotangents)], [(z, broken)], [(z, cotangents)]]
    run(optimizers[0], cores[0], batches)
    run(optimizers[1], cores[1], batches, accumulate_core_grad=True)
    assert torch.equal(cores[0].isnan(), cores[1].isnan()) and cores[0].isnan()[2].all()
    for core in cores:
        core.data.nan_to_num_(0)
    assert_same(cores[1], cores[0], start, 0.1)


def test_no_element_beside_the_core():
    """Rows whose ends are no multiple of a vector, by one thread and by three."""
    before = torch.get_num_threads()
    try:
        for threads, width in itertools.product((1, 3), range(1, 40)):
            torch.set_num_threads(threads)
            room = torch.full((5 * 3 * width + 64,), torch.nan)
            core = room[32:-32].view(5, 3, width)
            core.zero_()
            z, cotangents = batch(4, (3, width), 5, torch.float32, width)
            core_step.step(core, (None,) * 3, cotangents[0], None, z, core_step.Rule(False, 1.0))
            wanted = -torch.einsum("nx,na,nb->xab", cotangents[0], *z)
            torch.testing.assert_close(core, wanted, rtol=1e-5, atol=1e-5)
            assert room[:32].isnan().all() and room[-32:].isnan().all()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "sizes", [(3,), (1, 2, 3), (120, 130), (256,), (200, 100), (300,)], ids=str
)
def test_several_calls_and_many_samples(sizes, kernel_steps):
    start = torch.randn(6, 3, 7)
    cores, optimizers = pair("Adam", start, lr=0.01)
    batches = [[batch(n, (3, 7), 6, torch.float32, n) for n in sizes] for _ in range(2)]
    run(optimizers[0], cores[0], batches)
    run(optimizers[1], cores[1], batches, accumulate_core_grad=True)
    assert len(kernel_steps) == (2 if sum(sizes) <= core_step.MOST_SAMPLES else 0)
    assert cores[1].grad is None
    assert_same(cores[1], cores[0], start, 0.01)


def test_outputs_of_both_kinds_in_one_step():
    start = torch.randn(6, 3, 7)
    cores, optimizers = pair("SGD", start, lr=0.1)
    for core, options in zip(cores, ({}, {"accumulate_core_grad": True}), strict=True):
        for seed, mean in ((1, True), (2, False)):
            z, cotangents = batch(4, (3, 7), 6, torch.float32, seed)
            loss(core, z, cotangents, mean, **options).backward()
        _, x_mean = ntensor.synthesis_projection_with_mean(core, *z, **options)
        x_mean.sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    assert_same(cores[1], cores[0], start, 0.1)


def test_other_parameters_and_a_gradient_of_the_core_elsewhere(kernel_steps):
    torch.manual_seed(0)
    results = []
    for module, options in ((torch.optim, {}), (ntensor.optim, {"accumulate_core_grad": True})):
        torch.manual_seed(0)
        core, bias = (torch.nn.Parameter(torch.randn(s)) for s in ((6, 3, 7), (6,)))
        optimizer = module.AdamW([{"params": [core]}, {"params": [bias], "lr": 0.5}], lr=0.01)
        for decays in (False, True):
            z, cotangents = batch(4, (3, 7), 6, torch.float32, 1)
            x = ntensor.synthesis_projection(core, *z, **options) + bias
            value = (x * cotangents[0]).sum()
            (value + core.square().sum() if decays else value).backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append((core, bias))
    assert len(kernel_steps) == 1
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_state_dicts_both_ways(name, options):
    start = torch.randn(6, 3, 7)
    batches = [[batch(5, (3, 7), 6, torch.float32, seed)] for seed in range(4)]
    cores, optimizers = pair(name, start, lr=0.01, **options)
    run(optimizers[0], cores[0], batches[:2])
    run(optimizers[1], cores[1], batches[:2], accumulate_core_grad=True)
    file = io.BytesIO()
    torch.save([each.state_dict() for each in optimizers], file)
    file.seek(0)
    of_theirs, of_ours = torch.load(file)
    later, others = pair(name, cores[0].detach(), lr=1.0, **options)
    others[0].load_state_dict(of_ours)
    others[1].load_state_dict(of_theirs)
    run(others[0], later[0], batches[2:])
    run(others[1], later[1], batches[2:], accumulate_core_grad=True)
    assert_same(later[1], later[0], start, 0.01)
    assert_same_states(others, 1e-3)


def test_amsgrad_is_that_of_the_group():
    start = torch.randn(6, 3, 7)
    cores, optimizers = pair("Adam", start, lr=0.1, amsgrad=True)
    for scale in (10.0, 0.1):
        z, cotangents = batch(5, (3, 7), 6, torch.float32, 1)
        batches = [[(z, scale * cotangents)]]
        run(optimizers[0], cores[0], batches)
        run(optimizers[1], cores[1], batches, accumulate_core_grad=True)
        for optimizer in optimizers:
            optimizer.param_groups[0]["amsgrad"] = False
    assert_same(cores[1], cores[0], start, 0.1)
    assert_same_states(optimizers, 1e-4)


def test_terms_are_copies():
    start = torch.randn(6, 3, 7)
    cores, optimizers = pair("SGD", start, lr=0.1)
    for core, options in zip(cores, ({}, {"accumulate_core_grad": True}), strict=True):
        z, cotangents = batch(4, (3, 7), 6, torch.float32, 1)
        loss(core, z, cotangents, True, **options).backward()
        for each in (*z, cotangents):
            each.data.fill_(torch.nan)
    for optimizer in optimizers:
        optimizer.step()
    assert_same(cores[1], cores[0], start, 0.1)


@pytest.mark.parametrize("other", [(6, 3, 5), (4, 3, 7), (6, 21), None], ids=str)
def test_another_core_since_backward(other, kernel_steps):
    """Of another shape or dtype: nothing is written."""
    core = torch.nn.Parameter(torch.randn(6, 3, 7))
    optimizer = ntensor.optim.SGD([core], lr=0.1)
    z, cotangents = batch(4, (3, 7), 6, torch.float32, 1)
    loss(core, z, cotangents, False, accumulate_core_grad=True).backward()
    core.data = core.data.double() if other is None else torch.zeros(other)
    before = core.detach().clone()
    with pytest.raises((TypeError, ValueError), match=r"core_grad|dtype"):
        optimizer.step()
    assert not kernel_steps and torch.equal(core, before)


def test_zero_grad_drops_and_step_takes_them():
    core = torch.nn.Parameter(torch.randn(6, 3, 7))
    optimizer, start = ntensor.optim.SGD([core], lr=0.1), core.detach().clone()
    z, cotangents = batch(4, (3, 7), 6, torch.float32, 1)
    for clear in (optimizer.zero_grad, optimizer.step):
        loss(core, z, cotangents, False, accumulate_core_grad=True).backward()
        assert len(deferred.terms_of(core)) == 1
        clear()
        assert not deferred.terms_of(core)
    after = core.detach().clone()
    assert not torch.equal(after, start)
    optimizer.step()
    assert torch.equal(core, after)


@pytest.mark.parametrize("max_norm", [1e-2, 1e6])
@pytest.mark.parametrize("mean", [False, True], ids=["", "mean"])
@pytest.mark.parametrize("sizes", [(4,), (3, 5), (2100,)], ids=str)
def test_clips_by_the_norm(max_norm, mean, sizes):
    start = torch.randn(6, 3, 7)
    cores, optimizers = pair("SGD", start, lr=0.1)
    others = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    for core, other, optimizer, options in zip(
        cores, others, optimizers, ({}, {"accumulate_core_grad": True}), strict=True
    ):
        optimizer.add_param_group({"params": [other]})
        for n in sizes:
            z, cotangents = batch(n, (3, 7), 6, torch.float32, n)
            (loss(core, z, cotangents, mean, **options) + 2 * other.sum()).backward()
    norm = torch.nn.utils.clip_grad_norm_([cores[0], others[0]], max_norm)
    found = optimizers[1].clip_grad_norm_(max_norm)
    assert found.item() == pytest.approx(norm.item(), rel=1e-4)
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(others[1], others[0], rtol=1e-4, atol=1e-6)
    assert (cores[1] - cores[0]).abs().max() <= 1e-4 * (cores[0] - start).abs().max() + 1e-6


def test_norms_that_cannot_be():
    core = torch.nn.Parameter(torch.randn(6, 3, 7))
    optimizer = ntensor.optim.SGD([core], lr=0.1)
    assert optimizer.clip_grad_norm_(1.0).item() == 0
    with pytest.raises(ValueError, match="max_norm: wanted a number above 0, got -1"):
        optimizer.clip_grad_norm_(-1)
    z, cotangents = batch(4, (3, 7), 6, torch.float32, 1)
    loss(core, z, cotangents * torch.inf, False, accumulate_core_grad=True).backward()
    with pytest.raises(RuntimeError, match="wanted a finite norm, got"):
        optimizer.clip_grad_norm_(1.0, error_if_nonfinite=True)


@pytest.mark.parametrize("way", ["backend", "use_backend"])
def test_other_backends(way, kernel_steps):
    start = torch.randn(6, 3, 7)
    cores, optimizers = pair("Adam", start, lr=0.01)
    batches = [[batch(5, (3, 7), 6, torch.float32, 1)]]
    run(optimizers[0], cores[0], batches)
    if way == "backend":
        run(optimizers[1], cores[1], batches, accumulate_core_grad=True, backend="reference")
    else:
        with ntensor.use_backend("reference"):
            run(optimizers[1], cores[1], batches, accumulate_core_grad=True)
    assert not kernel_steps
    assert_same(cores[1], cores[0], start, 0.01)


def test_as_long_as_the_optimizer_lives():
    core = torch.nn.Parameter(torch.randn(6, 3, 7))
    z, cotangents = batch(4, (3, 7), 6, torch.float32, 1)
    optimizer = ntensor.optim.SGD([core], lr=0.1)
    loss(core, z, cotangents, False, accumulate_core_grad=True).backward()
    del optimizer
    gc.collect()
    with pytest.raises(RuntimeError, match=r"needs core\.grad, got None"):
        loss(core, z, cotangents, False, accumulate_core_grad=True)
    gone = weakref.ref(core)
    del core
    gc.collect()
    assert gone() is None


def test_copies_of_model_and_optimizer():
    layer = ntensor.nn.MultilinearProjection((3, 7), 6, accumulate_core_grad=True)
    optimizer = ntensor.optim.SGD(layer.parameters(), lr=0.1)
    z, _ = batch(4, (3, 7), 6, torch.float32, 1)
    other, copied = copy.deepcopy((layer, optimizer))
    for module, by in ((layer, optimizer), (other, copied)):
        module(*z).square().sum().backward()
        assert module.core.grad is None
        by.step()
    assert torch.equal(layer.core, other.core)


def test_hooks_schedulers_and_closures():
    core, calls = torch.nn.Parameter(torch.randn(6, 3, 7)), []
    optimizer = ntensor.optim.SGD([core], lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    z, cotangents = batch(4, (3, 7), 6, torch.float32, 1)

    def closure():
        optimizer.zero_grad()
        value = loss(core, z, cotangents, False, accumulate_core_grad=True)
        value.backward()
        return value

    places = [core.detach().clone()]
    for _ in range(2):
        assert optimizer.step(closure).requires_grad
        scheduler.step()
        places.append(core.detach().clone())
    assert calls == ["before", "after"] * 2
    torch.testing.assert_close(places[2] - places[1], (places[1] - places[0]) / 2)


def test_writes_count():
    """What saved the core for backward says that it was changed."""
    core = torch.nn.Parameter(torch.randn(6, 3, 7))
    optimizer = ntensor.optim.SGD([core], lr=0.1)
    z, cotangents = batch(4, (3, 7), 6, torch.float32, 1)
    value = loss(core, z, cotangents, False, accumulate_core_grad=True)
    value.backward(retain_graph=True)
    square = core.square().sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()


def test_refusals():
    with pytest.raises(ValueError, match="differentiable: wanted False, got True"):
        ntensor.optim.Adam([torch.nn.Parameter(torch.ones(2, 3))], differentiable=True)
    level = _cpu.simd_levels()[0]
    for threads, n in ((1, 257), (1, 0), (0, 3)):
        with pytest.raises(ValueError, match="wanted"):
            _cpu.projection_core_step(
                *((level, threads), 0, n, [8, 2, 2, 1] * 2, 3, (8, 3, 1), (0, 0, 0)),
                *((0, 0, 0, 0), False, False, (8, 0, 0, 0), (1.0,) * 10, 0, 0),
            )
    with pytest.raises(ValueError, match="the address of every operand"):
        _cpu.projection_core_step(
            *((level, 1), 0, 2, [8, 2, 2, 1] * 2, 3, (8, 3, 1), (0, 0, 0)),
            *((0, 0, 0, 0), True, False, (8, 0, 0, 0), (1.0,) * 10, 8, 1 << 30),
        )
