"""Classifiers on codes: what a code reveals about each factor, intended or leaked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from .svm import cross_validate


@dataclass(frozen=True)
class Probe:
    """Accuracy of a classifier.

    Attributes:
        random: mean over stratified random folds, as in the paper's tables 2 and 3. A grid shows
            the same face many times, so the training folds hold near duplicates of test pictures.
        grouped: mean over folds that never split a group; None without groups.
        chance: share of the most frequent class.
        classes, samples: counts.
    """

    random: float
    grouped: float | None
    chance: float
    classes: int
    samples: int


def measure_accuracy(
    features: Any,
    labels: Any,
    groups: Any | None = None,
    folds: int = 10,
    seed: int = 0,
    classifier: Literal["linear", "neighbour"] = "linear",
) -> Probe:
    """Cross-validated accuracy of a classifier.

    `"linear"`: one-versus-rest linear support vector machines on standardised features; `C` is 1
    and the loss is the squared hinge, as in scikit-learn's `LinearSVC`.
    `"neighbour"`: the class of the nearest sample.

    Args:
        features (array[n, k])
        labels (array[n]): samples with a label below 0 are ignored.
        groups (array[n] or None): `grouped` puts all samples of a group into one fold.
        folds (int): lowered if there are fewer groups, or fewer samples in a class.
        seed (int): of the random folds.
        classifier (str)

    Raises:
        ValueError: fewer than 2 classes, or a class with fewer than 2 samples.
    """
    from sklearn.model_selection import GroupKFold, StratifiedKFold

    known = np.asarray(labels) >= 0
    x, y = np.asarray(features, dtype=np.float32)[known], np.asarray(labels)[known]
    _, y, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(counts) < 2 or counts.min() < 2:
        raise ValueError(
            "measure_accuracy: expected at least 2 classes of at least 2 samples, got counts "
            f"{counts}"
        )
    measured = _test_linear if classifier == "linear" else _test_neighbour
    shuffled = StratifiedKFold(min(folds, int(counts.min())), shuffle=True, random_state=seed)
    random = measured(x, y, _number_folds(len(y), shuffled.split(x, y)))
    grouped = None
    if groups is not None:
        own = np.asarray(groups)[known]
        count = min(folds, len(np.unique(own)))
        if count > 1:
            grouped = measured(x, y, _number_folds(len(y), GroupKFold(count).split(x, y, own)))
    return Probe(random, grouped, float(counts.max() / counts.sum()), len(counts), len(y))


def _number_folds(count: int, splits: Iterable[tuple[Any, Any]]) -> Any:
    """The fold in which each sample is tested."""
    fold = np.zeros(count, dtype=np.int64)
    for number, (_, tested) in enumerate(splits):
        fold[tested] = number
    return fold


def _test_linear(x: Any, y: Any, fold: Any) -> float:
    mean, _ = cross_validate(*(torch.from_numpy(array) for array in (x, y, fold)))
    return mean


def _test_neighbour(x: Any, y: Any, fold: Any) -> float:
    points, each = torch.from_numpy(x), []
    for number in range(int(fold.max()) + 1):
        tested = fold == number
        nearest = torch.cdist(points[tested], points[~tested]).argmin(1).numpy()
        each.append(float((y[~tested][nearest] == y[tested]).mean()))
    return sum(each) / len(each)


def measure_leakage(
    codes: Mapping[str, Any],
    factors: Mapping[str, Any],
    folds: int = 10,
    title: str | None = None,
    groups: Mapping[str, Any] | None = None,
    classifier: Literal["linear", "neighbour"] = "linear",
) -> dict[str, dict[str, dict[str, Any]]]:
    """Every code against every factor.

    Groups are identities; for the factor `identity` they are expressions.

    Args:
        codes (mapping): features (array[n, k]) by name.
        factors (mapping): labels (array[n]) by name.
        folds (int)
        title (str or None): of a progress bar; None: no bar.
        groups (mapping or None): the known labels of `identity` and `expression`; None: those of
            `factors`.
        classifier (str): as in `measure_accuracy`.

    Returns:
        dict: `[code][factor]`, each a `Probe` as a dict.
    """
    table: dict[str, dict[str, dict[str, Any]]] = {}
    whole = factors if groups is None else groups
    for code, features in tqdm(codes.items(), title, disable=title is None, unit="code"):
        table[code] = {}
        for factor, labels in factors.items():
            apart = whole.get("expression" if factor == "identity" else "identity")
            table[code][factor] = asdict(
                measure_accuracy(features, labels, apart, folds, classifier=classifier)
            )
    return table
