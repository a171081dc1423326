"""Every choice of extents among 0, 1 and 2: what is empty or has one entry has ways of its own."""

import itertools
from functools import partial

import pytest
import torch

import definitions
import ntensor
from test_einsum import OTHERS, RECOGNISED, compare, operands_of

EQUATIONS = [equation for equation, _ in RECOGNISED] + OTHERS
EQUATIONS += ["gbi,gbj,goij->gbo", "gbi,gbj,gij->gb", "goi,gbi->gbo", "bi,j->bij"]


def small(count):
    """Extents with a 0 or a 1 among them; with a 0 where there are many."""
    wanted = {0, 1} if count <= 4 else {0}
    return [each for each in itertools.product((0, 1, 2), repeat=count) if wanted & set(each)]


def results_of(function, operands):
    """Every result, then the gradient of the sum of their squares by every operand."""
    found = function(*operands)
    results = list(found) if isinstance(found, tuple) else [found]
    total = sum(result.square().sum() for result in results)
    if not total.requires_grad:
        return results
    return [*(result.detach() for result in results), *torch.autograd.grad(total, operands)]


def check(function, plain, operands, where):
    """Forward alone, then recorded with its gradients."""
    for recorded in (False, True):
        operands = [each.detach().requires_grad_(recorded) for each in operands]
        found, wanted = results_of(function, operands), results_of(plain, operands)
        for one, other in zip(found, wanted, strict=True):
            compare(one, other, where=where)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation):
    letters = sorted({letter for letter in equation if letter.isalpha()})
    for extents in small(len(letters)):
        sizes = dict(zip(letters, extents, strict=True))
        check(
            lambda *operands: ntensor.einsum(equation, *operands),
            lambda *operands: torch.einsum(equation, *operands),
            operands_of(equation, sizes=sizes),
            f"{equation} {sizes}",
        )


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("factors", [1, 2, 3])
@pytest.mark.parametrize(
    "name", ["synthesis", "synthesis_projection", "synthesis_projection_with_mean"]
)
def test_operation(name, factors):
    torch.manual_seed(factors)
    for n, k_x, *extents in small(2 + factors):
        if name == "synthesis_projection_with_mean" and extents[0] == 0:
            continue  # the mean of nothing
        operands = [randn(n, extent) for extent in extents]
        if name != "synthesis":
            operands.insert(0, randn(k_x, *extents))
        where = f"{name} n={n} k_x={k_x} {extents}"
        check(getattr(ntensor, name), getattr(definitions, name), operands, where)


def test_bilinear():
    torch.manual_seed(0)
    for n, k_x, k_1, k_2 in small(4):
        operands = randn(n, k_1), randn(n, k_2), randn(k_x, k_1, k_2), randn(k_x)
        check(ntensor.bilinear, definitions.bilinear, operands, f"n={n} k_x={k_x} {k_1}x{k_2}")


@pytest.mark.parametrize("modes", [2, 3])
def test_mttkrp(modes):
    torch.manual_seed(modes)
    for (rank, *extents), mode in itertools.product(small(1 + modes), range(modes)):
        factors = [randn(extent, rank) for extent in extents]
        unused = factors.pop(mode)

        def call(function, tensor, *used, mode=mode, unused=unused):
            return function(tensor, [*used[:mode], unused, *used[mode:]], mode)

        ours, plain = (partial(call, where.mttkrp) for where in (ntensor, definitions))
        check(ours, plain, [randn(*extents), *factors], f"mode {mode} rank {rank} {extents}")
