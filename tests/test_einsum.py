"""`ntensor.einsum`: every equation as `torch.einsum`, the recognised ones by a kernel."""

import random
import string

import pytest
import torch

import layouts
import ntensor
from tolerances import DTYPES

SIZES = {"b": 6, "r": 5, "n": 2, "i": 3, "j": 4, "k": 2, "l": 3, "o": 7, "p": 2}
RECOGNISED = [
    ("bi,bj,oij->bo", "synthesis_projection"),
    ("bi,bj,ijo->bo", "mttkrp"),
    ("bi,bj,ioj->bo", "mttkrp"),
    ("oij,bj,bi->bo", "synthesis_projection"),
    ("jb,oij,bi->ob", "synthesis_projection"),
    ("bi,bj,ij->b", "synthesis_projection"),
    ("bi,bj,bk,oijk->bo", "synthesis_projection"),
    ("bi,bk,oijk->boj", "synthesis_projection"),
    ("bi,bk,iojk->bjo", "mttkrp"),
    ("bi,bk,oikj->ojb", "synthesis_projection"),
    ("ijk,jr,kr->ir", "synthesis_projection"),
    ("ijk,ir,kr->jr", "mttkrp"),
    ("ijk,ir,jr->kr", "mttkrp"),
    ("ijk,ir,jr,r->kr", "mttkrp"),
    ("r,ijk,jr,r,kr->ir", "synthesis_projection"),
    ("bi, bj , ijo -> bo", "mttkrp"),
    ("...i,...j,oij", "synthesis_projection"),
    ("nbi,nbj,oij->nbo", "synthesis_projection"),
    ("nbi,bnj,oij->bno", "synthesis_projection"),
    ("...i,...j,oij->...o", "synthesis_projection"),
    ("...i,...j,ijo->o...", "mttkrp"),
    ("...i,...j,...,ijo->...o", "mttkrp"),
    ("bo,bi,bj->oij", "projection_core_grad"),
    ("ir,jr,kr->ijk", "projection_core_grad"),
    ("ir,r,jr,kr->kij", "projection_core_grad"),
    ("ir,jr,kr,lr->ijkl", "projection_core_grad"),
    ("bi,bj->bij", "synthesis"),
    ("bi,bj,bk->bkij", "synthesis"),
    ("bi,jb->jbi", "synthesis"),
    ("b,bi,bj->bij", "synthesis"),
    ("...i,...j->...ij", "synthesis"),
]
OTHERS = [
    "bi,ijo->bjo",  # one matrix product
    "ir,jr->ij",
    "bi,bi,ij->bj",  # two matrices of one label
    "bi,bj,bij->b",  # a core of each sample
    "bi,bj,ij->",  # a sum over the samples
    "i,j,ij->",
    "ii,ij,jk->k",
    "bi,bj,oij->o",
    "bi,j,oij->bo",  # a factor that all samples share
    "nbi,bj,oij->nbo",  # samples of one factor alone
    "bi,bj->b",
    "bij->bji",
    "bi,bi->b",
]


def operands_of(equation, dtype=torch.float64, seed=0, layout="contiguous", sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)
    words = equation.replace(" ", "").partition("->")[0].split(",")
    found = []
    for word in words:
        before, dots, after = word.partition("...")
        shape = [sizes[k] for k in before] + [2, 3] * bool(dots) + [sizes[k] for k in after]
        found.append(layouts.make(layout, shape, dtype, generator))
    return found


def compare(found, wanted, dtype=torch.float64, where=""):
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 4e-2)
    assert found.shape == wanted.shape, where
    assert found.dtype is dtype, where
    scale = wanted.abs().max().item() + 1e-30 if wanted.numel() else 1
    torch.testing.assert_close(found.double() / scale, wanted / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("equation", "kernel"), RECOGNISED)
def test_recognised(equation, kernel, dtype):
    operands = operands_of(equation, dtype)
    wanted = torch.einsum(equation, *(each.double() for each in operands))
    compare(ntensor.einsum(equation, *operands), wanted, dtype)
    path = ntensor.einsum_path(equation, *operands)
    assert path.kernel == kernel and path.reason == ""
    assert (path.saved_bytes > 0) == (kernel != "synthesis")


@pytest.mark.parametrize("equation", OTHERS)
def test_others_are_torchs(equation):
    operands = operands_of(equation)
    wanted = torch.einsum(equation, *operands)
    assert torch.equal(ntensor.einsum(equation, *operands), wanted)
    path = ntensor.einsum_path(equation, *operands)
    assert path.kernel == "torch.einsum" and path.reason and path.saved_bytes == 0


