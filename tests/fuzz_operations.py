"""Every public operation as the fuzz calls it, and the same in float64 by einsum alone.

A function takes the case's tensors and returns a list of results.
"""

import math
import random

import torch

import ntensor
from fuzz_cases import MOST_GROUPS

WITHOUT_GRADIENTS = ("sweep",)


def shapes(case):
    """Of the inputs and of the outputs, and the places of the inputs that must be contiguous."""
    n, sizes, k_x = case.n, case.sizes, case.k_x
    factors = [(n, k) for k in sizes]
    if case.operation == "synthesis":
        return factors, [(n, math.prod(sizes))], ()
    if case.operation in ("projection", "with_mean"):
        outputs = [(n, k_x)] * (2 if case.operation == "with_mean" else 1)
        return [(k_x, *sizes), *factors], outputs, (0,)
    if case.operation == "grouped":
        g = _group_count(case)
        core = (g, k_x, *sizes)
        if case.option % 2:
            return [(*sizes, g, k_x), *((n, g, k) for k in sizes)], [(n, k_x, g)], ()
        return [core, *((g, n, k) for k in sizes)], [(g, n, k_x)], (0,)
    if case.operation == "rotation":
        return [(n, *sizes), (n, 3, 3)], [(n, *sizes)], ()
    if case.operation == "rotated":
        return [*factors, (n, 3, 3)], [(n, math.prod(sizes))], ()
    if case.operation == "bilinear":
        leading = _leading(case)
        inputs = [*((*leading, k) for k in sizes), (k_x, *sizes), *([(k_x,)] * (case.option % 2))]
        return inputs, [(*leading, k_x)], ()
    if case.operation == "contract":
        place = case.option % len(sizes)
        rest = sizes[:place] + sizes[place + 1 :]
        return [(k_x, *sizes), (sizes[place],)], [(k_x, *rest)], (0,)
    if case.operation == "einsum":
        terms, output = _terms(case)
        extents = {"n": n, "x": k_x, **dict(zip("abcdef", sizes, strict=False))}
        *inputs, result = ([extents[k] for k in term] for term in (*terms, output))
        return [tuple(shape) for shape in inputs], [tuple(result)], ()
    matrices = [(k, n) for k in sizes]
    if case.operation == "reconstruction":
        return matrices, [sizes], ()
    weights = [(n,)] * (case.option % 2)
    if case.operation == "mttkrp":
        return [sizes, *matrices, *weights], [(sizes[_mode(case)], n)], (0,)
    repeats = 2 if case.operation == "sweep" else 1
    return [sizes, *matrices, *weights], matrices * repeats, (0,)


def _leading(case):
    if case.n == 1 and case.option % 3 == 0:
        return ()
    return (1, case.n) if case.option % 3 == 1 else (case.n,)


def _group_count(case):
    return 1 + case.option // 2 % MOST_GROUPS


def _mode(case):
    return case.option // 2 % len(case.sizes)


def _terms(case):
    """Of an einsum: core, factors, output; the core's labels in any cyclic order, or in any."""
    labels = "x" + "abcdef"[: len(case.sizes)]
    first = case.option % len(labels)
    sides = case.option // len(labels)
    factors = [k + "n" if sides >> place & 1 else "n" + k for place, k in enumerate(labels[1:])]
    of_core = labels[first:] + labels[:first]
    if case.seed % 2:
        of_core = "".join(random.Random(case.seed).sample(labels, len(labels)))
    return [of_core, *factors], "xn" if case.option % 2 else "nx"


def _layout(case):
    return "row" if case.option % 2 else "column"


def ours(case, accumulate=False):
    """The operation of the library."""
    backend = case.backend

    def projection(core, *z):
        return [
            ntensor.synthesis_projection(core, *z, accumulate_core_grad=accumulate, backend=backend)
        ]

    def with_mean(core, *z):
        return list(
            ntensor.synthesis_projection_with_mean(
                core, *z, accumulate_core_grad=accumulate, backend=backend
            )
        )

    def bilinear(x1, x2, weight, bias=None):
        return [ntensor.bilinear(x1, x2, weight, bias, backend=backend)]

    def einsum(*operands):
        terms, output = _terms(case)
        return [ntensor.einsum(f"{','.join(terms)}->{output}", *operands)]

    def grouped(core, *z):
        if case.option % 2 == 0:
            return [ntensor.synthesis_projection(core, *z, backend=backend)]
        labels = "abcdef"[: len(z)]
        factors = ",".join("ng" + label for label in labels)
        return [ntensor.einsum(f"{labels}gx,{factors}->nxg", core, *z)]

    def reconstruction(*z):
        labels = "abcdef"[: len(z)]
        return [ntensor.einsum(f"{','.join(k + 'n' for k in labels)}->{labels}", *z)]

    def contract(core, z):
        return [ntensor.contract(core, z, 1 + case.option % len(case.sizes))]

    def synthesis(*z):
        return [ntensor.synthesis(*z, backend=backend)]

    def rotation(y, R):
        return [ntensor.rotation(y, R, _layout(case), backend=backend)]

    def rotated(z_exp, z_id, R):
        return [ntensor.rotated_synthesis(z_exp, z_id, R, _layout(case), backend=backend)]

    def mttkrp(tensor, *rest):
        factors, weights = _split(tensor, rest)
        mode = _mode(case) - (tensor.dim() if case.option % 3 else 0)
        return [ntensor.mttkrp(tensor, factors, mode, weights, backend=backend)]

    def mttkrp_all(tensor, *rest):
        return ntensor.mttkrp_all(tensor, *_split(tensor, rest), backend=backend)

    def sweep(tensor, *rest):
        own = tensor.clone()  # of memory that torch has alone, or nothing is shared
        kept = ntensor.MttkrpSweep(own)

        def one(factors, mode, weights):
            return kept(own, factors, mode, weights, backend=backend)

        return _two_sweeps(case, one, tensor, rest)

    return locals()[case.operation]


