"""The modules of `ntensor.nn`."""

import copy
import io
import math
import pickle

import pytest
import torch

import definitions
import ntensor
from backends import each_backend

SIZES = (3, 4, 5)


def factors(n=6, sizes=SIZES, **options):
    return [torch.randn(n, k, **options) for k in sizes]


def projection(**options):
    return ntensor.nn.MultilinearProjection(SIZES, 7, **options)


@each_backend
def test_projection_forward_and_parameters(backend):
    module = projection()
    assert [name for name, _ in module.named_parameters()] == ["core"]
    assert module.core.shape == (7, *SIZES)
    z = factors()
    with ntensor.use_backend(backend):
        x = module(*z)
    torch.testing.assert_close(x, definitions.synthesis_projection(module.core, *z))


def test_projection_equals_linear_layer_on_the_synthesis():
    """The mode-1 matricisation of the core is the weight of an unbiased `nn.Linear`."""
    module, z = projection(), factors()
    linear = torch.nn.Linear(math.prod(SIZES), 7, bias=False)
    linear.weight.data = module.core.data.reshape(7, -1)
    torch.testing.assert_close(module(*z), linear(definitions.synthesis(*z)))


def test_projection_initialisation_keeps_the_variance():
    """Factors of unit variance give outputs of unit variance, for any number of factors."""
    for sizes in ((50,), (9, 15, 80), (15, 80)):
        torch.manual_seed(0)
        module = ntensor.nn.MultilinearProjection(sizes, 256)
        assert torch.isfinite(module.core).all()
        scale = module(*factors(64, sizes)).std().item()
        assert 0.8 < scale < 1.25


def test_projection_reset_parameters_follows_the_seed():
    torch.manual_seed(5)
    first = projection().core.detach().clone()
    torch.manual_seed(5)
    module = projection()
    assert torch.equal(module.core, first)
    module.reset_parameters()
    assert not torch.equal(module.core, first)


def test_projection_accumulates_into_grad():
    module, z = projection(accumulate_core_grad=True), factors()
    module.core.grad = torch.zeros_like(module.core)
    place = module.core.grad.data_ptr()
    module(*z).sum().backward()
    fresh = torch.autograd.grad(
        definitions.synthesis_projection(module.core, *z).sum(), module.core
    )
    torch.testing.assert_close(module.core.grad, fresh[0])
    assert module.core.grad.data_ptr() == place


MODULES = {
    "MultilinearProjection": (projection, factors),
    "FeatureRotation": (
        lambda **options: ntensor.nn.FeatureRotation(layout="row"),
        lambda: [torch.randn(4, 12), torch.randn(4, 3, 3)],
    ),
    "Bilinear": (
        lambda **options: ntensor.nn.Bilinear(3, 4, 5, **options),
        lambda: [torch.randn(2, 6, 3), torch.randn(2, 6, 4)],
    ),
}
each_module = pytest.mark.parametrize("name", MODULES)


@each_module
def test_copies(name):
    """deepcopy, pickle, and a state dict through a file give the same outputs."""
    build, arguments = MODULES[name]
    module, inputs = build(), arguments()
    expected = module(*inputs)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = build()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert torch.equal(other(*inputs), expected)


@each_module
def test_dtype_device_and_meta(name):
    build, _ = MODULES[name]
    for module in (build(dtype=torch.float64), build().double(), build().to(torch.bfloat16)):
        assert len({p.dtype for p in module.parameters()}) <= 1
    for parameter in build(dtype=torch.float64).parameters():
        assert parameter.dtype == torch.float64
    for parameter in build(device="meta").parameters():
        assert parameter.is_meta
    if name != "FeatureRotation":
        module = build(device="meta").to_empty(device="cpu")
        module.reset_parameters()
        assert all(torch.isfinite(p).all() for p in module.parameters())


@each_module
def test_representation_names_the_sizes(name):
    """`print(module)` shows what is needed to build it again."""
    words = {
        "MultilinearProjection": ("(3, 4, 5)", "7"),
        "FeatureRotation": ("row",),
        "Bilinear": ("in1_features=3", "in2_features=4", "out_features=5", "bias=True"),
    }
    text = repr(MODULES[name][0]())
    assert name in text
    assert all(word in text for word in words[name])


@each_module
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled(name):
    build, arguments = MODULES[name]
    module, inputs = build(), arguments()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), module(*inputs))


@each_backend
@pytest.mark.parametrize("layout", ["column", "row"])
def test_feature_rotation(backend, layout):
    y, R = torch.randn(4, 12), torch.randn(4, 3, 3)
    with ntensor.use_backend(backend):
        out = ntensor.nn.FeatureRotation(layout=layout)(y, R)
    torch.testing.assert_close(out, definitions.rotation(y, R, layout))


def test_feature_rotation_default_and_error():
    y, R = torch.randn(4, 12), torch.randn(4, 3, 3)
    expected = definitions.rotation(y, R, "column")
    torch.testing.assert_close(ntensor.nn.FeatureRotation()(y, R), expected)
    with pytest.raises(ValueError, match="layout"):
        ntensor.nn.FeatureRotation(layout="diagonal")(y, R)


