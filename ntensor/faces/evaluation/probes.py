"""Linear classifiers on codes: what a code tells about each factor, wanted or leaked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Probe:
    """Accuracy of a linear classifier.

    Attributes:
        random: mean over stratified random folds, as in the paper's tables 2 and 3. A grid shows
            the same face many times, so that near duplicates of a test picture are trained on.
        grouped: mean over folds that keep whole groups apart; None where there are no groups.
        chance: share of the most frequent class.
        classes, samples: counts.
    """

    random: float
    grouped: float | None
    chance: float
    classes: int
    samples: int


def accuracy(
    features: Any, labels: Any, groups: Any | None = None, folds: int = 10, seed: int = 0
) -> Probe:
    """Cross-validated accuracy of linear discriminant analysis.

    Args:
        features (array[n, k]), labels (array[n]): labels below 0 are left out.
        groups (array[n] or None): samples of one group are all in one fold of `grouped`.
        folds (int): fewer where a class or the groups have fewer.
        seed (int): of the random folds.

    Raises:
        ValueError: fewer than 2 classes, or a class with fewer than 2 samples.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score

    known = np.asarray(labels) >= 0
    x, y = np.asarray(features, dtype=np.float64)[known], np.asarray(labels)[known]
    _, counts = np.unique(y, return_counts=True)
    if len(counts) < 2 or counts.min() < 2:
        raise ValueError(
            f"accuracy: wanted at least 2 classes of at least 2 samples, got counts {counts}"
        )
    # Closed form: 54 classes by support vectors take minutes a code. A little shrinkage, because
    # a code may have entries that hardly vary.
    machine = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-4)
    shuffled = StratifiedKFold(min(folds, int(counts.min())), shuffle=True, random_state=seed)
    random = float(cross_val_score(machine, x, y, cv=shuffled).mean())
    grouped = None
    if groups is not None:
        own = np.asarray(groups)[known]
        count = min(folds, len(np.unique(own)))
        if count > 1:
            split = GroupKFold(count)
            grouped = float(cross_val_score(machine, x, y, cv=split, groups=own).mean())
    return Probe(random, grouped, float(counts.max() / counts.sum()), len(counts), len(y))


def leakage(
    codes: Mapping[str, Any], factors: Mapping[str, Any], folds: int = 10
) -> dict[str, dict[str, dict[str, Any]]]:
    """Every code against every factor.

    Groups are identities; for the factor `identity` they are expressions.

    Args:
        codes (mapping): features (array[n, k]) by name.
        factors (mapping): labels (array[n]) by name, `identity` among them.
        folds (int)

    Returns:
        dict: `[code][factor]`, each a `Probe` as a dict.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for code, features in codes.items():
        found[code] = {}
        for factor, labels in factors.items():
            groups = factors.get("expression" if factor == "identity" else "identity")
            found[code][factor] = asdict(accuracy(features, labels, groups, folds))
    return found
