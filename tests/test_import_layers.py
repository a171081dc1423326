"""Imports between the folders of `ntensor` point downwards only; `ORDER` has the layers in order.

Every import of every module counts, those inside functions and under `TYPE_CHECKING` too. Two
things are loaded by a name that is known only when the program runs, and are no imports: the
package of a backend that is chosen, and the module of a command.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom to the top: a folder's modules import each other and what stands above in this
# list. The compiled modules are made from csrc.
ORDER = (
    "csrc",
    "ntensor.backends",
    "ntensor.backends.reference",
    "ntensor.backends.native",
    "ntensor.backends.triton.kernels",
    "ntensor.backends.triton",
    "ntensor.ops",
    "ntensor.nn",
    "ntensor.integrations",
    "ntensor",
    "ntensor.faces.common",
    "ntensor.faces.reading",
    "ntensor.faces.writing",
    "ntensor.faces.configuration",
    "ntensor.faces.morphable",
    "ntensor.faces.rendering",
    "ntensor.faces.datasets",
    "ntensor.faces.networks",
    "ntensor.faces.baselines",
    "ntensor.faces.training",
    "ntensor.faces.editing",
    "ntensor.faces.media",
    "ntensor.faces.evaluation",
    "ntensor.faces.weights",
    "ntensor.faces.runs",
    "ntensor.faces.figures",
    "ntensor.faces.page",
    "ntensor.faces",
)


class Import(NamedTuple):
    """One folder that a line of a module imports from."""

    place: str
    importer: str
    imported: str


def folders_of(root: Path) -> dict[str, str]:
    """The folder of every module of `ntensor`, the compiled ones included."""
    folders = {}
    for path in sorted((root / "ntensor").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        folder = ".".join(parts[:-1])
        folders[folder if parts[-1] == "__init__" else ".".join(parts)] = folder
    for path in (root / "ntensor").glob("*.pyi"):
        folders[f"ntensor.{path.stem}"] = "csrc"
    return folders


def imports_of(root: Path) -> Iterator[Import]:
    """Every import between two folders."""
    folders = folders_of(root)
    for module, folder in folders.items():
        path = root / (module.replace(".", "/") + ".py")
        if folder == module:
            path = root / folder.replace(".", "/") / "__init__.py"
        if folder == "csrc":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in names_of(node, folder):
                # A name that is no module is an attribute of one.
                while name and name not in folders:
                    name = name.rpartition(".")[0]
                if name and folders[name] != folder:
                    place = f"{path.relative_to(root)}:{node.lineno}"
                    yield Import(place, folder, folders[name])


def names_of(node: ast.AST, folder: str) -> list[str]:
    """What an import statement in a module of this folder names, each with all its parents."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parents = folder.split(".")
        above = parents[: len(parents) - node.level + 1]
        base = ".".join([*above, *([base] if base else [])])
    return [f"{base}.{alias.name}" for alias in node.names]


def upward(imports: Iterator[Import], order: Sequence[str]) -> list[str]:
    """A sentence for every import that does not point downwards."""
    layer = {folder: number for number, folder in enumerate(order)}
    return [
        f"{place}: {importer} imports {imported}, which is above it"
        for place, importer, imported in imports
        if layer[imported] > layer[importer]
    ]


def test_imports_point_downwards():
    assert upward(imports_of(ROOT), ORDER) == []


def test_the_order_names_every_folder_once():
    assert sorted(ORDER) == sorted(set(folders_of(ROOT).values()))


def test_a_folder_and_all_in_it_are_neighbours_in_the_order():
    """Then there is no circle between whole folders either."""
    for folder in ORDER:
        inside = [
            k for k, other in enumerate(ORDER) if other == folder or other.startswith(f"{folder}.")
        ]
        if folder != "ntensor":
            assert inside == list(range(inside[0], inside[-1] + 1)), folder


@pytest.mark.parametrize(
    "line",
    [
        "from ntensor.upper import module",
        "from ntensor.upper.module import name",
        "import ntensor.upper.module",
        "from ..upper.module import name",
        "from .. import upper",
        "def f():\n    from ..upper import module",
        "class C:\n    def f(self):\n        import ntensor.upper.module as m",
        "if TYPE_CHECKING:\n    from ..upper.module import Name",
        "try:\n    from ntensor import lower, upper\nexcept ImportError:\n    pass",
    ],
)
def test_an_upward_import_is_seen(tmp_path, line):
    for name in ("lower", "upper"):
        folder = tmp_path / "ntensor" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("from . import module\n")
        (folder / "module.py").write_text("import os\n")
    (tmp_path / "ntensor/upper/module.py").write_text("from ntensor.lower import module\n")
    order = ("ntensor.lower", "ntensor.upper")
    assert upward(imports_of(tmp_path), order) == []
    (tmp_path / "ntensor/lower/module.py").write_text(line)
    (sentence,) = upward(imports_of(tmp_path), order)
    assert sentence.startswith("ntensor/lower/module.py:")
    assert "ntensor.lower imports ntensor.upper" in sentence
