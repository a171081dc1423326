"""Two models of the literature over the library: equal to their plain forms, with all gradients."""

import pytest
import torch
import torch.nn.functional as F

import bilinear
import layers
from harness import finish, runner
from rivals import literature


def tucker(dtype):
    model = literature.TuckER(entities=11, relations=5, entity_size=6, relation_size=4).to(dtype)
    subject, relation = torch.tensor([0, 3, 3, 10]), torch.tensor([4, 0, 2, 2])

    def plain():
        e, r = model.entities.weight, model.relations.weight
        return torch.einsum("ors,nr,ns,eo->ne", model.core, r[relation], e[subject], e)

    return model, lambda: model(subject, relation), plain


def fusion(dtype):
    model = literature.TensorFusion((5, 3, 2), 7).to(dtype)
    z = [torch.randn(4, k, dtype=dtype) for k in (5, 3, 2)]

    def plain():
        a, b, c = (torch.cat([each, torch.ones_like(each[:, :1])], 1) for each in z)
        fused = torch.einsum("na,nb,nc->nabc", a, b, c).flatten(1)
        return F.linear(fused, model.project.core.flatten(1), model.bias)

    return model, lambda: model(*z), plain


@pytest.mark.parametrize("build", [tucker, fusion])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_layer_equals_its_plain_form(build, dtype):
    model, ours, plain = build(dtype)
    results = ours(), plain()
    torch.testing.assert_close(*results)
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(x.sin().sum(), parameters) for x in results]
    torch.testing.assert_close(*gradients)


def test_tucker_scores_one_triple_as_the_paper_writes_it():
    model, ours, _ = tucker(torch.float64)
    e, r = model.entities.weight, model.relations.weight
    by_formula = sum(
        model.core[o, q, s] * e[3, s] * r[2, q] * e[7, o]
        for o in range(6)
        for q in range(4)
        for s in range(6)
    )
    torch.testing.assert_close(ours()[2, 7], by_formula)


def test_fusion_holds_the_lower_products_by_its_appended_ones():
    """Core elements at the appended positions weigh single modalities, as in a linear layer."""
    model, _, _ = fusion(torch.float64)
    z = [torch.randn(4, k, dtype=torch.float64) for k in (5, 3, 2)]
    core = torch.zeros_like(model.project.core)
    core[:, :5, 3, 2] = torch.randn(7, 5, dtype=torch.float64)
    model.project.core.data = core
    torch.testing.assert_close(model(*z), F.linear(z[0], core[:, :5, 3, 2], model.bias))


@pytest.mark.parametrize("script", [bilinear, layers], ids=lambda script: script.__name__)
def test_benchmark_is_right_in_every_method(script, tmp_path, monkeypatch):
    """Small sizes, once: all methods that can run are compared with float64, all are written."""
    kept = []
    monkeypatch.setattr(runner, "measure_roof", lambda *_: runner.Roof(reason="a test"))
    monkeypatch.setattr(finish, "finish", lambda result, *_: kept.append(result) or 0)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    options = ["--quick", "--repeats", "1", "--threads", "1", "--out", str(tmp_path)]
    assert script.main(options) == 0
    (result,) = kept
    assert result.exit_code == 0
    compiled = [row for row in result.rows if row.method.compiles]
    assert all("does not compile" in row.status for row in compiled)
    for row in result.rows:
        assert row.right or row in compiled, (row.case.title, row.method.name, row.status)
    table = finish.save(result, _options(tmp_path), script.__name__)
    assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + len(result.rows)


def _options(folder):
    return type("Options", (), {"out": folder, "device": "cpu"})()
