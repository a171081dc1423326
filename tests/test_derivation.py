"""The paper's derivation (section 3.6 and supplementary B) against the operations.

The paper stacks samples as columns, the library as rows; `vec` stacks columns.

| paper | here |
|---|---|
| `n`, `k`, `M` | `n` samples, `k_x` outputs, `len(sizes)` factors |
| `Z^(m)`, `k_zm x n` | `Z[m - 1]`, the transpose of the factor `z_m`, `(n, k_m)` |
| `B_(1)`, `k x K` | `core.reshape(k_x, K)`, the mode-1 matricisation |
| `X`, `k x n` | the data, the transpose of `(n, k_x)` |
| `X_hat` | `B_(1) (Z^(1) kr ... kr Z^(M))`, the transpose of `synthesis_projection(core, *z)` |
| `x_hat` of eq. 16, 21 to 25 | `vec(X)`: the vectorised data, not the reconstruction |
| `z_hat^(i)` | `vec(Z^(i))` |
| `Z_hat^(i-1)`, `Z_hat^(i+1)` | Khatri-Rao products of the factors before, after `i`; none: ones |
| `kr`, `(x)` | Khatri-Rao (column-wise Kronecker) product, Kronecker product |
| `I (x) B_(1)` | `np.kron(I_n, B)` |
| `(I kr Z_hat^(i-1)) (x) I` | read `((I_n kr Z_hat^(i-1)) (x) I)`, last `I` of size `k_i ... k_M` |
| `1` of eq. 16 and 24 | a row of `k_i` ones, so that `I (x) 1` repeats each sample `k_i` times |
| `I kr (Z_hat^(i+1) (I (x) 1))` | the first `I` of size `n k_i` |
| `vec(Z_hat^(i))` after eq. 24's second product | `vec(Z^(i))`, as eq. 16 has it |
| `A` of eq. 25 | the product of those three matrices |
"""

import math

import numpy as np
import pytest
import torch

import definitions
import ntensor
from backends import each_backend

SIZES = [(3, 4), (2, 3, 4), (2, 3, 1, 2), (1, 2, 3, 2)]
EVERY_FACTOR = [
    pytest.param(sizes, i, id=f"M{len(sizes)}-{'x'.join(map(str, sizes))}-i{i + 1}")
    for sizes in SIZES
    for i in range(len(sizes))
]
N, K_X = 5, 6


def vec(matrix):
    return matrix.reshape(-1, order="F")


def khatri_rao(*matrices):
    """Columns are the Kronecker products of the columns."""
    columns = zip(*(m.T for m in matrices), strict=True)
    return np.stack([kronecker(*column) for column in columns], axis=1)


def kronecker(*vectors):
    result = np.ones(1)
    for v in vectors:
        result = np.kron(result, v)
    return result


def matrix_A(B, Z, i):
    """Eq. 24 (0-based `i`): `vec(B (Z^(1) kr ... kr Z^(M))) = A vec(Z^(i))`."""
    n, k_i = Z[0].shape[1], Z[i].shape[0]
    rest = math.prod(z.shape[0] for z in Z[i:])
    ones = np.ones((1, n))
    before, after = khatri_rao(ones, *Z[:i]), khatri_rao(ones, *Z[i + 1 :])
    outer = np.kron(khatri_rao(np.eye(n), before), np.eye(rest))
    inner = khatri_rao(np.eye(n * k_i), after @ np.kron(np.eye(n), np.ones((1, k_i))))
    return np.kron(np.eye(n), B) @ outer @ inner


@pytest.fixture
def problem():
    """`core`, factors and data of the given sizes, float64."""

    def draw(sizes):
        rng = np.random.default_rng(0)
        core = rng.standard_normal((K_X, *sizes))
        return core, [rng.standard_normal((N, k)) for k in sizes], rng.standard_normal((N, K_X))

    return draw


def as_tensors(core, factors):
    return torch.from_numpy(core), [torch.from_numpy(z) for z in factors]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_vec_identities(sizes, problem):
    """Eq. 22 to 24 rest on `vec(BZ) = (I (x) B) vec(Z)` and on the two identities of [28]."""
    core, factors, _ = problem(sizes)
    B, Z = core.reshape(K_X, -1), [z.T for z in factors]
    Y = khatri_rao(*Z)
    np.testing.assert_allclose(vec(B @ Y), np.kron(np.eye(N), B) @ vec(Y), atol=1e-12)
    Z_1, Z_2 = Z[0], khatri_rao(*Z[1:])
    k_1, k_2 = len(Z_1), len(Z_2)
    left = np.kron(khatri_rao(np.eye(N), Z_1), np.eye(k_2)) @ vec(Z_2)
    repeated = Z_2 @ np.kron(np.eye(N), np.ones((1, k_1)))
    right = khatri_rao(np.eye(N * k_1), repeated) @ vec(Z_1)
    np.testing.assert_allclose(left, vec(Y), atol=1e-12)
    np.testing.assert_allclose(right, vec(Y), atol=1e-12)


@each_backend
@pytest.mark.parametrize(("sizes", "i"), EVERY_FACTOR)
def test_output_is_A_times_each_factor(backend, sizes, i, problem):
    """Eq. 16: the reconstruction is linear in `vec(Z^(i))` with the matrix `A`."""
    core, factors, _ = problem(sizes)
    A = matrix_A(core.reshape(K_X, -1), [z.T for z in factors], i)
    core_t, z = as_tensors(core, factors)
    x = ntensor.synthesis_projection(core_t, *z, backend=backend)
    np.testing.assert_allclose(vec(x.numpy().T), A @ vec(factors[i].T), rtol=0, atol=1e-13)


@each_backend
@pytest.mark.parametrize(("sizes", "i"), EVERY_FACTOR)
def test_factor_gradient_is_equation_25(backend, sizes, i, problem):
    """Our gradient for `G = dE/dX_hat = 2 (X_hat - X)` is `2 A^T (A z_hat - x_hat)`, matricised."""
    core, factors, X = problem(sizes)
    A, z_hat = matrix_A(core.reshape(K_X, -1), [z.T for z in factors], i), vec(factors[i].T)
    expected = (2 * A.T @ (A @ z_hat - vec(X.T))).reshape(factors[i].shape)
    core_t, z = as_tensors(core, factors)
    z[i].requires_grad_()
    X_hat = ntensor.synthesis_projection(core_t, *z, backend=backend)
    G = 2 * (X_hat.detach() - torch.from_numpy(X))
    (gradient,) = torch.autograd.grad(X_hat, z[i], G)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-12, atol=1e-12)


@each_backend
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradients_of_the_loss(backend, sizes, problem):
    """Eq. 15 as a user writes it, under autograd: factors as in eq. 25, all as in plain torch."""
    core, factors, X = problem(sizes)
    core_t, z = as_tensors(core, factors)
    leaves = [t.requires_grad_() for t in (core_t, *z)]
    data = torch.from_numpy(X)
    loss = (ntensor.synthesis_projection(*leaves, backend=backend) - data).square().sum()
    plain = (definitions.synthesis_projection(*leaves) - data).square().sum()
    grads, expected = torch.autograd.grad(loss, leaves), torch.autograd.grad(plain, leaves)
    torch.testing.assert_close(grads, expected)
    for i, z_i in enumerate(factors):
        A = matrix_A(core.reshape(K_X, -1), [z.T for z in factors], i)
        derivative = 2 * A.T @ (A @ vec(z_i.T) - vec(X.T))
        np.testing.assert_allclose(vec(grads[1 + i].numpy().T), derivative, rtol=0, atol=1e-11)
