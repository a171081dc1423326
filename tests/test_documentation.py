"""README, the pages and the files beside them: sizes, links, examples, and what stands twice."""

import re
import runpy
from pathlib import Path

import pytest

import ntensor

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "benchmarks", ROOT / "ntensor/faces")
    for path in (folder.rglob("*.md") if folder.name == "docs" else folder.glob("*.md"))
)
LINK = re.compile(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_readme_is_one_page():
    assert len(read("README.md").encode()) <= 7 * 1024


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    links = LINK.findall(prose)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_version_is_the_package_s():
    assert f"\nversion: {ntensor.__version__}\n" in read("CITATION.cff")
    assert f"\n## [{ntensor.__version__}]" in read("CHANGELOG.md")


def test_every_public_name_has_its_place_in_the_api():
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs/api").glob("*.md"))
    public = [f"ntensor.{name}" for name in ntensor.__all__ if name not in ("__version__", "nn")]
    public += [f"ntensor.nn.{name}" for name in ntensor.nn.__all__]
    entries = re.findall(r"^::: (\S+)$", pages, re.M)
    assert [name for name in public if name not in entries] == []


def test_examples_of_a_page_share_a_namespace(tmp_path):
    run = runpy.run_path(str(ROOT / ".ci/examples.py"))["run"]
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\n```\n\n```bash\nfalse\n```\n\n```python\nassert x == 1\n```\n"
    )
    assert run(page) == 2
    page.write_text("one\n\n```python\nx = 1\nraise ValueError\n```\n")
    with pytest.raises(ValueError) as error:
        run(page)
    last = error.traceback[-1]
    assert (Path(last.path), last.lineno + 1) == (page, 5)
