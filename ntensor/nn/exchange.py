"""The layers of a model exchanged in place, between torch's own and the library's."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch.nn import Module
from torch.nn.utils import parametrize

from ntensor.backends import DTYPES

from .modules import Bilinear

Model = TypeVar("Model", bound=Module)


def convert(model: Model) -> Model:
    """Turns every `torch.nn.Bilinear` in a model into an `ntensor.nn.Bilinear`, in place.

    Each layer stays the same object and changes its class, so everything that refers to it or
    belongs to it is preserved: parameters (an optimizer's too), their gradients, buffers, hooks,
    parametrizations, the training flag, layers that are used twice, the names in the state dict.
    The model itself may be such a layer.

    Layers of a subclass are left alone, since its methods may rely on its base. Those of a model
    after `fully_shard` are among them, so call `fully_shard` after `convert`. Scripted layers, and
    layers of dtypes that the library does not support, are left alone too.

    Args:
        model (Module): any model.

    Returns:
        Module: the same model.

    Example:
        >>> import torch, ntensor
        >>> model = torch.nn.ModuleDict({"score": torch.nn.Bilinear(2, 3, 5)})
        >>> optimizer = torch.optim.SGD(model.parameters())
        >>> type(ntensor.nn.convert(model)["score"]).__module__
        'ntensor.nn.modules'
        >>> type(ntensor.nn.revert(model)["score"]).__module__
        'torch.nn.modules.linear'
    """
    for module in _layers(model, torch.nn.Bilinear):
        if all(parameter.dtype in DTYPES for parameter in module.parameters()):
            _change_class(module, Bilinear)
    return model


def revert(model: Model) -> Model:
    """Turns every `ntensor.nn.Bilinear` in a model into a `torch.nn.Bilinear`: undoes `convert`.

    Layers that were built as `ntensor.nn.Bilinear` change as well; everything else is as in
    `convert`.

    Args:
        model (Module): any model.

    Returns:
        Module: the same model.
    """
    for module in _layers(model, Bilinear):
        _change_class(module, torch.nn.Bilinear)
    return model


def _layers(model: Module, layer: type[Module]) -> list[Module]:
    """The modules of exactly this class, each once; parametrized ones, whose class is their own."""
    return [
        module
        for module in model.modules()
        if parametrize.type_before_parametrizations(module) is layer
    ]


def _change_class(module: Module, layer: type[Module]) -> None:
    own = type(module)
    if parametrize.is_parametrized(module):
        body = {name: value for name, value in vars(own).items() if name not in _OF_EACH_CLASS}
        module.__class__ = type(f"Parametrized{layer.__name__}", (layer,), body)
    else:
        module.__class__ = layer


_OF_EACH_CLASS = ("__dict__", "__weakref__", "__module__", "__doc__")
