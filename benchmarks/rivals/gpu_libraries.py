"""Other libraries' kernels for the 2-way forward on a GPU, where they are installed."""

from __future__ import annotations

import torch

from harness.cases import Case
from harness.methods import Method, missing_module
from harness.problem import ProjectionProblem
from harness.timing import Step
from rivals.layouts import ORDERS, step_in


def gpu_libraries(case: Case, device: torch.device) -> list[Method]:
    """FlagGems' bilinear by Triton, and the contraction of three tensors by cuTENSOR.

    Neither has a derivative.
    """
    two = len(case.shape.factor_sizes) == 2
    if device.type == "cpu" or not two or case.differentiates or case.mean:
        return []
    size = 4 if case.dtype == "float32" else 2
    # What cuTENSOR may form: one contraction with the core and a factor.
    formed = size * case.n * case.shape.out_features * max(case.shape.factor_sizes)
    return [
        Method("FlagGems", "library", _flag_gems, missing=missing_module("flag_gems")),
        Method(
            "nvmath, cuTENSOR",
            "library",
            _ternary_contraction,
            extra_bytes=formed,
            missing=missing_module("nvmath"),
        ),
    ]


def _flag_gems(problem: ProjectionProblem) -> Step:
    import flag_gems

    return step_in(
        problem, ORDERS["linear"], lambda core, *z: (flag_gems.bilinear(*z, core, None),), ""
    )


def _ternary_contraction(problem: ProjectionProblem) -> Step:
    """Planned once, as its documentation advises for what is executed often."""
    from nvmath.tensor import TernaryContraction

    contraction = TernaryContraction("xij,ni,nj->nx", problem.core, *problem.factors)
    contraction.plan()
    return Step(lambda _: contraction.execute(), lambda output: {"output": output})
