"""The commands of layers: every method is right, whole layers as their papers write them."""

import pytest
import torch
import torch.nn.functional as F

import bilinear
import layers
import ntensor
from harness import finish, runner
from harness.files import read_table
from rivals import forms
from rivals.layers import fusion, tucker
from rivals.layouts import read_equation

QUICK = ["--quick", "--repeats", "1", "--threads", "1"]


SHAPES = list(layers.SHAPES)
METHODS = {"ntensor", "ntensor.einsum", "einsum, left to right", "broadcast + matmul", "F.bilinear"}
METHODS |= {"outer product by bmm", "matrix a sample", "as published", "TensorLy"}


def library(core, *factors):
    return (ntensor.synthesis_projection(core, *factors),)


def test_tucker_scores_one_triple_as_the_paper_writes_it():
    core, e, r = (torch.randn(size, dtype=torch.float64) for size in ((6, 4, 6), (11, 6), (5, 4)))
    by_formula = sum(
        core[o, q, s] * e[3, s] * r[2, q] * e[7, o]
        for o in range(6)
        for q in range(4)
        for s in range(6)
    )
    for project in (library, forms.broadcast):
        scores = tucker(project, core, e, r[[0, 2]], e[[1, 3]])
        torch.testing.assert_close(scores[1, 7], by_formula)


def test_fusion_holds_the_lower_products_by_its_appended_ones():
    """Core elements at the appended positions weigh single modalities, as in a linear layer."""
    z = [torch.randn(4, k, dtype=torch.float64) for k in (5, 3, 2)]
    core, bias = torch.zeros(7, 6, 4, 3, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    core[:, :5, 3, 2] = torch.randn(7, 5, dtype=torch.float64)
    for project in (library, forms.broadcast, forms.outer_product, forms.hoisted):
        torch.testing.assert_close(
            fusion(project, core, bias, *z), F.linear(z[0], core[:, :5, 3, 2], bias)
        )


def test_an_equation_says_how_operands_are_stored():
    layout, place = read_equation("ek,ei,iok->eo")
    assert (layout.core, layout.factor, layout.output, place) == ((2, 0, 1), (), (), 2)
    layout, place = read_equation("ijk,jr,kr->ir")
    assert (layout.core, layout.factor, layout.output, place) == ((), (1, 0), (1, 0), 0)


@pytest.fixture
def environment(monkeypatch):
    """What a run needs besides: no measured roof, and thread counts that end with the test."""
    monkeypatch.setattr(runner, "measure_roof", lambda *_: runner.Roof(reason="a test"))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


@pytest.mark.parametrize("script", [bilinear, layers], ids=lambda script: script.__name__)
def test_benchmark_is_right_in_every_method(script, tmp_path, monkeypatch, environment):
    """Small sizes, once: all methods that can run are compared with float64, all are written."""
    monkeypatch.setattr(finish, "write_plot", lambda *_: None)
    assert script.main([*QUICK, "--out", str(tmp_path)]) == 0
    rows = read_table(tmp_path / f"{script.__name__}.csv")
    assert {row["pass"] for row in rows} == {"forward", "both"}
    for row in rows:
        compiles = row["method"].startswith("torch.compile")
        wanted = "left out: --quick does not compile" if compiles else "right"
        assert row["status"] == wanted, row
    if script is layers:
        assert [*dict.fromkeys(row["shape"] for row in rows)] == [f"{n}-quick" for n in SHAPES]
        assert {row["method"] for row in rows} >= METHODS


def test_a_wrong_row_is_said_and_ends_the_command_with_1(tmp_path, monkeypatch, environment):
    right = ntensor.einsum
    monkeypatch.setattr(ntensor, "einsum", lambda *operands: right(*operands) * 1.001)
    words = [*QUICK, "--shape", "bilinear-last", "--dtype", "float32", "--pass", "forward"]
    assert layers.main([*words, "--methods", "ntensor", "--out", str(tmp_path)]) == 1
    rows = read_table(tmp_path / "layers.csv")
    status = {row["method"]: row["status"] for row in rows}
    assert status["ntensor"] == "right" and status["ntensor.einsum"].startswith("wrong: error 1.0e")
