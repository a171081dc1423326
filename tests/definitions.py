"""What each operation means, written twice and slowly.

The `*_loops` functions restate the contracts element by element in numpy. The torch functions are
their differentiable twins in broadcast + matmul: in float64 they are the truth, in the tested dtype
they are the rival of the tolerance rule. `test_definitions.py` ties the two together. Neither uses
the package.
"""

import itertools
import math

import numpy as np
import torch


def synthesis_loops(*factors):
    """`y[s, (l*k_exp + e)*k_id + i] = z_l[s, l] z_exp[s, e] z_id[s, i]`, any number of factors."""
    n, sizes = len(factors[0]), [z.shape[1] for z in factors]
    y = np.zeros((n, math.prod(sizes)))
    for s in range(n):
        for column, index in enumerate(itertools.product(*map(range, sizes))):
            y[s, column] = math.prod(z[s, i] for z, i in zip(factors, index, strict=True))
    return y


def synthesis_projection_loops(core, *factors):
    """`x[s, o] = sum over (l, e, i) of core[o, l, e, i] z_l[s, l] z_exp[s, e] z_id[s, i]`."""
    n, k_x = len(factors[0]), core.shape[0]
    x = np.zeros((n, k_x))
    for s in range(n):
        for o in range(k_x):
            for index in itertools.product(*map(range, core.shape[1:])):
                row = (z[s, i] for z, i in zip(factors, index, strict=True))
                x[s, o] += core[(o, *index)] * math.prod(row)
    return x


def synthesis_projection_with_mean_loops(core, *factors):
    """The projection, and the projection with every entry of the leading factor set to `1/k_1`."""
    leading = np.full(factors[0].shape, 1 / max(factors[0].shape[1], 1))
    return (
        synthesis_projection_loops(core, *factors),
        synthesis_projection_loops(core, leading, *factors[1:]),
    )


def rotation_loops(y, R, layout):
    """`out(a, j) = sum_b R[a, b] y(b, j)`; `(a, j)` is column `3j + a` or `a K/3 + j`."""
    n, K = y.shape
    third = K // 3
    place = {"column": lambda a, j: 3 * j + a, "row": lambda a, j: a * third + j}[layout]
    out = np.zeros((n, K))
    for s, a, b, j in itertools.product(range(n), range(3), range(3), range(third)):
        out[s, place(a, j)] += R[s, a, b] * y[s, place(b, j)]
    return out


def mttkrp_loops(tensor, factors, mode, weights=None):
    """`M[i, r] = w[r] sum over the other indices of tensor[...] prod of factors[m][i_m, r]`."""
    mode %= tensor.ndim
    rank = next(f for m, f in enumerate(factors) if m != mode).shape[1]
    out = np.zeros((tensor.shape[mode], rank))
    for index in itertools.product(*map(range, tensor.shape)):
        for r in range(rank):
            others = (factors[m][i, r] for m, i in enumerate(index) if m != mode)
            out[index[mode], r] += tensor[index] * math.prod(others)
    return out if weights is None else out * weights


def synthesis(*factors):
    y = factors[0].clone()
    for z in factors[1:]:
        y = (y.unsqueeze(2) * z.unsqueeze(1)).flatten(1)
    return y


def synthesis_projection(core, *factors):
    return synthesis(*factors) @ core.flatten(1).T


def synthesis_projection_with_mean(core, *factors):
    leading = torch.full_like(factors[0], 1 / max(factors[0].shape[1], 1))
    mean = synthesis_projection(core, leading, *factors[1:])
    return synthesis_projection(core, *factors), mean


def rotation(y, R, layout="column"):
    n, K = y.shape
    if layout == "row":
        return (R @ y.reshape(n, 3, K // 3)).flatten(1)
    return (R @ y.reshape(n, K // 3, 3).transpose(1, 2)).transpose(1, 2).flatten(1)


def rotated_synthesis(z_exp, z_id, R, layout="column"):
    return rotation(synthesis(z_exp, z_id), R, layout)


def mttkrp(tensor, factors, mode, weights=None):
    mode %= tensor.ndim
    others = [f.T for m, f in enumerate(factors) if m != mode]
    result = tensor.movedim(mode, 0).flatten(1) @ synthesis(*others).T
    return result if weights is None else result * weights


def bilinear(x1, x2, weight, bias=None):
    leading = x1.shape[:-1]
    n = math.prod(leading)
    x = synthesis_projection(weight, x1.reshape(n, x1.shape[-1]), x2.reshape(n, x2.shape[-1]))
    x = x if bias is None else x + bias
    return x.reshape(*leading, weight.shape[0])
