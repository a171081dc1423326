"""The examples of the docstrings of `ntensor.faces` run and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import ntensor.faces

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(ntensor.faces.__path__, "ntensor.faces.")
    if not module.name.endswith("__main__")
)
PAGE = ("ntensor.faces.page.layout", "ntensor.faces.page.server")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name in PAGE:
        pytest.importorskip("gradio", reason="it needs the extra demo")
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
