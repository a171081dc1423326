"""The sweep of random sizes: its cases, its plain forms, what it writes."""

import csv
import random

import pytest
import torch

import ntensor
import sweep
from harness.sizes import Limits, Sizes, differentiates, draw
from rivals.sweep import PART, largest_error, problem
from rivals.sweep_forms import operation


def sweep_rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_quick_sweep_of_every_kind(tmp_path, capsys):
    assert sweep.main(["--quick", "--cases", "1", "--seed", "5", "6", "--out", str(tmp_path)]) == 0
    rows = sweep_rows(tmp_path / "sweep.csv")
    assert {(row["kind"], row["seed"]) for row in rows} == {
        (kind, seed) for kind in sweep.KINDS for seed in ("5", "6")
    }
    assert len(rows) == 2 * len(sweep.KINDS) and all(row["commit"] for row in rows)
    assert {row["kind"] for row in sweep_rows(tmp_path / "sweep_summary.csv")} == set(sweep.KINDS)
    assert f"{len(rows)} cases, 0 wrong" in capsys.readouterr().out


def test_a_timed_sweep(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "FULL", sweep.QUICK)
    command = ["--kinds", "forward", "--cases", "2", "--seed", "5", "--seconds", "0.001"]
    assert sweep.main([*command, "--out", str(tmp_path)]) == 0
    assert "kind forward  cases 2  least" in capsys.readouterr().out
    for row in sweep_rows(tmp_path / "sweep.csv"):
        assert float(row["ratio"]) == pytest.approx(
            float(row["rival_us"]) / float(row["ours_us"]), rel=0.01
        )
    (whole,) = (r for r in sweep_rows(tmp_path / "sweep_summary.csv") if r["sizes"] == "all")
    assert (whole["cases"], whole["seed"]) == ("2", "all")
    assert (tmp_path / "sweep.png").stat().st_size > 1000


def test_kinds_that_are_not_run_keep_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "FULL", sweep.QUICK)
    command = ["--cases", "2", "--seconds", "0.001", "--out", str(tmp_path), "--kinds"]
    assert sweep.main([*command, "mttkrp", "forward", "--seed", "5"]) == 0
    before = sweep_rows(tmp_path / "sweep.csv")
    summaries = sweep_rows(tmp_path / "sweep_summary.csv")
    assert sweep.main([*command, "forward", "--seed", "6", "7"]) == 0
    after = sweep_rows(tmp_path / "sweep.csv")
    assert [(row["kind"], row["seed"]) for row in after] == [
        *(("forward", seed) for seed in ("6", "6", "7", "7")),
        *[("mttkrp", "5")] * 2,
    ]

    def of_kind(rows):
        return [{k: v for k, v in row.items() if v} for row in rows if row["kind"] == "mttkrp"]

    assert of_kind(after) == of_kind(before)
    assert of_kind(sweep_rows(tmp_path / "sweep_summary.csv")) == of_kind(summaries)


def test_a_sweep_says_what_is_wrong_and_does_not_time_it(tmp_path, capsys, monkeypatch):
    right = ntensor.synthesis

    def wrong(*factors):
        result = right(*factors)
        result[-1, -1] += 1e-3 * result[-1, -1].abs()
        return result

    monkeypatch.setattr(ntensor, "synthesis", wrong)
    monkeypatch.setattr(sweep, "measure", None)
    command = ["--kinds", "synthesis", "--cases", "1", "--seed", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sweep, "FULL", sweep.QUICK)
    assert sweep.main(command) == 1
    assert "WRONG: {'kind': 'synthesis'" in capsys.readouterr().out
    (row,) = sweep_rows(tmp_path / "sweep.csv")
    assert row["status"].startswith("error")

    def refused(*factors):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(ntensor, "synthesis", refused)
    assert sweep.main(command) == 1
    assert "'status': 'RuntimeError: no kernel'" in capsys.readouterr().out


@pytest.mark.parametrize("kind", sweep.KINDS)
def test_sizes_of_a_sweep(kind):
    def drawn(seed):
        return [draw(kind, random.Random(f"{seed} {place}"), sweep.FULL) for place in range(100)]

    sizes = drawn(1)
    assert sizes == drawn(1) != drawn(2)
    for each in sizes:
        assert each.within(sweep.FULL)
        assert min(each.n, each.k_x, *each.extents) >= 1
        assert max(each.extents) <= 702 and each.n <= 4096 and each.k_x <= 4000
        assert 1 <= each.groups <= 64 and (each.groups == 1 or kind.startswith("grouped"))
        assert not kind.startswith("rotated") or each.extents[0] * each.extents[1] % 3 == 0
    assert len(set(sizes)) > 90
    if kind.startswith("grouped"):
        assert {len(each.extents) for each in sizes} == {2, 3}
        assert len({each.groups for each in sizes}) > 10


