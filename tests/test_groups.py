"""Several cores at once: the public ways to them, derivatives, transforms and errors."""

import itertools
import math

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

import ntensor

SIZES = dict(zip("gnxabcdh", (3, 5, 4, 2, 3, 2, 2, 2), strict=True))


def operands(equation, dtype=torch.float64, sizes=SIZES):
    torch.manual_seed(0)
    terms = equation.partition("->")[0].replace("...", "dh").split(",")
    return [torch.randn([sizes[k] for k in term], dtype=dtype) for term in terms]


def projection(core, *z):
    letters = "abcdef"[: len(z)]
    return torch.einsum(f"x{letters},{','.join('n' + k for k in letters)}->nx", core, *z)


@pytest.mark.parametrize(
    "equation",
    [
        "gna,gnb,gxab->gnx",
        "nag,nbg,abxg->nxg",
        "gxabc,gna,gnb,gnc->gnx",
        "gna,gnb,gab->gn",
        "gn,gna,gnb,gxab->ngx",
        "...na,...nb,...xab->...nx",
        "hgna,hgnb,gxhab->nhgx",
        "nga,ngb,axbdg->ngdx",
    ],
)
def test_einsum(equation):
    tensors = [each.requires_grad_() for each in operands(equation)]
    path = ntensor.einsum_path(equation, *tensors)
    assert path.kernel == "grouped_projection", path
    found, wanted = ntensor.einsum(equation, *tensors), torch.einsum(equation, *tensors)
    torch.testing.assert_close(found, wanted)
    cotangent = torch.randn_like(wanted)
    first = [torch.autograd.grad(x, tensors, cotangent, create_graph=True) for x in (found, wanted)]
    torch.testing.assert_close(*first)
    second = [torch.autograd.grad(sum((x**2).sum() for x in grads), tensors) for grads in first]
    torch.testing.assert_close(*second)


@pytest.mark.parametrize("equation", ["ga,gb,gab->g", "gna,gax->gnx", "gna,gnb,gna->gnb"])
def test_other_equations_go_to_torch(equation):
    tensors = operands(equation)
    assert ntensor.einsum_path(equation, *tensors).kernel == "torch.einsum"
    torch.testing.assert_close(ntensor.einsum(equation, *tensors), torch.einsum(equation, *tensors))


