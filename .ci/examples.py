"""Runs the Python examples of Markdown pages: `python .ci/examples.py PAGE...`.

The ```python blocks of a page run in their order in one namespace of the page's own; an error names
the page and the line in it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)


def run(page: Path) -> int:
    """The number of examples that ran."""
    text = page.read_text(encoding="utf-8")
    namespace = {"__name__": "__main__"}
    examples = list(BLOCK.finditer(text))
    for match in examples:
        above = text.count("\n", 0, match.start(1))
        exec(compile("\n" * above + match[1], str(page), "exec"), namespace)
    return len(examples)


def main() -> None:
    if not sys.argv[1:]:
        sys.exit("usage: python .ci/examples.py PAGE...")
    for page in map(Path, sys.argv[1:]):
        print(f"{page}: {run(page)} examples", flush=True)


if __name__ == "__main__":
    main()