@pytest.mark.parametrize("layout", sorted(layouts.LAYOUTS))
@pytest.mark.parametrize("equation", ["bi,bj,ijo->bo", "bi,bk,oijk->bjo", "ir,jr,kr->ijk"])
def test_any_strides(layout, equation):
    operands = operands_of(equation, layout=layout)
    compare(ntensor.einsum(equation, *operands), torch.einsum(equation, *operands))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
def test_a_dense_core_is_not_copied(order):
    """Whatever the order of its modes in memory."""
    torch.manual_seed(0)
    places = sorted(range(3), key=order.__getitem__)
    core = torch.randn([(30, 40, 50)[place] for place in order]).permute(places)
    a, b = torch.randn(4, 30), torch.randn(4, 40)
    assert core.shape == (30, 40, 50)
    copies = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            if "clone" in str(function) or "copy" in str(function):
                copies.append(result.numel())
            return result

    with Watch():
        found = ntensor.einsum("bi,bj,ijo->bo", a, b, core)
    assert not [count for count in copies if count >= core.numel()]
    wide = (a.double(), b.double(), core.double())
    compare(found, torch.einsum("bi,bj,ijo->bo", *wide), torch.float32)


@pytest.mark.parametrize(("equation", "kernel"), RECOGNISED)
def test_gradients_of_two_orders(equation, kernel):
    operands = [each.requires_grad_() for each in operands_of(equation)]
    others = [each.detach().clone().requires_grad_() for each in operands]
    found, wanted = ntensor.einsum(equation, *operands), torch.einsum(equation, *others)
    cotangent = torch.randn_like(wanted)
    first = torch.autograd.grad(found, operands, cotangent, create_graph=True)
    right = torch.autograd.grad(wanted, others, cotangent, create_graph=True)
    for one, other in zip(first, right, strict=True):
        compare(one.detach(), other.detach())
    if kernel == "synthesis" and len(operands) == 2:
        return  # linear in each: nothing of second order but zeros in one
    second = torch.autograd.grad(sum(g.square().sum() for g in first), operands)
    right = torch.autograd.grad(sum(g.square().sum() for g in right), others)
    for one, other in zip(second, right, strict=True):
        compare(one, other)


def test_sublists():
    a, b, core = operands_of("bi,bj,ijo->bo")
    found = ntensor.einsum(a, [30, 2], b, [30, 3], core, [2, 3, 9], [30, 9])
    compare(found, torch.einsum("bi,bj,ijo->bo", a, b, core))
    found = ntensor.einsum(a, [..., 2], b, [..., 3], core, [2, 3, 9])
    compare(found, torch.einsum(a, [..., 2], b, [..., 3], core, [2, 3, 9]))
    assert ntensor.einsum_path(a, [0, 2], b, [0, 3], core, [2, 3, 9], [0, 9]).kernel == "mttkrp"


def test_operands_in_a_list():
    operands = operands_of("bi,bj,ijo->bo")
    compare(ntensor.einsum("bi,bj,ijo->bo", operands), torch.einsum("bi,bj,ijo->bo", *operands))


WRONG = [
    ("bi,bj,ijo->bo", (torch.ones(2, 3), torch.ones(2, 4))),
    ("bi,bj,ijo->bo", (torch.ones(2, 3), torch.ones(2, 4), torch.ones(3, 5, 6))),
    ("bi,bj,ijo->bo", (torch.ones(2, 3), torch.ones(3, 4), torch.ones(3, 4, 6))),
    ("bi,bj,ijo->bz", (torch.ones(2, 3), torch.ones(2, 4), torch.ones(3, 4, 6))),
    ("bi,bj,ijo->bbo", (torch.ones(2, 3), torch.ones(2, 4), torch.ones(3, 4, 6))),
    ("b1,bj,1jo->bo", (torch.ones(2, 3), torch.ones(2, 4), torch.ones(3, 4, 6))),
    ("bi,bj,ijo->bo", (torch.ones(2, 3), torch.ones(2, 4), [1.0])),
    ("", ()),
    ("->", ()),
    (1, ()),
]


@pytest.mark.parametrize(("equation", "operands"), WRONG)
def test_errors_are_torchs(equation, operands):
    with pytest.raises(Exception) as wanted:
        torch.einsum(equation, *operands)
    with pytest.raises(type(wanted.value)) as found:
        ntensor.einsum(equation, *operands)
    assert str(found.value).splitlines()[0] == str(wanted.value).splitlines()[0]
    assert ntensor.einsum_path(equation, *operands).kernel == "torch.einsum"


