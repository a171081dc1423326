"""Every example: its forms agree in values and gradients, and it runs as a script.

For those whose product of a batch is large: it is never in memory."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorly
import torch

import cp_decomposition
import dimenet
import hypernetwork
import mixture_of_experts
import multi_head_bilinear
import neural_tensor_network
import nnconv
import side_by_side
import tensor_fusion
import tucker
import xdeepfm

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SMALL = {
    dimenet: {"triplets": 40, "edges": 11, "size": 12},
    nnconv: {"edges": 30, "nodes": 7, "size": 5},
    xdeepfm: {"samples": 6, "fields": 5, "rows": (4, 7, 3), "size": 2},
    neural_tensor_network: {"pairs": 9, "size": 6, "slices": 3},
    mixture_of_experts: {"samples": 9, "experts": 4, "size_in": 6, "size_out": 5},
    hypernetwork: {"samples": 9, "code": 4, "size": 6},
    tucker: {"questions": 9, "entities": 11, "relations": 5, "sizes": (6, 4)},
    tensor_fusion: {"samples": 9, "sizes": (5, 3, 2), "hidden": 7},
    multi_head_bilinear: {"samples": 9, "heads": 3, "size": 6, "out": 5},
}
each_layer = pytest.mark.parametrize("module", SMALL, ids=lambda module: module.__name__)


def test_every_example_is_tested():
    files = {path.stem for path in EXAMPLES.glob("*.py")}
    tested = {module.__name__ for module in SMALL}
    assert files - tested == {"side_by_side", "cp_decomposition"}


@each_layer
def test_forms_agree(module, in_float64):
    """The output, and the gradients of all parameters and inputs."""
    published, *others = (step() for step in module.example(**SMALL[module]).values())
    assert all(x.dtype is torch.float64 and x.abs().max() > 0 for x in published)
    for other in others:
        torch.testing.assert_close(other, published, rtol=1e-10, atol=1e-10)


def test_decompositions_agree():
    forms = cp_decomposition.example(extent=12, rank=3, dtype="float64")
    results = [tensorly.cp_to_tensor(step()) for step in forms.values()]
    assert type(results[0]) is np.ndarray and np.abs(results[0]).max() > 0
    np.testing.assert_allclose(*results, rtol=1e-6)


# Extents, and the elements of the array that the published form makes of all samples.
LARGE = {
    dimenet: ({"triplets": 4000, "edges": 300, "size": 64}, 4000 * 8 * 64),
    nnconv: ({"edges": 2000, "nodes": 100, "size": 32}, 2000 * 32 * 32),
    xdeepfm: ({"samples": 256, "fields": 30, "rows": (32, 32)}, 256 * 16 * 30 * 32),
}


@pytest.mark.parametrize("module", LARGE, ids=lambda module: module.__name__)
def test_no_product_of_the_batch_is_in_memory(module):
    """Neither at once nor in parts; the count sees it in the published form."""
    extents, elements = LARGE[module]
    forms = module.example(**extents)
    seen = {name: side_by_side.allocations(step) for name, step in forms.items()}
    assert seen["published"].largest >= 4 * elements
    assert seen["ntensor"].peak < 4 * elements


def test_memory_counts_torch_and_numpy():
    seen = side_by_side.memory(lambda: (torch.empty(1000, dtype=torch.float32), np.empty(10**6)))
    assert seen.largest == 4000
    assert 8_004_000 <= seen.peak < 8_024_000


@pytest.mark.parametrize("name", [*(module.__name__ for module in SMALL), "cp_decomposition"])
def test_script_prints_each_form(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "4"])
    monkeypatch.setattr(side_by_side, "ROUNDS", 1)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    _, _, *rows = map(str.split, capsys.readouterr().out.splitlines())
    assert [row[0] for row in rows[:2]] == ["published", "ntensor"]
    assert all(len(row) == 5 and all(float(cell) >= 0 for cell in row[1:]) for row in rows)
