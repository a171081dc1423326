"""Registrations with parts of torch that `import torch` does not load: made when they are loaded.

Counting of operations and sharding belong to modules whose import takes longer than that of the
whole library, so the library does not import them.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_waiting: dict[str, list[Callable[[], None]]] = {}


def when_imported(name: str, register: Callable[[], None]) -> None:
    """Calls `register` once the module `name` is imported: now, or at the end of its import."""
    if name in sys.modules:
        register()
        return
    if not _waiting:
        sys.meta_path.insert(0, _Finder())
    _waiting.setdefault(name, []).append(register)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are waited for, by all other finders, and adds the registrations."""

    def __init__(self) -> None:
        self.searched: str | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _waiting or name == self.searched:
            return None
        self.searched = name
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searched = None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        for register in _waiting.pop(module.__name__):
            register()
