"""Every public operation and every registered operation as data, small enough for any transform."""

from collections.abc import Callable
from typing import NamedTuple

import torch

import definitions
import ntensor
from layouts import make


class Case(NamedTuple):
    """A public operation as a function of tensors (and `backend`), its definition, its shapes.

    `cores` numbers the inputs that have no batch dimension."""

    name: str
    function: Callable
    definition: Callable
    shapes: tuple[tuple[int, ...], ...]
    cores: tuple[int, ...] = ()

    def __str__(self):
        return self.name

    def inputs(self, dtype=torch.float64, requires_grad=True, layout="contiguous", seed=0):
        generator = torch.Generator().manual_seed(seed)
        tensors = [
            make("contiguous" if i in self.cores else layout, shape, dtype, generator)
            for i, shape in enumerate(self.shapes)
        ]
        return [t.requires_grad_(requires_grad) for t in tensors]


def fixed(operation, **keywords):
    """The public operation and its definition with some arguments fixed."""

    def function(*tensors, backend=None):
        return getattr(ntensor, operation)(*tensors, **keywords, backend=backend)

    def definition(*tensors):
        return getattr(definitions, operation)(*tensors, **keywords)

    return function, definition


def mttkrp(mode, weighted=False):
    def arrange(tensor, *rest):
        factors, weights = (rest[:-1], rest[-1]) if weighted else (rest, None)
        place = mode % (len(factors) + 1)  # as torch.fx knows no rank
        return tensor, [*factors[:place], None, *factors[place:]], weights

    def function(*tensors, backend=None):
        tensor, factors, weights = arrange(*tensors)
        return ntensor.mttkrp(tensor, factors, mode, weights=weights, backend=backend)

    def definition(*tensors):
        tensor, factors, weights = arrange(*tensors)
        return definitions.mttkrp(tensor, factors, mode, weights)

    return function, definition


R = (2, 3, 3)
PUBLIC = [
    Case("synthesis-1", *fixed("synthesis"), ((2, 3),)),
    Case("synthesis-3", *fixed("synthesis"), ((2, 3), (2, 1), (2, 2))),
    Case("projection-1", *fixed("synthesis_projection"), ((2, 3), (2, 3)), (0,)),
    Case("projection-2", *fixed("synthesis_projection"), ((3, 2, 3), (2, 2), (2, 3)), (0,)),
    Case(
        "projection-3",
        *fixed("synthesis_projection"),
        ((2, 2, 3, 2), (2, 2), (2, 3), (2, 2)),
        (0,),
    ),
    Case(
        "with_mean-2",
        *fixed("synthesis_projection_with_mean"),
        ((3, 2, 3), (2, 2), (2, 3)),
        (0,),
    ),
    Case(
        "with_mean-3",
        *fixed("synthesis_projection_with_mean"),
        ((2, 2, 1, 3), (2, 2), (2, 1), (2, 3)),
        (0,),
    ),
    Case("rotation-column", *fixed("rotation", layout="column"), ((2, 6), R)),
    Case("rotation-row", *fixed("rotation", layout="row"), ((2, 6), R)),
    Case("rotated-column", *fixed("rotated_synthesis", layout="column"), ((2, 2), (2, 3), R)),
    Case("rotated-row", *fixed("rotated_synthesis", layout="row"), ((2, 2), (2, 3), R)),
    Case("rotated-row-exp", *fixed("rotated_synthesis", layout="row"), ((2, 3), (2, 2), R)),
    Case("mttkrp-0", *mttkrp(0), ((2, 3, 2), (3, 2), (2, 2)), (0, 1, 2)),
    Case("mttkrp-1", *mttkrp(1), ((2, 3, 2), (2, 2), (2, 2)), (0, 1, 2)),
    Case("mttkrp-last", *mttkrp(-1), ((2, 3, 2), (2, 2), (3, 2)), (0, 1, 2)),
    Case(
        "mttkrp-weights",
        *mttkrp(1, weighted=True),
        ((2, 3, 2), (2, 2), (2, 2), (2,)),
        (0, 1, 2, 3),
    ),
    Case("bilinear", *fixed("bilinear"), ((2, 2), (2, 3), (2, 2, 3)), (2,)),
    Case("bilinear-bias", *fixed("bilinear"), ((2, 2), (2, 3), (2, 2, 3), (2,)), (2, 3)),
]


