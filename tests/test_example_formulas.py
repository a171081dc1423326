"""Every layer of the examples is its paper's formula, written out sample by sample."""

import pytest
import torch
import torch.nn.functional as F

import dimenet
import hypernetwork
import mixture_of_experts
import multi_head_bilinear
import neural_tensor_network
import nnconv
import tensor_fusion
import tucker
import xdeepfm


def of_dimenet():
    layer = dimenet.Interaction(size=5, bilinear=3, radial=2, spherical=4)
    message, radial, spherical = torch.randn(6, 5), torch.randn(6, 2), torch.randn(9, 4)
    kj, ji = torch.randint(6, (2, 9))
    sent = F.silu(layer.of_kj(message)) * layer.of_radial(radial)
    x = F.silu(layer.of_ji(message)).detach()
    for t in range(9):
        angle = layer.of_spherical(spherical[t])
        x[ji[t]] += sum(
            angle[j] * layer.weight[:, j, l] * sent[kj[t], l] for j in range(3) for l in range(5)
        )
    return layer, (message, radial, spherical, kj, ji), x


def of_nnconv():
    layer = nnconv.EdgeNetwork(size_in=3, size_out=4, features=2, hidden=5)
    x, features = torch.randn(6, 3), torch.randn(9, 2)
    source, target = torch.randint(6, (2, 9))
    m = torch.zeros(6, 4)
    for e in range(9):
        matrix = layer.last(torch.relu(layer.first(features[e]))).view(3, 4)
        m[target[e]] += x[source[e]] @ matrix
    return layer, (x, features, source, target), m


def of_xdeepfm():
    layer = xdeepfm.CompressedInteraction(fields=4, rows=(3, 2))
    first = torch.randn(6, 4, 5)
    x, sums = first, []
    for weight in layer.weights:
        x = torch.stack(
            [
                sum(
                    w[i, j] * x[:, i] * first[:, j]
                    for i in range(x.shape[1])
                    for j in range(first.shape[1])
                )
                for w in weight
            ],
            1,
        )
        sums.append(x.sum(2))
    return layer, (first,), torch.cat(sums, 1)


def of_neural_tensor_network():
    layer = neural_tensor_network.NeuralTensorNetwork(size=4, slices=3)
    e1, e2 = torch.randn(6, 4), torch.randn(6, 4)
    V, b = layer.linear.weight, layer.linear.bias
    scores = [
        sum(
            layer.u[k] * torch.tanh(x @ layer.tensor[k] @ y + V[k, :4] @ x + V[k, 4:] @ y + b[k])
            for k in range(3)
        )
        for x, y in zip(e1, e2, strict=True)
    ]
    return layer, (e1, e2), torch.stack(scores)


def of_mixture_of_experts():
    layer = mixture_of_experts.LinearExperts(experts=3, size_in=4, size_out=5)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 6, 4)
    gate = torch.softmax(x @ layer.gate.weight.T, -1)
    experts = [x @ layer.weight[:, e].T + layer.bias[e] for e in range(3)]
    return layer, (x,), sum(gate[..., e, None] * experts[e] for e in range(3))


def of_hypernetwork():
    layer = hypernetwork.GeneratedLinear(code=3, size_in=4, size_out=5)
    z, x = torch.randn(6, 3), torch.randn(6, 4)
    core = layer.core
    rows = []
    for code, given in zip(z, x, strict=True):
        weight = core[:, -1] + sum(code[c] * core[:, c] for c in range(3))
        rows.append(weight[:, :-1] @ given + weight[:, -1])
    return layer, (z, x), torch.stack(rows)


def of_tucker():
    layer = tucker.TuckER(entities=7, relations=3, entity_size=4, relation_size=2)
    subject, relation = torch.tensor([0, 5, 5]), torch.tensor([2, 0, 1])
    e, r = layer.entities.weight, layer.relations.weight
    scores = [
        sum(
            layer.core[o, q, s] * e[:, o] * r[b, q] * e[a, s]
            for o in range(4)
            for q in range(2)
            for s in range(4)
        )
        for a, b in zip(subject, relation, strict=True)
    ]
    return layer, (subject, relation), torch.stack(scores)


def of_tensor_fusion():
    layer = tensor_fusion.TensorFusion(sizes=(3, 2, 4), hidden=5)
    torch.nn.init.normal_(layer.bias)
    z = [torch.randn(6, k) for k in (3, 2, 4)]
    one = torch.ones(1)
    rows = []
    for parts in zip(*z, strict=True):
        a, b, c = (torch.cat([part, one]) for part in parts)
        fused = torch.kron(torch.kron(a, b), c)
        rows.append(layer.project.core.flatten(1) @ fused + layer.bias)
    return layer, z, torch.stack(rows)


def of_multi_head_bilinear():
    layer = multi_head_bilinear.MultiHeadBilinear(heads=3, size=4, out=5)
    left, right = torch.randn(6, 3, 4), torch.randn(6, 3, 4)
    x = torch.zeros(6, 3, 5)
    for n in range(6):
        for p in range(3):
            for o in range(5):
                x[n, p, o] = left[n, p] @ layer.cores[p, o] @ right[n, p]
    return layer, (left, right), x


LAYERS = [value for name, value in sorted(globals().items()) if name.startswith("of_")]


@pytest.mark.parametrize("build", LAYERS, ids=lambda build: build.__name__)
def test_layer_is_its_formula(build, in_float64):
    with torch.no_grad():
        layer, inputs, expected = build()
        torch.testing.assert_close(layer(*inputs), expected, rtol=1e-10, atol=1e-10)