@pytest.mark.parametrize("backend", [None, "native", "reference"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("groups", "n", "k_x", "sizes"),
    [
        (1, 3, 5, (4, 3)),
        (2, 1, 1, (1, 1)),
        (3, 40, 300, (30, 20)),  # more groups than threads, and enough work for all of these
        (2, 70, 65, (9, 3, 20)),
        (7, 33, 17, (200,)),
        (0, 3, 4, (2, 3)),
        (2, 0, 4, (2, 3)),
        (2, 3, 0, (2, 3)),
        (2, 3, 4, (2, 0)),
    ],
)
def test_gradients_of_a_group_index(groups, n, k_x, sizes, threads, backend):
    torch.set_num_threads(threads)
    check_gradients(groups, n, k_x, sizes, backend)


@pytest.mark.parametrize(
    ("groups", "n", "k_x", "sizes"),
    [
        (1, 3, 5, (4, 3)),
        (3, 65, 1, (2, 1)),
        (2, 5, 17, (20,)),
        (0, 3, 4, (2, 3)),
        (2, 0, 4, (2, 3)),
        (2, 3, 0, (2, 3)),
        (2, 3, 4, (2, 0)),
    ],
)
def test_gradients_by_triton(groups, n, k_x, sizes):
    check_gradients(groups, n, k_x, sizes, "triton")


def check_gradients(groups, n, k_x, sizes, backend):
    """Result and gradients of `(g, n, k_m)` factors, against float64 einsum."""
    core = torch.randn(groups, k_x, *sizes, requires_grad=True)
    z = [torch.randn(groups, n, k, requires_grad=True) for k in sizes]
    cotangent = torch.randn(groups, n, k_x)
    x = ntensor.synthesis_projection(core, *z, backend=backend)
    found = torch.autograd.grad(x, (core, *z), cotangent)
    wide = [each.detach().double().requires_grad_() for each in (core, *z)]
    letters = "abcdef"[: len(sizes)]
    factors = ",".join("gn" + k for k in letters)
    expected = torch.einsum(f"gx{letters},{factors}->gnx", *wide)
    wanted = torch.autograd.grad(expected, wide, cotangent.double())
    scale = 1e-6 * math.sqrt(max(1, n * k_x * math.prod(sizes)))
    for ours, exact in zip((x, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=scale)


@pytest.mark.parametrize("dims", [d for d in itertools.product((0, 1, None), repeat=3) if any(
    each is not None for each in d
)])  # fmt: skip
def test_vmap_over_cores_and_factors(dims):
    core, z, z2 = operands("gxab,gna,gnb->gnx")
    mapped = [
        each[0] if dim is None else each.movedim(0, dim)
        for each, dim in zip((core, z, z2), dims, strict=True)
    ]

    def loss(function):
        return lambda *tensors: function(*tensors).sin().sum()

    for ours, plain in (
        (ntensor.synthesis_projection, projection),
        (grad(loss(ntensor.synthesis_projection), (0, 1, 2)), grad(loss(projection), (0, 1, 2))),
    ):
        found, wanted = vmap(ours, dims)(*mapped), vmap(plain, dims)(*mapped)
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "outer", [d for d in itertools.product((0, None), repeat=3) if 0 in d], ids=str
)
def test_nested_vmap(outer):
    tensors = [torch.stack([each, each.flip(0)]) for each in operands("gxab,gna,gnb->gnx")]
    mapped = [each if dim == 0 else each[0] for each, dim in zip(tensors, outer, strict=True)]
    found = vmap(vmap(ntensor.synthesis_projection), outer)(*mapped)
    torch.testing.assert_close(found, vmap(vmap(projection), outer)(*mapped))


@pytest.mark.parametrize(("n", "k"), [(0, 2), (3, 0), (0, 0)])
def test_nested_vmap_of_nothing(n, k):
    """No samples, or an extent of 0: no size follows from the number of elements."""
    core, z, z2 = torch.randn(3, 4, k, 2), torch.randn(5, 3, n, k), torch.randn(3, n, 2)
    found = vmap(vmap(ntensor.synthesis_projection), (None, 0, None))(core, z, z2)
    assert torch.equal(found, torch.zeros(5, 3, n, 4))


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """The operations of ntensor that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.namespace == "ntensor":
            self.names.append(function.name().partition("::")[2])
        return function(*arguments, **(keywords or {}))


def test_an_ensemble_is_one_call():
    layers = [torch.nn.Bilinear(3, 4, 5, bias=False) for _ in range(6)]
    parameters, _ = stack_module_state(layers)
    x, y = torch.randn(7, 3), torch.randn(7, 4)
    ours = ntensor.nn.Bilinear(3, 4, 5, bias=False)

    def one(weights, x, y):
        return functional_call(ours, weights, (x, y))

    with Calls() as calls:
        found = vmap(one, (0, None, None))(parameters, x, y)
    assert calls.names == ["grouped_projection"]
    torch.testing.assert_close(found, torch.stack([layer(x, y) for layer in layers]))


def test_gradients_per_sample_are_one_call_each():
    core, z, z2 = operands("xab,na,nb->nx")

    def loss(core, a, b):
        return ntensor.synthesis_projection(core, a[None], b[None]).sin().sum()

    with Calls() as calls:
        found = vmap(grad(loss), (None, 0, 0))(core, z, z2)
    assert calls.names == ["synthesis_projection", "grouped_projection_core_grad"]

    def plain(core, a, b):
        return projection(core, a[None], b[None]).sin().sum()

    wanted = [grad(plain)(core, a, b) for a, b in zip(z, z2, strict=True)]
    torch.testing.assert_close(found, torch.stack(wanted))


def test_compiles():
    tensors = [each.requires_grad_() for each in operands("gna,gnb,gxab->gnx")]

    def step(*tensors):
        return ntensor.einsum("gna,gnb,gxab->gnx", *tensors).sin().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), step(*tensors))
    found = torch.autograd.grad(compiled(*tensors), tensors)
    torch.testing.assert_close(found, torch.autograd.grad(step(*tensors), tensors))


def test_autocast():
    tensors = operands("gxab,gna,gnb->gnx", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert ntensor.synthesis_projection(*tensors).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 4, 2, 3), (3, 5, 2), (2, 5, 3)), r"factors\[1\] must .*\(3, 5, k_m\)"),
        (((3, 4, 2, 3), (2, 5, 2), (2, 5, 3)), r"factors\[0\] must .*\(3, 5, k_m\)"),
        (((3, 4, 2, 3), (3, 5, 2), (3, 4, 3)), r"factors\[1\] must .*\(3, 5, k_m\)"),
        (((3, 4, 2, 3), (3, 5, 2), (3, 5, 4)), "core must"),
    ],
)
def test_errors(shapes, message):
    with pytest.raises(ValueError, match=message):
        ntensor.synthesis_projection(*map(torch.randn, shapes))


def test_groups_do_not_accumulate():
    core, *z = operands("gxab,gna,gnb->gnx")
    with pytest.raises(ValueError, match="accumulate_core_grad: wanted one core, got groups"):
        ntensor.synthesis_projection(core, *z, accumulate_core_grad=True)


@pytest.mark.parametrize("groups", [0, -2, 4])
def test_groups_that_do_not_fit(groups):
    with pytest.raises(ValueError, match="groups"):
        torch.ops.ntensor.grouped_projection(torch.ones(6, 2), [torch.ones(9, 2)], groups)
