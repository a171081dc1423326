"""Benchmark of layers of the literature, at the sizes at which they are used.

    python benchmarks/layers.py --seconds 3 --out benchmarks/results
    python benchmarks/layers.py --shape dimenet nnconv cin-64 cin-128
    python benchmarks/layers.py --quick                 # the same layers with small sizes

Forward and with the gradients of all parameters and inputs, beside the forms in which their users
write them and the fastest ones in torch. `ntensor.einsum` and `torch.einsum` get each equation, and
its operands stored, as users write it: the core's output mode may be the last. README.md in this
folder explains protocol and columns.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from harness import command
from harness.cases import Case, Shape, plain_equation

PASSES = ("forward", "backward", "both")
SINGLE = ("float32",)


class Layer(NamedTuple):
    """`equation`: of the projection; the name of a layer that is timed whole."""

    shape: Shape
    sizes: tuple[int, ...]
    equation: str
    dtypes: tuple[str, ...] = SINGLE


LAYERS = [
    Layer(Shape("dimenet", 128, (8, 128), "DimeNet, interaction"), (100_000,), "wj,wl,ijl->wi"),
    # The last layer of the edges' network has its bias as one more feature.
    Layer(Shape("nnconv", 64, (129, 64), "NNConv on QM9"), (39_000,), "ek,ei,iok->eo"),
    Layer(Shape("cin-64", 64, (64, 39), "xDeepFM, CIN"), (65_536,), "nh,nm,ohm->no"),
    Layer(Shape("cin-128", 128, (128, 39), "xDeepFM, CIN"), (65_536,), "nh,nm,ohm->no"),
    Layer(Shape("experts", 128, (16, 128), "soft mixture of experts"), (8192,), "ne,ni,oei->no"),
    # Code and input have a one appended, for the biases.
    Layer(Shape("hypernetwork", 128, (33, 129), "hypernetwork"), (4096,), "nc,ni,oci->no"),
    Layer(Shape("discriminator", 1, (512, 512), "DGI, discriminator"), (512,), "bi,bj,oij->bo"),
    Layer(
        Shape("bilinear-128", 256, (128, 128), "bilinear"),
        (512,),
        "bi,bj,oij->bo",
        ("float16", "float32"),
    ),
    Layer(Shape("tensor-network", 300, (100, 200), "neural tensor"), (50,), "bi,bj,ijk->bk"),
    Layer(Shape("bilinear-last", 128, (384, 256), "bilinear, output last"), (32,), "bi,bj,ijk->bk"),
    Layer(Shape("scorer", 50, (128, 128), "label scorer"), (4000,), "bi,oij,bj->bo"),
    Layer(Shape("sixteen", 2, (2,) * 16, "16 factors"), (5000,), plain_equation(16), ("float64",)),
    Layer(Shape("face", 78951, (50, 52), "face model"), (1, 8, 64), "ni,ne,vie->nv"),
    Layer(
        Shape("mttkrp", 12, (2000, 2000), "MTTKRP, rank n"),
        (20,),
        "ijk,jr,kr->ir",
        ("float32", "float64"),
    ),
    Layer(Shape("tucker-fb15k237", 200, (200, 200), "FB15k-237"), (128,), "tucker"),
    Layer(Shape("tucker-wn18rr", 200, (30, 200), "WN18RR"), (128,), "tucker"),
    Layer(Shape("fusion", 128, (129, 33, 33), "three modalities"), (32,), "fusion"),
]
SHAPES = {layer.shape.name: layer.shape for layer in LAYERS}


def small(layer: Layer) -> Layer:
    """The same layer with a few samples and features."""
    shape = layer.shape
    extents = tuple(min(k, 4 + place) for place, k in enumerate(shape.factor_sizes))
    few = Shape(f"{shape.name}-quick", min(shape.out_features, 5), extents, shape.title)
    return layer._replace(shape=few, sizes=(5,))


def case_of(layer: Layer, n: int, dtype: str, pass_: str) -> Case:
    if "->" in layer.equation:
        return Case(layer.shape, n, dtype, pass_, layout=layer.equation)
    return Case(layer.shape, n, dtype, pass_, operation=layer.equation)


def cases_of(given) -> list[Case]:
    wanted = [LAYERS[list(SHAPES).index(name)] for name in given.shape or SHAPES]
    return [
        case_of(layer, n, dtype, pass_)
        for layer in (map(small, wanted) if given.quick else wanted)
        for dtype in given.dtype or layer.dtypes
        for pass_ in given.passes or ("forward", "both")
        for n in given.n or layer.sizes
    ]


def suite():
    from rivals.layers import SUITE

    return SUITE


def main(argv: list[str] | None = None) -> int:
    return command.main(argv, "layers", __doc__, SHAPES, PASSES, cases_of, suite)


if __name__ == "__main__":
    sys.exit(main())