def test_a_broadcast_label_is_torchs():
    operands = torch.ones(2, 3), torch.ones(1, 4), torch.ones(3, 4, 6)
    compare(ntensor.einsum("bi,bj,ijo->bo", *operands).double(), torch.full((2, 6), 12.0).double())


def test_other_dtypes_are_torchs():
    a, b, core = torch.ones(2, 3), torch.ones(2, 4), torch.ones(3, 4, 6)
    for dtype in (torch.int64, torch.complex64):
        operands = [each.to(dtype) for each in (a, b, core)]
        assert torch.equal(
            ntensor.einsum("bi,bj,ijo->bo", *operands), torch.einsum("bi,bj,ijo->bo", *operands)
        )


def test_autocast():
    operands = operands_of("bi,bj,ijo->bo", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = ntensor.einsum("bi,bj,ijo->bo", *operands)
        wanted = torch.einsum("bi,bj,ijo->bo", *operands)
    assert found.dtype is wanted.dtype is torch.bfloat16
    exact = torch.einsum("bi,bj,ijo->bo", *(each.double() for each in operands))
    compare(found, exact, torch.bfloat16)


@pytest.mark.parametrize("equation", ["bi,bj,ijo->bo", "bi,bj,oij->bo", "ir,jr,kr->ijk"])
def test_compiled_and_transformed(equation):
    operands = operands_of(equation)
    wanted = torch.einsum(equation, *operands)
    compiled = torch.compile(lambda *each: ntensor.einsum(equation, *each), fullgraph=True)
    compare(compiled(*operands), wanted)
    jacobian = torch.func.jacrev(lambda first: ntensor.einsum(equation, first, *operands[1:]))
    right = torch.func.jacrev(lambda first: torch.einsum(equation, first, *operands[1:]))
    compare(jacobian(operands[0]), right(operands[0]))
    stacked = [torch.stack([each, 2 * each]) for each in operands]
    found = torch.func.vmap(lambda *each: ntensor.einsum(equation, *each))(*stacked)
    compare(found, torch.stack([wanted, 2 ** len(operands) * wanted]))


class _Function(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        return function


def test_a_type_with_a_torch_function_is_torchs():
    a, b, core = operands_of("bi,bj,ijo->bo")
    assert ntensor.einsum("bi,bj,ijo->bo", a.as_subclass(_Function), b, core) is torch.einsum


def drawn(source):
    """A random equation near the recognised ones, and its operands."""
    letters = source.sample(string.ascii_letters, 8)
    order = source.randint(1, 4)
    core = letters[:order]
    batch = letters[4 : 4 + source.choice((0, 1, 1, 1, 2))]
    sizes = {letter: source.choice((0, 1, 1, 2, 3, 4)) for letter in letters}
    terms = [core] if source.random() < 0.8 else []
    for letter in core:
        if source.random() < 0.8:
            terms.append([*batch, letter] if source.random() < 0.9 else [letter])
    if source.random() < 0.2:
        terms.append(list(batch))
    if not terms:
        terms = [core]
    source.shuffle(terms)
    terms = [source.sample(term, len(term)) for term in terms]
    counts = [letter for term in terms for letter in term]
    output = [letter for letter in dict.fromkeys(counts) if source.random() < 0.6]
    if source.random() < 0.6:
        own = [letter for letter in core if counts.count(letter) == 1]
        output = [letter for letter in (*batch, *own) if letter in counts]
    source.shuffle(output)
    equation = f"{','.join(map(''.join, terms))}->{''.join(output)}"
    generator = torch.Generator().manual_seed(source.randrange(1 << 30))
    layout = source.choice(sorted(layouts.LAYOUTS))
    operands = [
        layouts.make(
            layout if term else "contiguous",
            [sizes[letter] for letter in term],
            torch.float64,
            generator,
        )
        for term in terms
    ]
    return equation, operands


def test_random_equations():
    seed = random.SystemRandom().randrange(1 << 30)
    source = random.Random(seed)
    kernels = set()
    for _ in range(600):
        equation, operands = drawn(source)
        where = f"seed {seed}: {equation} of {[tuple(each.shape) for each in operands]}"
        wanted = torch.einsum(equation, *operands)
        kernels.add(ntensor.einsum_path(equation, *operands).kernel)
        try:
            compare(ntensor.einsum(equation, *operands), wanted, where=where)
        except Exception as error:
            raise AssertionError(where) from error
    assert len(kernels) >= 4, kernels
