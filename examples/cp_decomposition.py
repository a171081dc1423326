"""A CP decomposition of a NumPy array by TensorLy, without and with this library registered.

Kolda and Bader, "Tensor Decompositions and Applications", 2009, section 3.4 and figure 3.3:
alternating least squares, whose time goes into `X_(1) (C (.) B)` and its like for the other modes.

    python examples/cp_decomposition.py [EXTENT]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorly
from numpy.typing import NDArray

from ntensor.integrations import tensorly as by_ntensor
from side_by_side import Step, run


def decompose(tensor: NDArray[Any], rank: int) -> Any:
    """TensorLy's CP of a NumPy array: weights, and one factor per mode."""
    with by_ntensor.register():
        return decompose_as_published(tensor, rank)


def decompose_as_published(tensor: NDArray[Any], rank: int, iterations: int = 5) -> Any:
    return tensorly.decomposition.parafac(
        tensor, rank, n_iter_max=iterations, tol=0, init="random", random_state=0
    )


def example(extent: int = 200, rank: int = 16, dtype: str = "float32") -> dict[str, Step]:
    tensorly.set_backend("numpy")
    random = np.random.default_rng(0)
    factors = [random.random((extent, rank)) for _ in range(3)]
    tensor = tensorly.cp_to_tensor((None, factors)).astype(dtype)
    return {
        "published": lambda: decompose_as_published(tensor, rank),
        "ntensor": lambda: decompose(tensor, rank),
    }


if __name__ == "__main__":
    run("CP decomposition of a NumPy array", example)
