"""What an einsum's labels say: which equations are forms of one tensor and matrices."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import checks

# A label: a letter, or the place of a dimension of the ellipsis, counted from its last one.
Labels = tuple[Any, ...]


class Equation(NamedTuple):
    """A recognised equation.

    Attributes:
        batch: labels of the samples, which every matrix has.
        core: place of the tensor among the operands; None: there is none.
        labels: of the tensor; without one, of the matrices in the order of the output.
        matrices: for each of `labels` the place of its matrix; None: it is in the output.
        scales: places of operands that have the labels of the samples alone.
        summed: whether the samples are summed over.
        groups: labels that every term and the output has; the tensor is a core for each of them.
        terms, output: the labels of each operand and of the output.
    """

    batch: Labels
    core: int | None
    labels: Labels
    matrices: tuple[int | None, ...]
    scales: tuple[int, ...]
    summed: bool
    groups: Labels
    terms: tuple[Labels, ...]
    output: Labels


class Direct(NamedTuple):
    """An equation whose tensor, matrices and output have one label a dimension of a kernel's.

    Attributes:
        operands: places of the tensor, if there is one, and of the matrices in the order of its
            modes; without one in the order of the output.
        mode: of the tensor, which the output keeps; None: a synthesis.
        columns: of each matrix, whether it is `(k_m, n)`; else it is `(n, k_m)`.
        output_rows: whether the output is `(n, ...)`.
    """

    operands: tuple[int, ...]
    mode: int | None
    columns: tuple[bool, ...]
    output_rows: bool


class DirectGroups(NamedTuple):
    """The same where each value of one label has a core of its own.

    Attributes:
        operands: places of the tensor and of the matrices in the order of its modes.
        orders: of the dimensions of each, so that they become `(g, x, k_1, ..., k_M)` and
            `(g, n, k_m)`; None where they are.
        output: of the dimensions of the result `(g, n, x)`, in the same way.
    """

    operands: tuple[int, ...]
    orders: tuple[tuple[int, ...] | None, ...]
    output: tuple[int, ...] | None


def read_arguments(arguments: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """Equation and operands; an empty equation where the arguments are none of `torch.einsum`."""
    if arguments and isinstance(arguments[0], str):
        operands = arguments[1:]
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = tuple(operands[0])
        return arguments[0], operands
    lists = [*arguments[1::2], *arguments[-1:]] if len(arguments) % 2 else arguments[1::2]
    words = [_word(labels) for labels in lists]
    if not words or "" in words:
        return "", ()
    operands = arguments[0 : len(arguments) - len(arguments) % 2 : 2]
    terms = ",".join(words[: len(operands)])
    return (f"{terms}->{words[-1]}" if len(arguments) % 2 else terms), operands


def _word(labels: Any) -> str:
    """Numbers from 0 to 51 as letters, in `torch.einsum`'s order; empty where they are others."""
    letters = []
    for label in labels if isinstance(labels, (list, tuple)) else ():
        if label is Ellipsis:
            letters.append("...")
        elif isinstance(label, int) and 0 <= label < 52:
            letters.append(chr(ord("A") + label if label < 26 else ord("a") + label - 26))
        else:
            return ""
    return "".join(letters)


