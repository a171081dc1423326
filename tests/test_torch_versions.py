"""The promise on versions of torch: one floor, no upper bound, and a table of what was run."""

import csv
import re
from pathlib import Path

import pytest

import torch_versions

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "benchmarks/results" / torch_versions.NAME
REPORT = """<testsuites><testsuite errors="1" failures="2" skipped="3" tests="10"/></testsuites>"""


def row(torch, python="3.11.7", passed=1):
    return {"torch": torch, "python": python, "passed": passed, "processor": "one, and its model"}


def read(table):
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def requirement():
    """What pyproject.toml wants of torch."""
    (wanted,) = re.findall(r'^dependencies = \["torch([^"]*)"', metadata(), re.M)
    return wanted


def metadata():
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_no_upper_bound():
    assert re.fullmatch(r">=\d+\.\d+", requirement())


def test_the_readme_names_the_floor():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert re.findall(r"torch \(?(\d+\.\d+) or newer", readme) == [requirement()[2:]]


def test_the_table_holds_runs_of_the_floor_or_newer_without_failures():
    rows = read(TABLE)
    assert rows
    floor = tuple(map(int, requirement()[2:].split(".")))
    assert all(tuple(map(int, each["torch"].split(".")[:2])) >= floor for each in rows)
    assert {each["failed"] for each in rows} == {"0"}
    assert all(int(each["passed"]) > 1000 for each in rows)


def test_what_a_report_says(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    assert torch_versions.counts(report) == {"passed": 4, "failed": 3, "skipped": 3}
    report.write_text(REPORT.replace("10", "3").replace("2", "0").replace("1", "0"))
    with pytest.raises(ValueError, match="no test ran"):
        torch_versions.counts(report)


def test_a_row_takes_the_place_of_its_versions_alone(tmp_path):
    table = tmp_path / torch_versions.NAME
    for each in (
        row("2.13.0+cpu"),
        row("2.9.1+cu128"),
        row("2.13.0+cpu", python="3.9.1"),
        row("2.13.0+cu130", python="3.11.9", passed=2),
    ):
        torch_versions.write(table, each)
    found = [(each["torch"], each["python"], each["passed"]) for each in read(table)]
    assert found == [
        ("2.9.1+cu128", "3.11.7", "1"),
        ("2.13.0+cpu", "3.9.1", "1"),
        ("2.13.0+cu130", "3.11.9", "2"),
    ]
    assert read(table)[0]["processor"] == "one, and its model"
    assert [path.name for path in tmp_path.iterdir()] == [table.name]
