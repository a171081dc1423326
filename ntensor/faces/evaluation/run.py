"""Evaluation of a run on unseen identities, beside what can be said without a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntensor.faces import checkpoint
from ntensor.faces.configuration import Configuration, from_file
from ntensor.faces.errors import CheckpointError
from ntensor.faces.generated import SPLITS, GeneratedFaces, grid
from ntensor.faces.model import Model, build
from ntensor.faces.training.processes import device_of
from ntensor.faces.training.samples import VARIATIONS, GeneratedSamples, face_model_of, generated

from .measures import AngularError, SquaredError
from .probes import leakage

FACTORS = {
    "identity": "identity",
    "expression": "expression",
    "pose_bin": "pose",
    "light_bin": "light",
}
KEYS = ("image", "mask", "normal", *FACTORS)


@dataclass(frozen=True)
class Evaluation:
    """Settings.

    Attributes:
        identities: of the test split (54).
        lights: numbers of the fixed lights, 0 to 15.
        fitted: training pictures for the mean image, the mean face and the principal components.
        folds: of the classifiers.
        batch_size, device
        checkpoint: `best` or `last`.
    """

    identities: int = 54
    lights: tuple[int, ...] = (0, 15)
    fitted: int = 1500
    folds: int = 10
    batch_size: int = 64
    device: str = "auto"
    checkpoint: str = "best"


def load_run(run: Path, which: str = "best") -> tuple[Model, Configuration, int]:
    """The network of a run, its configuration, and the update of the checkpoint.

    Args:
        run (Path): folder that training wrote.
        which (str): `"best"` or `"last"`.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    steps = checkpoint.saved_steps(run)
    if not steps:
        raise CheckpointError(f"{run}: wanted the folder of a run, got no checkpoint in it")
    marked = checkpoint.best(run)
    step = marked[0] if which == "best" and marked is not None else steps[-1]
    configuration = from_file(run / "configuration.json")
    tensors, _ = checkpoint.load(checkpoint.folder_of(run, step))
    model = build(configuration.model)
    try:
        model.load_state_dict(tensors["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{run}: weights and configuration.json differ: {error}") from error
    return model.eval(), configuration, step


def batches_of(configuration: Configuration, settings: Evaluation) -> Iterator[dict[str, Tensor]]:
    """Pictures of unseen identities: all combinations of the factors, or, for a proof of concept,
    random samples of its test identities."""
    data, size = configuration.data, configuration.model.image_size
    if data.variation == "all":
        persons = list(SPLITS["test"])[: settings.identities]
        faces = grid(persons, lights=settings.lights, face_model=face_model_of(data), size=size)
        yield from faces.batches(settings.batch_size)
        return
    samples = GeneratedFaces(
        face_model_of(data), "poc-test", size, data.seed, variation=VARIATIONS[data.variation]
    )
    for first in range(0, 40 * settings.identities, settings.batch_size):
        yield samples.batch(range(first, first + settings.batch_size))


class Baselines:
    """What can be said without a network: mean image, mean face, principal components of pixels.

    Args:
        samples (GeneratedSamples): of training identities.
        count (int): pictures to fit.
        dimensions (int): principal components.
    """

    def __init__(self, samples: GeneratedSamples, count: int, dimensions: int) -> None:
        from sklearn.decomposition import PCA

        images, normals, masks = [], [], []
        for first in range(0, count, 64):
            batch = samples[list(range(first, min(count, first + 64)))]
            images.append(batch["image"])
            normals.append(batch["normal"])
            masks.append(batch["mask"])
        image = torch.cat(images)
        self.image = image.mean(0)
        self.normal = torch.cat(normals).sum(0) / torch.cat(masks).sum(0).clamp_min(1)
        dimensions = min(dimensions, count)
        self.components = PCA(dimensions, svd_solver="randomized", random_state=0)
        self.components.fit(image.flatten(1).numpy())

    def project(self, images: Tensor) -> Any:
        """Principal components (array[n, dimensions]) of images (n, 3, S, S)."""
        return self.components.transform(images.flatten(1).numpy())


def best_constant(normal: Tensor) -> Tensor:
    """The normal that looks to the camera, everywhere (1, 3, S, S)."""
    forward = torch.zeros_like(normal)
    forward[2] = 1
    return forward.unsqueeze(0)


@torch.no_grad()
def evaluate(run: Path, settings: Evaluation) -> dict[str, Any]:
    """All measures of a run, as they are written to `evaluation.json`.

    Args:
        run (Path): folder that training wrote.
        settings (Evaluation)

    Raises:
        FacesError: what its message says.
    """
    device = device_of(settings.device)
    model, configuration, step = load_run(run, settings.checkpoint)
    model.to(device)
    training = GeneratedSamples(
        generated(configuration.data, "train", configuration.model.image_size)
    )
    c = configuration.model
    baselines = Baselines(training, settings.fitted, max(9, c.k_exp, c.k_id, c.k_i))
    colour = {name: SquaredError() for name in ("network", "mean image")}
    angle = {name: AngularError() for name in ("network", "mean face", "constant")}
    gathered: dict[str, list[Any]] = {}
    for batch in batches_of(configuration, settings):
        batch = {name: batch[name].cpu() for name in KEYS}
        output = {name: v.float().cpu() for name, v in model(batch["image"].to(device)).items()}
        mask = batch["mask"]
        colour["network"].add(output["image"], batch["image"], mask)
        colour["mean image"].add(baselines.image.expand_as(batch["image"]), batch["image"], mask)
        if "normal" in output:
            angle["network"].add(output["normal"], batch["normal"], mask)
            angle["mean face"].add(
                baselines.normal.expand_as(batch["normal"]), batch["normal"], mask
            )
            angle["constant"].add(best_constant(baselines.normal), batch["normal"], mask)
        rows = {name: v for name, v in output.items() if name.startswith("z_")}
        rows |= {name: batch[name] for name in FACTORS}
        for name, value in rows.items():
            gathered.setdefault(name, []).append(value.numpy())
        gathered.setdefault("pixels", []).append(baselines.project(batch["image"]))
    return {
        "run": str(run),
        "step": step,
        "network": c.network,
        "rotation": c.rotation,
        "faces": training.faces.face_model.source,
        "samples": sum(len(part) for part in gathered["pixels"]),
        "squared_error": {name: error.result() for name, error in colour.items()},
        "angular_error": {name: e.result() for name, e in angle.items() if e.images},
        "accuracy": probes(gathered, settings.folds),
    }


def probes(gathered: Mapping[str, list[Any]], folds: int) -> dict[str, Any]:
    """Every code and its principal components against every factor that varies."""
    joined = {name: np.concatenate(parts) for name, parts in gathered.items()}
    factors = {}
    for key, factor in FACTORS.items():
        labels = joined[key]
        _, counts = np.unique(labels[labels >= 0], return_counts=True)
        if len(counts) > 1 and counts.min() > 1:
            factors[factor] = labels
    codes = {name: value for name, value in joined.items() if name.startswith("z_")}
    for k in sorted({codes[name].shape[1] for name in codes if name != "z_i"}):
        codes[f"pixels, {k} components"] = joined["pixels"][:, :k]
    return leakage(codes, factors, folds)


def report(found: Mapping[str, Any]) -> str:
    """The measures as text."""
    lines = [
        f"{found['run']}, update {found['step']}: network {found['network']}, rotation "
        f"{found['rotation']}; {found['samples']} pictures of unseen identities, {found['faces']}",
        "",
        f"{'squared error':28}{'image':>10}{'face':>10}",
    ]
    for name, error in found["squared_error"].items():
        lines.append(f"{name:28}{error['image']:>10.5f}{error['face']:>10.5f}")
    if found["angular_error"]:
        lines += ["", f"{'normals, degrees':28}{'mean':>8}{'std':>8}  share below 20 25 30 35 40"]
    for name, error in found["angular_error"].items():
        shares = " ".join(f"{v:.1%}" for k, v in error.items() if k.startswith("below"))
        lines.append(f"{name:28}{error['mean']:>8.2f}{error['std']:>8.2f}  {shares}")
    table = found["accuracy"]
    factors = list(next(iter(table.values()))) if table else []
    lines += ["", "accuracy: random folds / whole groups held out"]
    lines.append(f"{'':28}" + "".join(f"{factor:>18}" for factor in factors))
    for code, row in table.items():
        lines.append(f"{code:28}" + "".join(f"{_shown(row[factor]):>18}" for factor in factors))
    if table:
        chances = "".join(f"{row['chance']:>18.1%}" for row in next(iter(table.values())).values())
        lines.append(f"{'chance':28}{chances}")
    return "\n".join(lines)


def _shown(probe: Mapping[str, Any]) -> str:
    grouped = probe["grouped"]
    return f"{probe['random']:.1%}" + ("" if grouped is None else f" / {grouped:.1%}")
