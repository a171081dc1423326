"""Pages and pictures that lie outside docs/ become part of the site, where a page links to them.

README.md is the site's first page. A link in any page is written as GitHub reads it, relative to
the page's place in the repository; here it becomes relative to the page's place on the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
FIRST = "README.md"
# Pages of the navigation outside docs/, each only where the repository has it.
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_config(config: Any) -> Any:
    config.nav = [
        entry
        for entry in config.nav
        if not isinstance(target := next(iter(entry.values())), str)
        or target not in OUTSIDE
        or (ROOT / target).is_file()
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    pages = [FIRST, *(name for name in OUTSIDE if (ROOT / name).is_file())]
    pages += [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(pages)
    for place in pages:
        if not place.startswith("docs/"):
            files.append(_file(place, config))
        for _, target, _ in LINK.findall((ROOT / place).read_text(encoding="utf-8")):
            linked = _target(place, target)
            if linked in seen or linked.startswith("docs/") or not (ROOT / linked).is_file():
                continue
            seen.add(linked)
            if linked.endswith(".md"):
                pages.append(linked)
            else:
                files.append(_file(linked, config))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    place = _place(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        linked = _target(place, match[2])
        if not (ROOT / linked).is_file():
            return match[0]  # mkdocs says so
        return f"{match[1]}{posixpath.relpath(_uri(linked), folder or '.')}{match[3]}"

    return LINK.sub(moved, markdown)


def _target(place: str, link: str) -> str:
    """The file in the repository that a link on the page `place` means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), link))


def _uri(place: str) -> str:
    """Where a file of the repository lies on the site."""
    return "index.md" if place == FIRST else place.removeprefix("docs/")


def _place(uri: str) -> str:
    if uri == "index.md":
        return FIRST
    return f"docs/{uri}" if (ROOT / "docs" / uri).is_file() else uri


def _file(place: str, config: Any) -> File:
    return File.generated(config, _uri(place), abs_src_path=str(ROOT / place))