def _parse(equation: str, dims: tuple[int, ...]) -> tuple[tuple[Labels, ...], Labels]:
    """The labels of each operand and of the output.

    Raises:
        ValueError: it is no equation of operands of so many dimensions.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    words = left.split(",")
    if len(words) != len(dims):
        raise ValueError(f"wanted {len(dims)} terms, got {len(words)}")
    terms = tuple([_labels(word, dim) for word, dim in zip(words, dims, strict=True)])
    dots = max([len([label for label in term if isinstance(label, int)]) for term in terms])
    if arrow:
        letters = len(right.replace("...", ""))
        return terms, _labels(right, letters + dots if "..." in right else letters)
    counts = Counter(label for term in terms for label in term)
    letters_once = sorted(k for k, count in counts.items() if count == 1 and isinstance(k, str))
    return terms, (*range(dots - 1, -1, -1), *letters_once)


def _labels(word: str, dim: int) -> Labels:
    before, dots, after = word.partition("...")
    if not (before + after).isascii() or (before + after and not (before + after).isalpha()):
        raise ValueError(f"wanted letters and at most one ellipsis, got {word!r}")
    middle = dim - len(before) - len(after)
    if middle < 0 or (middle and not dots):
        raise ValueError(f"wanted {dim} labels, got {word!r}")
    return (*before, *range(middle - 1, -1, -1), *after)


@functools.lru_cache(maxsize=1024)
def classify(equation: str, dims: tuple[int, ...]) -> Equation | str:
    """The form of an equation by its labels alone, or why it has none."""
    try:
        terms, output = _parse(equation, dims)
    except ValueError as error:
        return str(error)
    for term in (*terms, output):
        if len(set(term)) < len(term):
            return "a label stands twice in one term"
    if not set(output) <= {label for term in terms for label in term}:
        return "the output has a label that no operand has"
    for core in sorted(range(len(terms)), key=lambda place: -len(terms[place])):
        form = _with_core(terms, output, core)
        if form is not None:
            return form
    return (
        _without_core(terms, output)
        or _with_groups(terms, output)
        or "it is no form of one tensor and matrices"
    )


@functools.lru_cache(maxsize=1024)
def direct_way(equation: str, dims: tuple[int, ...]) -> Direct | DirectGroups | str | None:
    """None where labels are taken together, or an operand scales; why there is no kernel."""
    form = classify(equation, dims)
    if isinstance(form, str):
        return form
    if len(form.batch) != 1 or form.scales or form.summed:
        return None
    (sample,) = form.batch
    own = dict(zip(form.labels, form.matrices, strict=True))
    rest = [label for label, place in own.items() if place is None]
    places = tuple([place for place in own.values() if place is not None])
    if form.groups:
        if len(form.groups) != 1 or len(rest) != 1:
            return None
        return _direct_groups(form, places, (*form.groups, sample, *rest))
    columns = tuple([form.terms[place][0] != sample for place in places])
    if form.core is None:
        whole = True not in columns and form.output == (sample, *form.labels)
        return Direct(places, None, columns, True) if whole else None
    if len(rest) != 1:
        return None
    mode = form.labels.index(rest[0])
    return Direct((form.core, *places), mode, columns, form.output[0] == sample)


def _direct_groups(form: Equation, places: tuple[int, ...], output: Labels) -> DirectGroups:
    group, sample, rest = output
    assert form.core is not None
    own = [label for label in form.labels if label != rest]
    orders = [_order(form.terms[form.core], (group, rest, *own))]
    for place, label in zip(places, own, strict=True):
        orders.append(_order(form.terms[place], (group, sample, label)))
    return DirectGroups((form.core, *places), tuple(orders), _order(output, form.output))


def _order(labels: Labels, wanted: Labels) -> tuple[int, ...] | None:
    """Where each of the labels is that are wanted; None: where it is wanted."""
    return None if labels == wanted else tuple([labels.index(label) for label in wanted])


def _with_core(terms: tuple[Labels, ...], output: Labels, core: int) -> Equation | None:
    found = _matrices(terms, [place for place in range(len(terms)) if place != core], terms[core])
    if found is None:
        return None
    batch, own, scales = found
    rest = set(terms[core]) - set(own)
    if set(output) != rest | set(batch) or len(own) > checks.MOST_FACTORS:
        return None
    matrices = tuple(own.get(label) for label in terms[core])
    return Equation(batch, core, terms[core], matrices, scales, False, (), terms, output)


def _with_groups(terms: tuple[Labels, ...], output: Labels) -> Equation | None:
    """A core for each value of the labels that stand everywhere."""
    everywhere = set(output).intersection(*terms)
    groups = tuple(label for label in output if label in everywhere)
    inner = [tuple(label for label in term if label not in groups) for term in (*terms, output)]
    for core in range(len(terms)) if groups else ():
        form = _with_core(tuple(inner[:-1]), inner[-1], core)
        if form is not None:
            return form._replace(groups=groups, terms=terms, output=output)
    return None


def _without_core(terms: tuple[Labels, ...], output: Labels) -> Equation | None:
    """A synthesis, or its sum over the samples."""
    shared = set(terms[0]).intersection(*terms[1:])
    summed = not shared & set(output)
    labels = tuple(label for label in output if label not in shared)
    found = _matrices(terms, range(len(terms)), labels)
    if found is None or len(found[1]) != len(labels) or len(labels) > checks.MOST_FACTORS:
        return None
    batch, own, scales = found
    if not summed and not set(batch) <= set(output):
        return None
    if summed and len(own) < 3:
        return None  # one matrix product
    matrices = tuple(own[label] for label in labels)
    return Equation(batch, None, labels, matrices, scales, summed, (), terms, output)


def _matrices(
    terms: Sequence[Labels], places: Sequence[int], labels: Labels
) -> tuple[Labels, dict[Any, int], tuple[int, ...]] | None:
    """Labels of the samples, the matrix of each label, and the scales, at least two matrices; None
    where the operands at `places` are others."""
    batch: Labels | None = None
    own: dict[Any, int] = {}
    scales = []
    for place in places:
        mine = [label for label in terms[place] if label in labels]
        samples = tuple(label for label in terms[place] if label not in labels)
        if batch is None:
            batch = samples
        if not samples or set(samples) != set(batch) or len(mine) > 1:
            return None
        if not mine:
            scales.append(place)
        elif own.setdefault(mine[0], place) != place:
            return None
    if batch is None or len(own) < 2:
        return None
    return batch, own, tuple(scales)
