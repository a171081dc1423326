"""Every command without every package of its extras: a sentence with the cure."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ntensor.faces.common import extras

ROOT = Path(__file__).parents[2]
FACES = ROOT / "ntensor" / "faces"
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(FACES.rglob("*.py"))}
COMMANDS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path, text in SOURCES.items()
    if '__name__ == "__main__"' in text
]

# Starts each command in a fork of this process that lacks one package, and leaves without the
# interpreter's own end, which takes longer than all the rest.
FORKS = """
import json, os, runpy, sys, traceback
import ntensor.faces.common.launch
for command, package in json.load(sys.stdin):
    reading, writing = os.pipe()
    if os.fork() == 0:
        sys.modules[package] = None
        try:
            ended = runpy.run_module(command, run_name="__main__")
        except SystemExit as leaving:
            ended = leaving.code
        except BaseException:
            ended = traceback.format_exc()
        os.write(writing, str(ended).encode()[:4096])
        os._exit(0)
    os.close(writing)
    os.wait()
    print(json.dumps([command, package, os.read(reading, 4096).decode()]))
    os.close(reading)
"""


def imported(text):
    """The top-level packages that a module imports, by a statement or by `extras.load`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "extras.load":
            yield ast.literal_eval(node.args[0])


def test_every_package_of_every_command():
    assert len(COMMANDS) >= 10
    pairs = [
        (command, package)
        for command in COMMANDS
        for extra in ("faces", "demo")
        if extra == "faces" or command.endswith(".demo")
        for package in extras.PACKAGES[extra]
    ]
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [tuple(pair) for *pair, _ in found] == pairs
    for command, package, ended in found:
        cure = "faces,demo" if package in extras.PACKAGES["demo"] else "faces"
        # Other packages of an extra may be missing here too.
        pattern = rf"error: ntensor\.faces needs the package [\w, ]*\b{package}\b[\w, ]*: "
        pattern += rf"run pip install 'ntensor\[{cure}\]'"
        assert re.fullmatch(pattern, ended), (command, package, ended)


def test_every_import_is_of_an_extra():
    packages = {name.partition(".")[0] for text in SOURCES.values() for name in imported(text)}
    known = {package for extra in extras.PACKAGES.values() for package in extra}
    assert packages - set(sys.stdlib_module_names) - known == {"ntensor", "torch"}


def test_extras_are_those_of_the_project():
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {
        distribution.lower(): package
        for package, distributions in importlib.metadata.packages_distributions().items()
        for distribution in distributions
        if package in sum(extras.PACKAGES.values(), ())
    }

    def packages(requirements):
        found = (re.match(r"[\w-]+", text)[0].lower() for text in requirements)
        return {names.get(name, name.replace("-", "_")) for name in found}

    own = packages(project["dependencies"]) - {"torch"}
    wanted = {name: packages(project["optional-dependencies"][name]) for name in extras.PACKAGES}
    wanted["faces"] |= own
    assert {name: set(found) for name, found in extras.PACKAGES.items()} == wanted
