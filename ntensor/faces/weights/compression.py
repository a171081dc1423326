r"""Compresses a network: factors large layers by a basis of their outputs, in half precision.

Let :math:`X` be the outputs of a layer with matrix :math:`W` for pictures and edits of them, and
:math:`U` the first r left singular vectors of :math:`X`. Then

.. math:: W \approx U (U^T W)

has the smallest squared error of these outputs among all matrices of rank r. A truncated singular
value decomposition of :math:`W` itself would spend its rank on inputs that never occur.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import ntensor
from ntensor.faces import editing
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.networks.model import FaceAutoencoder, Model
from ntensor.faces.training.packed import BASIS, CORE

# Layers with fewer numbers are not factored.
SMALLEST = 4096
# Directions with a smaller share of the outputs' variance are below the error of half precision.
LEAST_SHARE = 1e-7
# Number of directions considered per layer.
_DIRECTIONS = 512
_BATCH = 32


@dataclass(frozen=True)
class Spectrum:
    """The outputs of one layer.

    Attributes:
        basis (Tensor[k_x, q]): orthonormal directions, by decreasing share.
        share (Tensor[q]): squared length of the outputs along each, relative to their variance.
    """

    basis: Tensor
    share: Tensor


def compress(
    model: Model, pictures: Tensor, room: int, dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """Compresses a network to at most `room` bytes, for `packed.restore_tensors`.

    Directions are kept in the order of their share of the layer's variance per byte, until the
    room is used up.

    Args:
        model (Model): on the CPU.
        pictures (Tensor[n, 3, S, S]): training pictures, at least as many as directions are needed.
        room (int): bytes.
        dtype (torch.dtype): of the half precision.

    Raises:
        ConfigurationError: the tensors that are not factored already take more, or a number is too
            large for the precision.
    """
    outputs = collect_outputs(model, find_layers(model), pictures)
    spectra = {name: find_spectrum(torch.cat(rows)) for name, rows in outputs.items()}
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    kept = {name: shrink(name, t, dtype) for name, t in state.items() if name not in spectra}
    left = room - sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    ranks = choose_ranks(spectra, {name: state[name] for name in spectra}, left // 2)
    for name, rank in ranks.items():
        tensor = state[name]
        if rank is None:
            kept[name] = shrink(name, tensor, dtype)
            continue
        basis = spectra[name].basis[:, :rank]
        core = (basis.T @ tensor.flatten(1)).view(rank, *tensor.shape[1:])
        kept[f"{name}{BASIS}"] = shrink(name, basis, dtype)
        kept[f"{name}{CORE}"] = shrink(name, core, dtype)
    return kept


def shrink(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Converts a tensor to half precision; vectors, which hold biases and means, are kept.

    Raises:
        ConfigurationError: a number is too large for the precision.
    """
    if tensor.dim() < 2 or not tensor.is_floating_point():
        return tensor
    small = tensor.to(dtype)
    if not bool(small.isfinite().all()):
        raise ConfigurationError(
            f"{name}: expected numbers below {torch.finfo(dtype).max:g}, got "
            f"{float(tensor.abs().max()):g}; --precision bfloat16 has a larger range"
        )
    return small


def find_layers(model: Model) -> dict[str, nn.Module]:
    """The layers that may be factored, by the name of their tensor.

    The encoder's are excluded, since every output depends on its codes.
    """
    tensors = {nn.Linear: "weight", ntensor.nn.MultilinearProjection: "core"}
    return {
        f"{path}.{tensors[type(layer)]}": layer
        for path, layer in model.named_modules()
        if type(layer) in tensors
        and not path.startswith("encoder.")
        and getattr(layer, tensors[type(layer)]).numel() >= SMALLEST
    }


def collect_outputs(
    model: Model, layers: Mapping[str, nn.Module], pictures: Tensor
) -> dict[str, list[Tensor]]:
    """Outputs (n, k_x) of each layer, without its bias, for pictures and edits of them.

    Layers that decoding does not use are left out.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_hook(functools.partial(_keep, rows[name]))
        for name, layer in layers.items()
    ]
    try:
        for part in pictures.split(_BATCH):
            run_edits(model, part)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: parts for name, parts in rows.items() if parts}


def _keep(rows: list[Tensor], layer: nn.Module, given: Any, output: Any) -> None:
    bias = getattr(layer, "bias", None)
    for part in output if isinstance(output, tuple) else (output,):
        rows.append((part if bias is None else part - bias).detach().flatten(0, -2))


@torch.no_grad()
def run_edits(model: Model, pictures: Tensor) -> None:
    """Decodes pictures, and each with codes of the next, as in use."""
    own = editing.encode(model, pictures)
    if not isinstance(model, FaceAutoencoder):
        editing.decode(model, own)
        return
    for edits in ((), ("expression",), ("pose", "light")):
        names = [editing.CODES[edit] for edit in edits if editing.CODES[edit] in own.codes]
        codes = {name: own.codes[name].roll(1, 0) for name in names}
        editing.decode(model, own.replace(codes))


def find_spectrum(outputs: Tensor) -> Spectrum:
    """The principal directions of outputs (n, k_x)."""
    directions = min(_DIRECTIONS, *outputs.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        basis, lengths, _ = torch.svd_lowrank(outputs.T, directions, niter=4)
    spread = (outputs - outputs.mean(0)).double().square().sum()
    return Spectrum(basis, lengths.double().square() / spread.clamp_min(1e-30))


def choose_ranks(
    spectra: Mapping[str, Spectrum], layers: Mapping[str, Tensor], room: int
) -> dict[str, int | None]:
    """The number of directions to keep of each layer; None: the layer is not factored.

    Args:
        spectra, layers (mapping): by name.
        room (int): limit on the count of numbers.

    Raises:
        ConfigurationError: there is no room for one direction of each layer.
    """
    costs = {name: len(w) + w[0].numel() for name, w in layers.items()}
    ranks = dict.fromkeys(layers, 1)
    room -= sum(costs.values())
    if room < 0:
        raise ConfigurationError(f"the network needs {-2 * room / 1e6:.2f} MB more; see --most")
    order = sorted(
        (-float(share) / costs[name], name, rank)
        for name, spectrum in spectra.items()
        for rank, share in enumerate(spectrum.share.tolist(), 1)
        if rank > 1 and share > LEAST_SHARE
    )
    for _, name, rank in order:
        whole = layers[name].numel()
        more = min(rank * costs[name], whole) - min(ranks[name] * costs[name], whole)
        if rank == ranks[name] + 1 and more <= room:
            ranks[name], room = rank, room - more
    kept: dict[str, int | None] = {}
    for name, rank in ranks.items():
        whole, share = layers[name].numel(), spectra[name].share
        missing = whole - rank * costs[name]
        cut = rank == len(share) and float(share[-1]) > LEAST_SHARE
        if missing <= 0 or (cut and missing <= room):
            kept[name], room = None, room - max(0, missing)
        else:
            kept[name] = rank
    return kept
