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


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