class Registered(NamedTuple):
    """An operation of the namespace: sample arguments as functions of a tensor maker."""

    name: str
    samples: tuple[Callable, ...]

    def __str__(self):
        return self.name

    @property
    def op(self):
        return getattr(torch.ops.ntensor, self.name).default


def _factors(new, n, sizes=(2, 1, 3)):
    return [new(n, k) for k in sizes]


def _grads(operation):
    """Samples of an operation of (core, grad, grad_mean, factors): each output alone, both."""
    return tuple(
        lambda new, n, a=a, b=b: operation(
            new, n, new(n, 4) if a else None, new(n, 4) if b else None
        )
        for a, b in ((True, False), (False, True), (True, True))
    )


SOME, ALL = [True, False, True], [True, True, True]

REGISTERED = [
    Registered(
        "synthesis",
        (lambda new, n: (_factors(new, n),), lambda new, n: (_factors(new, n, (4,)),)),
    ),
    Registered(
        "synthesis_grads",
        (
            lambda new, n: (new(n, 6), _factors(new, n), SOME),
            lambda new, n: (new(n, 6), _factors(new, n), ALL),
        ),
    ),
    Registered(
        "synthesis_projection",
        (lambda new, n: (new.core(4, 2, 1, 3), _factors(new, n)),),
    ),
    Registered(
        "synthesis_projection_with_mean",
        (lambda new, n: (new.core(4, 2, 1, 3), _factors(new, n)),),
    ),
    Registered(
        "projection_factor_grads",
        _grads(lambda new, n, g, m: (new.core(4, 2, 1, 3), g, m, _factors(new, n), ALL))
        + _grads(lambda new, n, g, m: (new.core(4, 2, 1, 3), g, m, _factors(new, n), SOME)),
    ),
    Registered(
        "projection_core_grad",
        _grads(lambda new, n, g, m: (g, m, _factors(new, n))),
    ),
    Registered(
        "projection_core_grad_",
        _grads(lambda new, n, g, m: (new.core(4, 2, 1, 3).detach(), g, m, _factors(new, n))),
    ),
    Registered(
        "grouped_projection",
        (lambda new, n: (new.core(8, 2, 1, 3), _factors(new, 2 * n), 2),),
    ),
    Registered(
        "grouped_projection_factor_grads",
        tuple(
            lambda new, n, needs=needs: (
                new.core(8, 2, 1, 3),
                new(2 * n, 4),
                _factors(new, 2 * n),
                2,
                needs,
            )
            for needs in (ALL, SOME)
        ),
    ),
    Registered(
        "grouped_projection_core_grad",
        (lambda new, n: (new(2 * n, 4), _factors(new, 2 * n), 2),),
    ),
    *(
        Registered(name, samples)
        for name, samples in {
            "rotation": tuple(
                lambda new, n, layout=layout: (new(n, 6), new(n, 3, 3), layout)
                for layout in ("column", "row")
            ),
            "rotation_matrix_grad": tuple(
                lambda new, n, layout=layout: (new(n, 6), new(n, 6), layout)
                for layout in ("column", "row")
            ),
            "rotated_synthesis": tuple(
                lambda new, n, layout=layout, k=k: (new(n, k), new(n, 6 // k), new(n, 3, 3), layout)
                for layout in ("column", "row")
                for k in (2, 3)
            ),
            "rotated_synthesis_grads": tuple(
                lambda new, n, layout=layout, k=k, needs=needs: (
                    new(n, 6),
                    new(n, k),
                    new(n, 6 // k),
                    new(n, 3, 3),
                    layout,
                    needs,
                )
                for layout in ("column", "row")
                for k in (2, 3)
                for needs in (ALL, SOME)
            ),
        }.items()
    ),
]


class Maker:
    """`new(*shape)` in one dtype and layout; `new.core(*shape)` is contiguous."""

    def __init__(self, dtype, layout, requires_grad, seed=0):
        self.dtype, self.layout, self.requires_grad = dtype, layout, requires_grad
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape, layout=None):
        tensor = make(layout or self.layout, shape, self.dtype, self.generator)
        return tensor.requires_grad_(self.requires_grad)

    def core(self, *shape):
        return self(*shape, layout="contiguous")