@pytest.mark.parametrize("kind", ["einsum", "permuted"])
def test_equations_of_a_sweep(kind, generator):
    limits, seen = Limits(1 << 10, 1 << 14), set()
    for place in range(40):
        sizes = draw(kind, random.Random(f"{kind} {place}"), limits)
        operands, _, output = sizes.layout.partition("->")
        terms = operands.split(",")
        (core,) = (term for term in terms if "x" in term)
        modes = "abcd"[: len(sizes.extents)]
        assert core != f"x{modes}" and sorted(core) == sorted(f"x{modes}")
        seen.add((terms.index(core) == 0, core.index("x") == 0, output))
        extents = dict(zip(f"nx{modes}", (sizes.n, sizes.k_x, *sizes.extents), strict=True))
        given = [torch.randn([extents[label] for label in term]) for term in terms]
        assert ntensor.einsum_path(sizes.layout, *given).kernel != "torch.einsum"
        case = problem(kind, sizes, "float64", generator)
        assert case.calls["ntensor"]()[0].shape == tuple(extents[label] for label in output)
    # A permuted core comes first; in any equation core, output mode and samples are anywhere.
    assert len(seen) == {"einsum": 8, "permuted": 2}[kind]


@pytest.mark.parametrize("kind", sweep.KINDS)
def test_plain_forms_of_a_sweep(kind, generator):
    seen, limits = set(), Limits(1 << 12, 1 << 16)
    for place in range(6):
        sizes = draw(kind, random.Random(f"{kind} {place}"), limits)
        with torch.set_grad_enabled(differentiates(kind)):
            case = problem(kind, sizes, "float32", generator, einsum=True)
            wanted, terms = case.exact(), case.terms()
            for name, call in case.calls.items():
                error = largest_error(call(), wanted, terms)
                assert error <= PART["float32"], (name, sizes)
        seen |= set(case.calls)
    assert len(seen) >= 3 and ("einsum" in seen) != kind.startswith("rotated")


def test_each_group_of_a_sweep_has_its_core(generator):
    sizes = Sizes(n=5, extents=(3, 4), k_x=2, groups=6)
    case = problem("grouped", sizes, "float64", generator)
    assert set(case.calls) == {
        *("ntensor", "bmm", "vmap", "last first", "row by row", "einsum, left to right"),
        *(f"loop, {name}" for name in ("broadcast", "last first", "row by row", "F.bilinear")),
    }
    case = operation("grouped", sizes)
    tensors = [
        torch.randn(shape, dtype=torch.float64, generator=generator) for shape in case.shapes
    ]
    (found,) = case.ours(*tensors)
    for group, (core, *factors) in enumerate(zip(*tensors, strict=True)):
        torch.testing.assert_close(found[group], ntensor.synthesis_projection(core, *factors))


def test_a_sum_that_cancels_is_judged_by_its_terms():
    exact, terms = torch.tensor([1e-9, 1.0]).double(), torch.tensor([4.0, 4.0]).double()
    error = largest_error([torch.tensor([1e-6, 1.0])], [exact], [terms])
    assert error == pytest.approx(5e-7, rel=0.01)
    assert largest_error([exact + 1], [exact], [terms]) > 0.3
    assert largest_error([exact * float("nan")], [exact], [terms]) == float("inf")


def timed_case(ratio, k_x="", n=1, seed=1, rival_us=100.0):
    times = {"ratio": ratio, "ours_us": rival_us / ratio, "rival_us": rival_us}
    sizes = {"n": n, "k_x": k_x, "groups": ""}
    return {"kind": "forward", "seed": seed, **sizes, "foreign_load": 0.1, **times}


def test_summary_of_a_sweep():
    rows = [timed_case(ratio, k_x=1 + place, n=5) for place, ratio in enumerate(range(1, 11))]
    rows += [timed_case(0.5, k_x=65, seed=2), timed_case(0.5, k_x=65, seed=2, rival_us=10.0)]
    table = {(row["seed"], row["sizes"]): row for row in sweep.summaries(rows)}
    whole = table["all", "all"]
    assert (whole["cases"], whole["least"], whole["median"]) == (12, 0.5, 4.5)
    assert (whole["p10"], whole["p90"]) == (0.5, 9)
    # The second of the two slow cases loses 10 microseconds only.
    assert (whole["lost"], whole["lost_share"]) == (1, pytest.approx(1 / 12, abs=1e-4))
    assert whole["foreign_load"] == pytest.approx(0.1)
    assert {name: row["cases"] for (seed, name), row in table.items() if seed == "all"} == {
        "all": 12,
        "k_x 1": 1,
        "k_x 2 to 4": 3,
        "k_x 5 to 16": 6,
        "k_x over 64": 2,
        "n 1": 2,
        "n 5 to 16": 10,
    }
    assert (table[1, "all"]["cases"], table[2, "all"]["lost"]) == (10, 1)
