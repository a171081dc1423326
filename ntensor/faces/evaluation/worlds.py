"""The table with one column for each world that runs are measured in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .comparison import NEAREST, OWN_PIXELS, PIXELS, name_untrained
from .estimates import CONSTANT, LINEAR, PERSONS_MEAN, SHOWN
from .groups import Group
from .look import NETWORK
from .markdown import CODES, format_chance, format_probe, format_table, name_components
from .transfer import COPY, DETAIL, WARP

# Groups of runs by the name of a world.
Worlds = Mapping[str, Sequence[Group]]
Cell = Callable[[Group], str]
Cells = Mapping[str, Cell]
# Title; the network's methods by the suffix to a group's name; the baselines.
Measure = tuple[str, Cells, Cells]


def format_worlds(worlds: Worlds) -> str:
    """Every measure that any world has: one row per method, one column per world."""
    rows = []
    for title, own, beside in _list_measures():
        found = _format_rows(worlds, own, beside)
        if found:
            rows += [[f"**{title}**", *("" for _ in worlds)], *found]
    return format_table(["", *worlds], rows)


def take_own_world(run: Mapping[str, Any]) -> dict[str, Any]:
    """Measures of `run.evaluate` as one world; light is from table 3, which has many lights."""
    table = {code: dict(row) for code, row in run["accuracy"].items()}
    for code, row in run["table_3"].items():
        if "light" in row:
            table.setdefault(code, {})["light"] = row["light"]
    return {**run, "accuracy": table}


def _list_measures() -> list[Measure]:
    measures = [
        _number("normals, degrees", "angular_error", "mean", _NORMALS),
        _number("face of the reconstruction, 1e-3", "squared_error", "face", _COLOURS, 1e3),
        _number("pose, degrees", "pose_error", "mean", (LINEAR, CONSTANT)),
        _number("E_id, variance left", "variance_left", "identity", (LINEAR,)),
        _number("E_exp, variance left", "variance_left", "expression", (LINEAR,)),
    ]
    measures += [_probe(factor) for factor in ("identity", "expression", "light")]
    for edit in ("expression", "light", "pose"):
        own = {
            method.removeprefix(NETWORK): _cell("transfer", edit, method, "face", scale=1e3)
            for method in (NETWORK, DETAIL, WARP)
        }
        copy = {"untouched picture": _cell("transfer", edit, COPY, "face", scale=1e3)}
        measures.append((f"{edit} edit, face, 1e-3", own, copy))
    return measures


_NORMALS = ("mean face", PERSONS_MEAN, LINEAR, CONSTANT)
_COLOURS = ("mean image", SHOWN)


def _cell(*path: str, scale: float = 1.0) -> Cell:
    return lambda group: group.format(*path, scale=scale)


def _number(
    title: str, kind: str, part: str, methods: Sequence[str], scale: float = 1.0
) -> Measure:
    own = {"": _cell(kind, NETWORK, part, scale=scale)}
    return title, own, {method: _cell(kind, method, part, scale=scale) for method in methods}


def _probe(factor: str) -> Measure:
    code = CODES[factor]

    def row(name: str) -> Cell:
        return lambda group: format_probe(group, "accuracy", name, factor)

    def components(pixels: str) -> Cell:
        def format_cell(group: Group) -> str:
            model = group.first["configuration"]["model"]
            return row(name_components(model, code, pixels))(group)

        return format_cell

    beside = {
        "untrained encoder of the same shape": row(name_untrained(code)),
        "components of pixels, same size": components(PIXELS),
        "components of the set's pixels, same size": components(OWN_PIXELS),
        NEAREST: row(NEAREST),
        "chance": lambda group: format_chance(group, "accuracy", code, factor),
    }
    return f"{factor} from {code}, random / apart", {"": row(code)}, beside


def _format_rows(worlds: Worlds, own: Cells, beside: Cells) -> list[list[str]]:
    """Rows of one measure: those of each group, then one per baseline, from the first group."""
    names = list(dict.fromkeys(group.name for groups in worlds.values() for group in groups))
    rows = []
    for name in names:
        chosen = [next((g for g in groups if g.name == name), None) for groups in worlds.values()]
        for method, cell in own.items():
            rows.append([name + method, *("-" if g is None else cell(g) for g in chosen)])
    rows = [row for row in rows if set(row[1:]) != {"-"}]
    first = [Group("", [groups[0].first]) for groups in worlds.values()]
    baselines = [[method, *(cell(group) for group in first)] for method, cell in beside.items()]
    return rows + [row for row in baselines if rows and set(row[1:]) != {"-"}]
