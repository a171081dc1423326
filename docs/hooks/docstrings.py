"""Docstrings as the site shows them: formulas in MathML, examples as code, names as links."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import griffe
from latex2mathml.converter import convert

# A formula ends where the text is less indented than what follows `.. math::`.
BLOCK = re.compile(r"^( *)\.\. math:: ?(.*(?:\n\1 +.*)*)", re.M)
INLINE = re.compile(r":math:`([^`]+)`")
SAME_ERRORS = re.compile(r"^( *)Raises:\n +As (.+)$", re.M)
NAME = re.compile(r"(?<!`)`(ntensor(?:\.\w+)+)`(?!`)")


def _block(match: re.Match[str]) -> str:
    formula = convert(" ".join(dedent(match[2]).split()), display="block")
    return f'{match[1]}<div class="formula">{formula}</div>'


def _inline(match: re.Match[str]) -> str:
    return convert(" ".join(match[1].split()))


def _name(match: re.Match[str]) -> str:
    return f'<autoref identifier="{match[1]}" optional><code>{match[1]}</code></autoref>'


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed; names of the package mean its functions."""

    def on_package(self, *, pkg: Any, **_: Any) -> None:
        # A function of a module of its own name: `ntensor.synthesis` is the function.
        modules = pkg.members["ops"].members
        for name in pkg.exports or ():
            if isinstance(modules.get(name), griffe.Module):
                pkg.set_member(name, griffe.Alias(name, modules[name].members[name]))

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is None:
            return
        text = BLOCK.sub(_block, obj.docstring.value)
        text = INLINE.sub(_inline, text)
        text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.M)
        text = SAME_ERRORS.sub(r"\1Errors are those of \2", text)
        obj.docstring.value = NAME.sub(_name, text)
