"""Trains the verification network on training identities: `python -m ntensor.faces.verification`.

The network learns to classify the identities of the training split; `E_veri` uses its embedding. It
is evaluated on pairs of faces of other identities, by the area under the ROC curve with the cosine
as the score for "same person".
"""

from __future__ import annotations

from .common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.verification")

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from ntensor.faces.networks.light_cnn import LightCNN
from ntensor.faces.training.processes import choose_device
from ntensor.faces.training.samples import Samples, open_sources
from ntensor.faces.training.sampling import Updates

from .common.command import command
from .common.errors import CheckpointError, DamagedData, FacesError, OutputError
from .configuration import DataConfiguration, settle_face_model
from .configuration.entries import (
    Device,
    Extent,
    ImageSize,
    Positive,
    Rate,
    Seed,
    Within,
    check_entries,
)
from .reading import check_tensors, parse_document, read_tensors
from .writing.files import LOCK, check_writable, locked, replacing

Width = Annotated[float, Within(0, 16, above=True)]
InputSize = Annotated[int, Within(16, 2048, multiple=16)]


@dataclass(frozen=True)
class VerificationConfiguration:
    """Training of the verification network.

    Attributes:
        out: file of the weights (safetensors).
        data: as in `ntensor.faces.train`; `cache` must be above 0.
        width, embedding, input_size: of `LightCNN`.
        steps, batch_size, learning_rate: of Adam, with cosine decay to zero.
        image_size: of generated faces.
        device, seed
    """

    out: Path = Path("runs/verification.safetensors")
    data: DataConfiguration = field(default_factory=lambda: DataConfiguration(cache=4000))
    width: Width = 0.5
    embedding: Extent = 256
    input_size: InputSize = 128
    steps: Positive = 4000
    batch_size: Positive = 32
    learning_rate: Rate = 1e-3
    image_size: ImageSize = 64
    device: Device = "auto"
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_entries(self)


@dataclass(frozen=True)
class Settings:
    """The arguments of `LightCNN`, as stored in its file."""

    width: Width
    embedding: Extent
    input_size: InputSize

    def __post_init__(self) -> None:
        check_entries(self)


def fit(
    settings: VerificationConfiguration, training: Samples, device: torch.device
) -> tuple[LightCNN, float]:
    """Trains the network; returns it with its running accuracy over the last batches.

    Raises:
        FacesError: the set has no numbered identities, or is endless.
    """
    from tqdm import trange

    if training.size is None:
        raise FacesError("verification: data.cache must be above 0 for a generated set")
    known = torch.cat(
        [
            training[list(range(first, min(training.size, first + 256)))]["identity"]
            for first in range(0, training.size, 256)
        ]
    )
    names = known.unique()
    if len(names) < 2 or int(names[0]) < 0:
        raise FacesError(f"verification: expected at least 2 numbered identities, got {len(names)}")
    torch.manual_seed(settings.seed)
    network = LightCNN(settings.width, settings.embedding, settings.input_size, len(names))
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    sampler = Updates(training.size, settings.batch_size, 1, 0, settings.steps, settings.seed)
    right = 0.0
    with trange(settings.steps, mininterval=0.5 if sys.stderr.isatty() else 15) as bar:
        for _, indices in zip(bar, sampler, strict=True):
            batch = training[indices]
            label = torch.searchsorted(names, batch["identity"]).to(device)
            scores = network.logits(batch["image"].to(device))
            loss = F.cross_entropy(scores, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
            right = 0.98 * right + 0.02 * float((scores.argmax(1) == label).float().mean())
            bar.set_postfix_str(f"loss {loss.item():.3f}, accuracy {right:.3f}", refresh=False)
    return network.eval(), right


@torch.no_grad()
def area_under_curve(network: torch.nn.Module, samples: Samples, device: torch.device) -> float:
    """The probability that a same-person pair is closer than a different-person pair.

    Args:
        network (Module): images to embeddings.
        samples (Samples): finite, with numbered identities.
        device (torch.device)
    """
    from sklearn.metrics import roc_auc_score

    embeddings, names = [], []
    for first in range(0, samples.size or 0, 64):
        batch = samples[list(range(first, min(samples.size or 0, first + 64)))]
        embeddings.append(F.normalize(network(batch["image"].to(device)).float(), dim=1).cpu())
        names.append(batch["identity"])
    embedding, name = torch.cat(embeddings), torch.cat(names)
    row, column = torch.triu_indices(len(name), len(name), offset=1)
    score = (embedding @ embedding.t())[row, column]
    return float(roc_auc_score((name[row] == name[column]).numpy(), score.numpy()))


def save(network: LightCNN, path: Path) -> None:
    """Writes the weights and settings of the embedding network atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors.torch import save as serialised

    kept: dict[str, Tensor] = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.startswith("classes.")
    }
    with replacing(path) as unfinished:
        unfinished.write_bytes(serialised(kept, {"settings": json.dumps(network.settings)}))


def load(path: str | Path) -> LightCNN:
    """Reads the network from a file written by `save`, frozen.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    try:
        tensors, notes = read_tensors(path)
        if "settings" not in notes:
            raise DamagedData(path, None, "no entry settings")
        settings = parse_document(notes["settings"], Settings, path)
        # On "meta", since damaged sizes could request too much memory.
        with torch.device("meta"):
            network = LightCNN(settings.width, settings.embedding, settings.input_size)
        check_tensors(tensors, network.state_dict())
    except ValueError as error:
        raise CheckpointError(f"{path}: not the weights of a LightCNN ({error})") from error
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    import tyro

    settings = tyro.cli(
        VerificationConfiguration,
        prog="python -m ntensor.faces.verification",
        description=__doc__,
        args=arguments,
    )
    out = settings.out
    device = choose_device(settings.device)
    data = settle_face_model(settings.data, chosen=settings.data.vertices > 0)
    training, validation = open_sources(data, settings.image_size)
    with locked(out, out.with_name(f".{out.name}{LOCK}")):
        if out.exists():
            raise OutputError(f"{out}: already exists; remove it, or choose another --out")
        check_writable(out.parent)
        network, right = fit(settings, training, device)
        save(network, out)
        area = area_under_curve(network, validation, device)
    print(f"{out}: {right:.1%} of training faces classified correctly; area under the ROC curve")
    print(f"for same-person pairs of unseen identities: {area:.3f}")
