"""Linear support vector machines, fitted many at once."""

from __future__ import annotations

import torch
from torch import Tensor

# Candidate lengths of a Newton step, and the iterations and tolerance of its conjugate gradients.
_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.02, 0.0)
_INNER_STEPS, _INNER_TOLERANCE = 20, 0.1


def fit_machines(
    x: Tensor,
    targets: Tensor,
    used: Tensor,
    *,
    penalty: float = 1.0,
    start: Tensor | None = None,
    tolerance: float = 1e-3,
    iterations: int = 30,
) -> Tensor:
    r"""Linear machines with the squared hinge loss on common samples, one per column.

    .. math:: \min_w \tfrac12 |w|^2 + C \sum_{n\, used} \max(0,\, 1 - t_n\, w^\top (x_n, 1))^2

    This is the problem of scikit-learn's `LinearSVC`, including its regularised intercept. It is
    solved by Newton's method with conjugate gradients for all machines together, since one Hessian
    costs `n k^2`. The preconditioner is the Hessian of all samples, scaled by each machine's share
    of active samples.

    Args:
        x (Tensor[n, k]): samples, preferably standardised.
        targets (Tensor[n, c]): 1 or -1.
        used (Tensor[n, c] or Tensor[n, 1]): 1 for the samples that a machine sees, else 0.
        penalty (float): `C`.
        start (Tensor[k + 1, c] or None): initial weights; None: 0.
        tolerance (float): on every machine's gradient norm, relative to that at 0.
        iterations (int): limit on Newton steps.

    Returns:
        Tensor[k + 1, c]: weights, the intercept last.

    Example:
        >>> import torch
        >>> from ntensor.faces.evaluation.svm import fit_machines
        >>> x = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]])
        >>> targets = torch.tensor([[-1.0], [-1.0], [1.0], [1.0]])
        >>> bool(fit_machines(x, targets, torch.ones(4, 1))[0] > 0.5)
        True
    """
    x = torch.cat([x, x.new_ones(len(x), 1)], 1)
    values, basis = torch.linalg.eigh(x.T @ x)
    values, x = values.clamp_min(0).unsqueeze(1), x @ basis
    w = x.new_zeros(x.shape[1], targets.shape[1]) if start is None else basis.T @ start
    seen = x @ w
    first = 2 * penalty * (x.T @ (used * targets)).norm(dim=0)
    for _ in range(iterations):
        slack = used * (targets - seen)
        active = (slack * targets > 0).to(x.dtype)
        slack *= active
        gradient = w - 2 * penalty * (x.T @ slack)
        norm = gradient.norm(dim=0)
        if bool((norm <= tolerance * first).all()):
            break
        scale = 1 + 2 * penalty * active.mean(0) * values
        step = _conjugate_gradients(x, active, gradient, scale, 2 * penalty)
        along = x @ step
        # The loss along the step needs no further product with the samples.
        losses = []
        for length in _LENGTHS:
            rest = used * (targets - seen - length * along)
            hinge = (rest * targets).relu().square().sum(0)
            losses.append((w + length * step).square().sum(0) / 2 + penalty * hinge)
        best = torch.tensor(_LENGTHS).to(x)[torch.stack(losses).argmin(0)]
        w = w + best * step
        seen = seen + best * along
    return basis @ w


def _conjugate_gradients(
    x: Tensor, active: Tensor, gradient: Tensor, scale: Tensor, weight: float
) -> Tensor:
    """Approximates `-(I + weight X^T diag(active) X)^-1 gradient`, per column."""
    tiny = torch.finfo(x.dtype).tiny
    solution = torch.zeros_like(gradient)
    rest = -gradient
    first = rest.norm(dim=0)
    preconditioned = rest / scale
    direction = preconditioned
    product = (rest * preconditioned).sum(0)
    for _ in range(_INNER_STEPS):
        image = direction + weight * (x.T @ (active * (x @ direction)))
        length = product / (direction * image).sum(0).clamp_min(tiny)
        solution = solution + length * direction
        rest = rest - length * image
        if bool((rest.norm(dim=0) <= _INNER_TOLERANCE * first).all()):
            break
        preconditioned = rest / scale
        following = (rest * preconditioned).sum(0)
        direction = preconditioned + following / product.clamp_min(tiny) * direction
        product = following
    return solution


def cross_validate(
    x: Tensor, labels: Tensor, folds: Tensor, *, penalty: float = 1.0
) -> tuple[float, list[float]]:
    """Cross-validated accuracy of one-versus-rest machines; the largest output decides.

    Each fold starts from the machines of the previous one, which saw nearly the same samples.

    Args:
        x (Tensor[n, k]): standardised here, over all samples.
        labels (Tensor[n], int64): 0 to classes - 1.
        folds (Tensor[n], int64): the fold in which each sample is tested.
        penalty (float): `C`.

    Returns:
        (float, list of float): mean over the folds, and the accuracy of each.
    """
    n, classes, count = len(x), int(labels.max()) + 1, int(folds.max()) + 1
    x = x - x.mean(0)
    deviation = x.std(0)
    x = x / torch.where(deviation > 1e-6 * deviation.max().clamp_min(1e-12), deviation, 1.0)
    targets = torch.full((n, classes), -1.0, dtype=x.dtype, device=x.device)
    targets[torch.arange(n), labels] = 1
    each: list[float] = []
    w: Tensor | None = None
    for fold in range(count):
        tested = folds == fold
        w = fit_machines(x, targets, (~tested).to(x.dtype)[:, None], penalty=penalty, start=w)
        decided = (x[tested] @ w[:-1] + w[-1]).argmax(1)
        each.append(float((decided == labels[tested]).to(torch.double).mean()))
    return sum(each) / count, each
