"""`accumulate_core_grad`: the core's gradient is added into its `.grad`, or an error says why."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import ntensor
from backends import each_backend, each_kernel
from comparison import in_tuple, storage_bytes
from layouts import make

OPERATIONS = (ntensor.synthesis_projection, ntensor.synthesis_projection_with_mean)
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)


def leaves(dtype=torch.float32, grad="offset"):
    """A core whose `.grad` is filled, in a buffer with NaN around it, and its factors."""
    generator = torch.Generator().manual_seed(0)
    core, *z = (
        make("contiguous", s, dtype, generator).requires_grad_()
        for s in ((7, 3, 5, 11), (9, 3), (9, 5), (9, 11))
    )
    core.grad = make(grad, core.shape, dtype, generator)
    return core, z


@each_kernel
@each_operation
def test_adds_the_fresh_gradient(backend, dtype, operation):
    core, z = leaves(dtype)
    before, surroundings = core.grad.clone(), storage_bytes(core.grad).clone()
    place = core.grad.data_ptr()
    outputs = in_tuple(operation(core, *z, backend=backend))
    fresh = torch.autograd.grad(sum(o.sum() for o in outputs), (core, *z))

    outputs = in_tuple(operation(core, *z, accumulate_core_grad=True, backend=backend))
    sum(o.sum() for o in outputs).backward()

    assert core.grad.data_ptr() == place
    wider = torch.float64 if dtype is torch.float64 else torch.float32
    exact = before.to(wider) + fresh[0].to(wider)
    rounding = {torch.float64: 1e-15, torch.float32: 1e-6}.get(dtype, torch.finfo(dtype).eps)
    torch.testing.assert_close(core.grad.to(wider), exact, rtol=rounding, atol=4 * rounding)
    for factor, grad in zip(z, fresh[1:], strict=True):
        assert torch.equal(factor.grad, grad)
    edge = 3 * core.element_size()
    after = storage_bytes(core.grad)
    assert torch.equal(after[:edge], surroundings[:edge])
    assert torch.equal(after[-edge:], surroundings[-edge:])


@each_backend
def test_adds_at_every_backward(backend):
    core, z = leaves()
    core.grad.zero_()
    for _ in range(3):
        ntensor.synthesis_projection(
            core, *z, accumulate_core_grad=True, backend=backend
        ).sum().backward()
    fresh = ntensor.synthesis_projection(core, *z, backend=backend)
    (once,) = torch.autograd.grad(fresh.sum(), core)
    torch.testing.assert_close(core.grad, 3 * once, rtol=1e-5, atol=1e-5)


@each_backend
def test_shared_core_of_two_calls(backend):
    """Two uses of one core in one loss: both parts arrive."""
    core, z = leaves()
    core.grad.zero_()
    first = ntensor.synthesis_projection(core, *z, accumulate_core_grad=True, backend=backend)
    second = ntensor.synthesis_projection(core, *z, accumulate_core_grad=True, backend=backend)
    (first.sum() + second.square().sum()).backward()
    x = ntensor.synthesis_projection(core, *z, backend=backend)
    (expected,) = torch.autograd.grad(x.sum() + x.square().sum(), core)
    torch.testing.assert_close(core.grad, expected, rtol=1e-4, atol=1e-4)


@each_backend
def test_core_that_needs_no_gradient(backend):
    """A frozen core has nothing to add into, and nothing is added."""
    core, z = leaves()
    before = core.grad.clone()
    core.requires_grad_(False)
    ntensor.synthesis_projection(
        core, *z, accumulate_core_grad=True, backend=backend
    ).sum().backward()
    assert torch.equal(core.grad, before)
    assert z[0].grad is not None


@each_backend
def test_hooks_on_the_core_do_not_fire(backend):
    core, z = leaves()
    fired = []
    core.register_hook(fired.append)
    core.register_post_accumulate_grad_hook(fired.append)
    ntensor.synthesis_projection(
        core, *z, accumulate_core_grad=True, backend=backend
    ).sum().backward()
    assert not fired


def without_grad(core):
    core.grad = None
    return core


def not_a_leaf(core):
    return core * 1


def strided_grad(core):
    core.grad = torch.zeros(tuple(reversed(core.shape))).permute(3, 2, 1, 0)
    return core


@each_backend
@each_operation
@pytest.mark.parametrize(
    ("spoil", "words"),
    [(without_grad, "None"), (not_a_leaf, "leaf"), (strided_grad, "contiguous")],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_what_the_core_must_be(backend, operation, spoil, words):
    core, z = leaves()
    with pytest.raises((ValueError, RuntimeError), match=words) as raised:
        outputs = operation(spoil(core), *z, accumulate_core_grad=True, backend=backend)
        sum(o.sum() for o in in_tuple(outputs)).backward()
    assert operation.__name__ in str(raised.value)
    assert "core" in str(raised.value)


@each_backend
def test_create_graph(backend):
    core, z = leaves()
    before = core.grad.clone()
    x = ntensor.synthesis_projection(core, *z, accumulate_core_grad=True, backend=backend)
    with pytest.raises(RuntimeError, match="create_graph"):
        x.sum().backward(create_graph=True)
    assert torch.equal(core.grad, before)


TRANSFORMS = {
    "grad": lambda f, core: torch.func.grad(f)(core),
    "jacrev": lambda f, core: torch.func.jacrev(f)(core),
    "jacfwd": lambda f, core: torch.func.jacfwd(f)(core),
    "vmap": lambda f, core: torch.func.vmap(f)(torch.stack([core, core])),
    "vmap of factors": lambda f, core: torch.func.vmap(lambda _: f(core))(torch.zeros(2)),
}


@each_backend
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_functional_transforms(backend, transform):
    core, z = leaves()

    def loss(core):
        x = ntensor.synthesis_projection(core, *z, accumulate_core_grad=True, backend=backend)
        return x.sum()

    with pytest.raises(RuntimeError, match="accumulate_core_grad"):
        TRANSFORMS[transform](loss, core)


@pytest.mark.usefixtures("fresh_compiler")
def test_under_the_compiler():
    core, z = leaves()

    def step(core, *z):
        return ntensor.synthesis_projection(core, *z, accumulate_core_grad=True)

    with pytest.raises(Exception, match="accumulate_core_grad"):
        torch.compile(step, fullgraph=True, backend="aot_eager")(core, *z)


@pytest.fixture
def process_group(tmp_path):
    """A group of this process alone."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel():
    """DDP waits for a hook on the core that would never fire: an error, not a stale gradient."""
    module = ntensor.nn.MultilinearProjection((2, 3), 4, accumulate_core_grad=True)
    module.core.grad = torch.zeros_like(module.core)
    parallel = DistributedDataParallel(module)
    with pytest.raises(RuntimeError, match=r"DDP|DistributedDataParallel"):
        parallel(torch.randn(5, 2), torch.randn(5, 3)).sum().backward()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_without_it():
    """The plain gradient needs nothing under DDP."""
    module = ntensor.nn.MultilinearProjection((2, 3), 4)
    factors = torch.randn(5, 2), torch.randn(5, 3)
    (expected,) = torch.autograd.grad(module(*factors).sum(), module.core)
    DistributedDataParallel(module)(*factors).sum().backward()
    torch.testing.assert_close(module.core.grad, expected)
