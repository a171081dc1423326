"""Feature rotation: a feature as a `3 x K/3` matrix `Y`, multiplied by `R` from the left.

In the layout "column" element `(a, j)` of the matrix is `y[3 j + a]`, in "row" it is `y[j + a
K/3]`.
"""

from __future__ import annotations

from torch import Tensor

from . import narrow, widen
from .synthesis import feature_grads, features, join


def rotation(y: Tensor, R: Tensor, layout: str) -> Tensor:
    """`R Y`: `(n, K), (n, 3, 3) -> (n, K)`."""
    return narrow(_rotate(widen(y), R, layout), y.dtype)


def rotation_matrix_grad(grad: Tensor, y: Tensor, layout: str) -> Tensor:
    """`dR[a, b] = sum_j G[a, j] Y[b, j]`: `(n, K), (n, K) -> (n, 3, 3)`."""
    return narrow(_matrix_grad(widen(grad), widen(y), layout), y.dtype)


def rotated_synthesis(z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str) -> Tensor:
    """`rotation(synthesis(z_exp, z_id), R)`: `(n, k_exp), (n, k_id), (n, 3, 3) -> (n, K)`."""
    return narrow(_rotate(features([z_exp, z_id]), R, layout), z_exp.dtype)


def rotated_synthesis_grads(
    grad: Tensor, z_exp: Tensor, z_id: Tensor, R: Tensor, layout: str, needs: list[bool]
) -> Tensor:
    """The needed ones of `dz_exp`, `dz_id`, `dR` side by side: `(n, sum of k_exp, k_id, 9)`."""
    grad = widen(grad)
    unrotated = _rotate(grad, R.transpose(1, 2), layout)
    parts = feature_grads(unrotated, [z_exp, z_id], needs[:2])
    if needs[2]:
        y = features([z_exp, z_id])
        parts.append(_matrix_grad(grad, y, layout).reshape(grad.shape[0], 9))
    return join(parts, z_exp)


def _rotate(y: Tensor, R: Tensor, layout: str) -> Tensor:
    rotated = widen(R) @ _to_matrix(y, layout)
    return _to_vector(rotated, layout).reshape(y.shape)


def _matrix_grad(grad: Tensor, y: Tensor, layout: str) -> Tensor:
    return _to_matrix(grad, layout) @ _to_matrix(y, layout).transpose(1, 2)


def _to_matrix(y: Tensor, layout: str) -> Tensor:
    samples, extent = y.shape
    if layout == "row":
        return y.reshape(samples, 3, extent // 3)
    return y.reshape(samples, extent // 3, 3).transpose(1, 2)


def _to_vector(matrix: Tensor, layout: str) -> Tensor:
    return matrix if layout == "row" else matrix.transpose(1, 2)