@pytest.mark.parametrize("bias", [True, False])
def test_bilinear_stands_in_for_that_of_torch(bias):
    """Signature, initialisation from one seed, state dict both ways, values, gradients."""
    torch.manual_seed(3)
    ours = ntensor.nn.Bilinear(3, 4, 5, bias)
    torch.manual_seed(3)
    theirs = torch.nn.Bilinear(3, 4, 5, bias)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(torch.nn.Bilinear(3, 4, 5, bias).state_dict())
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(2, 6, 3), torch.randn(2, 6, 4)
    results = [module(*inputs) for module in (ours, theirs)]
    torch.testing.assert_close(*results)
    grads = [
        torch.autograd.grad(x.square().sum(), list(module.parameters()))
        for x, module in zip(results, (ours, theirs), strict=True)
    ]
    torch.testing.assert_close(*grads)
    assert (ours.in1_features, ours.in2_features, ours.out_features) == (3, 4, 5)


def test_bilinear_of_torch_is_replaced_in_place():
    """Keyword arguments of `torch.nn.Bilinear` are accepted."""
    module = ntensor.nn.Bilinear(
        in1_features=3, in2_features=4, out_features=5, bias=True, device="cpu", dtype=torch.float64
    )
    assert module.weight.shape == (5, 3, 4)
    assert module.bias.dtype == torch.float64
    assert ntensor.nn.Bilinear(3, 4, 5, bias=False).bias is None


@pytest.mark.parametrize(
    ("sizes", "memory_format"),
    [((3, 4, 5), torch.channels_last), ((3, 2, 4, 5), torch.channels_last_3d)],
    ids=["channels_last", "channels_last_3d"],
)
def test_projection_stays_contiguous_under_a_memory_format(sizes, memory_format):
    """A core of as many dimensions as a batch of images; its gradient is added to as before."""
    module = ntensor.nn.MultilinearProjection(sizes, 7, accumulate_core_grad=True)
    z, core = factors(sizes=sizes), module.core
    expected = module(*z)
    model = torch.nn.Sequential(module).to(memory_format=memory_format)
    assert model[0].core is core
    assert core.is_contiguous()
    assert core.grad.is_contiguous()
    x = module(*z)
    assert torch.equal(x, expected)
    x.sum().backward()
    assert core.grad.abs().sum() > 0


def test_projection_takes_a_parametrized_core():
    """Fewer rows than columns: the orthogonal core is a transposed view."""
    module = ntensor.nn.MultilinearProjection((4, 5), 3)
    z = factors(sizes=(4, 5))
    torch.nn.utils.parametrizations.orthogonal(module, "core")
    assert not module.core.is_contiguous()
    expected = definitions.synthesis_projection(module.core, *z)
    torch.testing.assert_close(module.to(memory_format=torch.channels_last)(*z), expected)


@pytest.mark.parametrize(
    ("sizes", "out_features", "error", "words"),
    [
        ((3, -4), 6, ValueError, r"factor_sizes\[1\] must not be negative, got -4"),
        ((3, 4), -6, ValueError, "out_features must not be negative, got -6"),
        ((3, 4.5), 6, TypeError, r"factor_sizes\[1\] must be an int, got float"),
        ("34", 6, TypeError, r"factor_sizes\[0\] must be an int, got str"),
        (12, 6, TypeError, "factor_sizes must be a sequence of int, got int"),
        (None, 6, TypeError, "factor_sizes must be a sequence of int, got NoneType"),
        ((3, 4), None, TypeError, "out_features must be an int, got NoneType"),
        ((3, 4), (6,), TypeError, "out_features must be an int, got tuple"),
        ((), 6, ValueError, "at least one factor"),
        ((1,) * 64, 6, ValueError, "at most 63 factors are possible, got 64"),
        ((2**40, 2**40), 6, ValueError, r"less than 2\^48 elements"),
    ],
)
def test_wrong_sizes(sizes, out_features, error, words):
    with pytest.raises(error, match=f"^MultilinearProjection: .*{words}"):
        ntensor.nn.MultilinearProjection(sizes, out_features)


@each_backend
def test_most_factors(backend):
    """63 of them are right in value and gradient."""
    layer = ntensor.nn.MultilinearProjection((1,) * 61 + (2, 3), 4)
    z = [torch.randn(5, k, requires_grad=True) for k in layer.factor_sizes]
    with ntensor.use_backend(backend):
        layer(*z).sum().backward()
    lead = torch.stack([each.detach()[:, 0] for each in z[:61]]).prod(0)
    core = layer.core.detach().view(4, 2, 3).double()
    wide = [each.detach().double() for each in z[-2:]]
    torch.testing.assert_close(
        z[-1].grad.double(),
        torch.einsum("s,xij,si->sj", lead.double(), core, wide[0]),
        rtol=1e-4,
        atol=1e-5,
    )