def _split(tensor, rest):
    order = tensor.dim()
    return list(rest[:order]), rest[order] if len(rest) > order else None


def _two_sweeps(case, one, tensor, rest):
    """The modes in turn, twice; after each its factor gets other values, in one of several ways."""
    factors, weights = _split(tensor, rest)
    factors = [factor.clone() for factor in factors]
    results = []
    for turn in range(2):
        for mode in range(tensor.dim()):
            results.append(one(factors, mode, weights))
            other = factors[mode].flip(0).neg()
            way = (case.option + turn + mode) % 3
            if way == 0:
                factors[mode] = other
            elif way == 1:
                factors[mode].copy_(other)
            else:
                factors[mode].data.copy_(other)
    return results


def einsum_by_sums(equation, *operands):
    """As `torch.einsum`, with every product of the operands' elements in memory: torch.sum adds
    them up in pairs, in the derivatives too, where a product of matrices may add in one chain."""
    inputs, output = equation.split("->")
    terms = inputs.split(",")
    dims = max(
        each.dim() - len(term.replace("...", ""))
        for term, each in zip(terms, operands, strict=True)
    )
    leading = "PQRSTU"[:dims]
    terms = [term.replace("...", leading) for term in terms]
    output = output.replace("...", leading)
    letters = "".join(dict.fromkeys(output + "".join(terms)))
    product = None
    for term, each in zip(terms, operands, strict=True):
        each = each.permute([term.index(letter) for letter in letters if letter in term])
        each = each[tuple(slice(None) if letter in term else None for letter in letters)]
        product = each if product is None else product * each
    summed = tuple(range(len(output), len(letters)))
    return product.sum(summed) if summed else product


def exact(case, squared=False, sum_products=torch.einsum):
    """The operation in float64; `squared`: its constants are squared, for inputs that are;
    `sum_products` is `torch.einsum` or takes its place."""

    def khatri_rao(*z):
        y = z[0]
        for each in z[1:]:
            y = sum_products("na,nb->nab", y, each).flatten(1)
        return y

    def synthesis(*z):
        return [khatri_rao(*z)]

    def projection(core, *z):
        return [sum_products("xk,nk->nx", core.flatten(1), khatri_rao(*z))]

    def with_mean(core, *z):
        part = 1 / core.shape[1]
        leading = torch.full_like(z[0], part * part if squared else part)
        return projection(core, *z) + projection(core, leading, *z[1:])

    def bilinear(x1, x2, weight, bias=None):
        # Two steps, or an intermediate result may have n k_x k_2 elements.
        product = sum_products("...a,...b->...ab", x1, x2)
        result = sum_products("...ab,xab->...x", product, weight)
        return [result if bias is None else result + bias]

    def einsum(core, *z):
        terms, output = _terms(case)
        # Back to outputs first and samples first, by hand.
        core = core.permute([terms[0].index(k) for k in sorted(terms[0], key="xabcdef".index)])
        rows = [each.T if term[1] == "n" else each for term, each in zip(terms[1:], z, strict=True)]
        (x,) = projection(core, *rows)
        return [x.T if output == "xn" else x]

    def grouped(core, *z):
        if case.option % 2:
            core = core.movedim((-2, -1), (0, 1))
            z = [each.transpose(0, 1) for each in z]
        parts = [projection(*group)[0] for group in zip(core, *z, strict=True)]
        x = torch.stack(parts)
        return [x.permute(1, 2, 0) if case.option % 2 else x]

    def reconstruction(first, *rest):
        if not rest:
            return [first.sum(1)]
        y = khatri_rao(*(each.T for each in rest))
        whole = sum_products("an,nk->ak", first, y)
        return [whole.reshape(case.sizes)]

    def contract(core, z):
        place = case.option % len(case.sizes)
        letters = "abcdef"[: len(case.sizes)]
        rest = letters.replace(letters[place], "")
        return [sum_products(f"x{letters},{letters[place]}->x{rest}", core, z)]

    def rotation(y, R):
        n, K = y.shape
        if _layout(case) == "row":
            return [sum_products("nab,nbj->naj", R, y.reshape(n, 3, K // 3)).flatten(1)]
        return [sum_products("nab,njb->nja", R, y.reshape(n, K // 3, 3)).flatten(1)]

    def rotated(z_exp, z_id, R):
        return rotation(khatri_rao(z_exp, z_id), R)

    def one_mode(tensor, factors, mode, weights):
        unfolded = tensor.movedim(mode, 0).reshape(tensor.shape[mode], -1)
        others = [factor.T for place, factor in enumerate(factors) if place != mode]
        if not others:
            result = unfolded.expand(-1, case.n)
        else:
            result = sum_products("ik,rk->ir", unfolded, khatri_rao(*others))
        return result if weights is None else result * weights

    def mttkrp(tensor, *rest):
        factors, weights = _split(tensor, rest)
        return [one_mode(tensor, factors, _mode(case), weights)]

    def mttkrp_all(tensor, *rest):
        factors, weights = _split(tensor, rest)
        return [one_mode(tensor, factors, mode, weights) for mode in range(tensor.dim())]

    def sweep(tensor, *rest):
        def one(factors, mode, weights):
            return one_mode(tensor, factors, mode, weights)

        return _two_sweeps(case, one, tensor, rest)

    return locals()[case.operation]
