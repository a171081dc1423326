"""The tables of a report in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .comparison import NEAREST, name_untrained
from .estimates import CONSTANT, LINEAR
from .groups import Group
from .measures import THRESHOLDS

# The paper's figures, on other data: Photoface (table 1) and Multi-PIE (tables 2 and 3).
PAPER_1 = (
    ("paper, proposed", "28.67", "5.79", "-", "-", "-", "89.1 %", "96.3 %"),
    ("paper, network of [30]", "30.09", "4.66", "-", "-", "-", "84.6 %", "98.1 %"),
    ("paper, model of [37]", "33.37", "3.29", "-", "-", "-", "75.3 %", "96.3 %"),
)
PAPER_2 = {"identity": "83.85 %", "expression": "86.07 %", "pose": "95.73 %"}
PAPER_3 = {"identity": "99.33 %", "expression": "78.92 %", "light": "64.11 %"}
PAPER_3_ALS = {"identity": "19.18 %", "expression": "35.49 %", "light": "48.85 %"}

CODES = {"identity": "z_id", "expression": "z_exp", "pose": "z_p", "light": "z_l"}
MEASURES = {
    "image": "picture, 1e-3",
    "face": "face, 1e-3",
    "normals": "normals, degrees",
    "landmarks": "landmarks, pixels",
}
_SCALES = {"image": 1e3, "face": 1e3}


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; the first column is left-aligned, the others right-aligned.

    Example:
        >>> from ntensor.faces.evaluation.markdown import format_table
        >>> print(format_table(["method", "error"], [["mean", "1.5"]]))
        | method | error |
        |:---|---:|
        | mean | 1.5 |
    """
    lines = ["| " + " | ".join(header) + " |", "|:---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def format_table_1(groups: Sequence[Group], extra: Sequence[Group], key: str, paper: bool) -> str:
    """Angular errors of normals; `key` is `angular_error` or `angular_error_frontal`."""
    header = ["method", "mean, degrees", "std", *(f"< {t}°" for t in THRESHOLDS)]
    rows = []
    for group in [*groups, *extra]:
        if group.values(key, "network", "mean"):
            rows.append([group.name, *_format_angles(group, key, "network")])
    first = next((g for g in [*groups, *extra] if g.values(key, CONSTANT, "mean")), None)
    if first is not None:
        for name in first.first[key]:
            if name != "network":
                rows.append([name, *_format_angles(Group("", [first.first]), key, name)])
    if paper:
        rows += [list(row) for row in PAPER_1]
    return format_table(header, rows)


def format_accuracy_table(
    groups: Sequence[Group], extra: Sequence[Group], key: str, factors: Sequence[str], als: bool
) -> str:
    """Table 2 (`key` is `accuracy`) or table 3 (`table_3`): the code of each factor."""
    header = ["codes", *(f"{f} ({CODES[f]})" for f in factors)]
    rows: list[list[str]] = []
    source: Group | None = None
    for group in groups:
        if any(group.values(key, CODES[f], f, "random") for f in factors):
            rows.append([group.name, *(format_probe(group, key, CODES[f], f) for f in factors)])
            source = group if source is None else source
    for group in [*groups, *extra]:
        if any(group.values(key, "z_0", f, "random") for f in factors):
            name = f"z_0 of {group.name}"
            rows.append([name, *(format_probe(group, key, "z_0", f) for f in factors)])
    if source is None:
        return format_table(header, rows)
    one = Group("", [source.first])
    untrained = [name_untrained(CODES[f]) for f in factors]
    cells = [format_probe(one, key, name, f) for name, f in zip(untrained, factors, strict=True)]
    rows.append(["untrained encoder of the same shape", *cells])
    for group in [*groups, *extra]:
        if any(group.values(key, name_untrained("z_0"), f, "random") for f in factors):
            name = f"untrained z_0 of {group.name}"
            first = Group("", [group.first])
            rows.append([name, *(format_probe(first, key, "untrained z_0", f) for f in factors)])
    model = source.first["configuration"]["model"]
    pixels = [name_components(model, CODES[f]) for f in factors]
    cells = [format_probe(one, key, name, f) for name, f in zip(pixels, factors, strict=True)]
    rows.append(["principal components of the same sizes", *cells])
    rows.append([NEAREST, *(format_probe(one, key, NEAREST, f) for f in factors)])
    if als:
        names = [f"multilinear, {f}" for f in factors]
        cells = [format_probe(one, key, name, f) for name, f in zip(names, factors, strict=True)]
        rows.append(["multilinear model after [37]", *cells])
    rows.append(["chance", *(format_chance(one, key, CODES[f], f) for f in factors)])
    paper = PAPER_3 if als else PAPER_2
    rows.append(["paper, Multi-PIE", *(paper.get(f, "-") for f in factors)])
    if als:
        rows.append(["paper, [37], Multi-PIE", *(PAPER_3_ALS.get(f, "-") for f in factors)])
    return format_table(header, rows)


def format_leakage_table(group: Group, key: str = "accuracy") -> str:
    """Every code against every factor; the baselines are those of the first run."""
    one = Group("", [group.first])
    codes = list(group.first[key])
    factors = list(group.first[key][codes[0]])
    rows = []
    for code in codes:
        chosen = group if code.startswith("z_") else one
        rows.append([code, *(format_probe(chosen, key, code, f) for f in factors)])
    chance = [format_chance(one, key, codes[0], f) for f in factors]
    return format_table(["code", *factors], [*rows, ["chance", *chance]])


def format_transfer_table(groups: Sequence[Group], extra: Sequence[Group], edit: str) -> str:
    """Errors of one edit by method."""
    rows = []
    for group in [*groups, *extra]:
        for method in group.first["transfer"].get(edit, {}):
            if method.startswith("network"):
                name = group.name + method.removeprefix("network")
                rows.append([name, *_format_transfer(group, edit, method)])
    first = next(g for g in [*groups, *extra] if edit in g.first["transfer"])
    for method in first.first["transfer"][edit]:
        if not method.startswith("network"):
            rows.append([method, *_format_transfer(Group("", [first.first]), edit, method)])
    known = [k for k in range(1, 1 + len(MEASURES)) if any(row[k] != "-" for row in rows)]
    header, *rows = ([row[k] for k in (0, *known)] for row in (["", *MEASURES.values()], *rows))
    return format_table(["method", *header[1:]], rows)


def format_shape_table(groups: Sequence[Group]) -> str:
    """Errors of the shape in 3D."""
    rows = []
    for group in groups:
        for name in ("shape stream", "predicted coefficients"):
            if group.values("shape", name, "mean"):
                rows.append([f"{group.name}, {name}", *_format_shape(group, name)])
    first = next((g for g in groups if g.values("shape", "mean shape", "mean")), None)
    if first is not None:
        one = Group("", [first.first])
        rows += [[name, *_format_shape(one, name)] for name in ("mean shape", "landmark fit")]
    return format_table(["method", "mean, mm", "std over pictures, mm"], rows)


def format_coefficients_table(groups: Sequence[Group]) -> str:
    """Pose error in degrees, and the remaining share of the coefficients' variance."""
    rows = []
    paths = {"pose": ("pose_error", "mean"), "identity": ("variance_left", "identity")}
    paths["expression"] = ("variance_left", "expression")

    def add(name: str, group: Group, method: str) -> None:
        cells = [group.format(kind, method, part) for kind, part in paths.values()]
        if any(cell != "-" for cell in cells):
            rows.append([name, *cells])

    for group in groups:
        add(group.name, group, "network")
    for method in (LINEAR, CONSTANT):
        add(method, Group("", [groups[0].first]), method)
    header = ["method", "pose, degrees", "E_id, variance left", "E_exp, variance left"]
    return format_table(header, rows) if rows else ""


def format_side_by_side(groups: Sequence[Group]) -> str:
    """The main measures, one column per group."""
    rows: list[tuple[str, tuple[str, ...], float]] = [
        ("normals, degrees", ("angular_error", "network", "mean"), 1),
        ("reconstruction, face, 1e-3", ("squared_error", "network", "face"), 1e3),
    ]
    for factor in ("identity", "expression", "pose"):
        path = ("accuracy", CODES[factor], factor, "random")
        rows.append((f"table 2, {factor}, %", path, 100))
    for factor in ("identity", "expression", "light"):
        path = ("table_3", CODES[factor], factor, "random")
        rows.append((f"table 3, {factor}, %", path, 100))
    for code, factor in (("z_id", "expression"), ("z_id", "pose"), ("z_exp", "identity")):
        path = ("accuracy", code, factor, "random")
        rows.append((f"leakage, {factor} from {code}, %", path, 100))
    for edit in ("expression", "pose", "light"):
        rows.append((f"{edit} transfer, face, 1e-3", ("transfer", edit, "network", "face"), 1e3))
    rows.append(("shape stream, mm", ("shape", "shape stream", "mean"), 1))
    one = Group("", [groups[0].first])
    model = groups[0].first["configuration"]["model"]
    cells = []
    for name, (table, code, *rest), scale in rows:
        row = [name, *(group.format(table, code, *rest, scale=scale) for group in groups)]
        for other in (name_untrained(code), name_components(model, code)):
            row.append(one.format(table, other, *rest, scale=scale))
        cells.append(row)
    beside = ["untrained encoder", "pixels, same size"]
    return format_table(["measure", *(group.name for group in groups), *beside], cells)


def name_components(model: Mapping[str, Any], code: str, pixels: str = "pixels") -> str:
    """The row of as many principal components as a code has entries.

    `model` is a model configuration as a dict.
    """
    sizes = {"z_id": "k_id", "z_exp": "k_exp", "z_l": "k_l", "z_0": "k_i"}
    return f"{pixels}, {model[sizes[code]] if code in sizes else 9} components"


def _format_angles(group: Group, key: str, name: str) -> list[str]:
    cells = [group.format(key, name, "mean"), group.format(key, name, "std")]
    for threshold in THRESHOLDS:
        cells.append(group.format(key, name, f"below_{threshold}", form=".1f", scale=100) + " %")
    return cells


def format_probe(group: Group, key: str, code: str, factor: str) -> str:
    """Accuracy by random folds and with whole groups held out; a dash for no value."""
    random = group.format(key, code, factor, "random", form=".1f", scale=100)
    whole = group.format(key, code, factor, "grouped", form=".1f", scale=100)
    return "-" if random == "-" else f"{random} / {whole} %"


def format_chance(group: Group, key: str, code: str, factor: str) -> str:
    """The share of the most frequent class; a dash for no value."""
    share = group.format(key, code, factor, "chance", form=".1f", scale=100)
    return share if share == "-" else f"{share} %"


def _format_transfer(group: Group, edit: str, method: str) -> list[str]:
    return [
        group.format("transfer", edit, method, name, scale=_SCALES.get(name, 1.0))
        for name in MEASURES
    ]


def _format_shape(group: Group, name: str) -> list[str]:
    return [group.format("shape", name, part) for part in ("mean", "std")]
