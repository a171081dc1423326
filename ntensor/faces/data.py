"""Commands for data sets of faces: `python -m ntensor.faces.data check | render | sheet`."""

from __future__ import annotations

from .common.launch import launch

if __name__ == "__main__":
    launch("ntensor.faces.data")

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ntensor.faces.datasets.generated import POC_EXPRESSION, POC_POSE, GeneratedFaces, Variation
from ntensor.faces.datasets.records import encode, get_input
from ntensor.faces.datasets.rendered import Faces
from ntensor.faces.datasets.storage import ShardWriter, write_statistics
from ntensor.faces.datasets.stored import StoredFaces, check
from ntensor.faces.datasets.wild import LabelledFaces, WildFaces
from ntensor.faces.datasets.worlds import WORLDS
from ntensor.faces.morphable.face_models import load_face_model

from .common import extras
from .common.command import command
from .common.errors import ConfigurationError
from .configuration.entries import Positive, Seed, Within, Workers, check_arguments
from .writing import sheet
from .writing.files import check_writable

Side = Annotated[int, Within(8, 2048)]
Tiles = Annotated[int, Within(1, 1000)]
Split = Literal["train", "validation", "test", "poc-train", "poc-test"]
Varied = Literal["all", "poc-expression", "poc-pose", "wild", "wild-labelled"]
VARIATIONS = {"all": Variation(), "poc-expression": POC_EXPRESSION, "poc-pose": POC_POSE}
WILD = {"wild": WildFaces, "wild-labelled": LabelledFaces}


def make_faces(
    face_model: str | None, split: str, size: int, seed: int, variation: str, world: str
) -> Faces:
    """The faces given by the arguments of `render`."""
    face = load_face_model(face_model)
    if variation in WILD:
        return WILD[variation](face, split, size, seed, world=WORLDS[world])
    if world != "training":
        wanted = " or ".join(WILD)
        raise ConfigurationError(f"world {world} needs variation {wanted}, got {variation}")
    return GeneratedFaces(face, split, size, seed, variation=VARIATIONS[variation])


class Ranges(Dataset[dict[str, Tensor]]):
    """Samples `first` to `last - 1`, in batches of records as `encode` makes them.

    Shapes are left out, since a set stores them as its basis.
    """

    def __init__(self, faces: Faces, first: int, last: int, batch_size: int) -> None:
        self.faces, self.first, self.last, self.batch_size = faces, first, last, batch_size

    def __len__(self) -> int:
        return -(-(self.last - self.first) // self.batch_size)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        start = self.first + number * self.batch_size
        batch = self.faces.batch(range(start, min(start + self.batch_size, self.last)))
        del batch["shape"]
        return {name: torch.from_numpy(array) for name, array in encode(batch).items()}


@contextlib.contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Limits torch's threads: next to workers, extra threads wait for a core in every operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def render(
    out: Path,
    count: Positive,
    *,
    split: Split = "train",
    size: Side = 64,
    seed: Seed = 0,
    variation: Varied = "all",
    world: Literal["training", "other"] = "training",
    face_model: str | None = None,
    batch_size: Positive = 64,
    shard_size: Positive = 512,
    workers: Workers = 0,
) -> None:
    """Renders a data set, or continues one that was started with the same arguments.

    Args:
        out: the folder.
        count: total number of samples.
        split: number of persons: train 2000, validation 100, test 54; poc-train 148, poc-test 22.
        size: pixels per side.
        seed: of the samples.
        variation: all; poc-expression or poc-pose, the proof of concept without or with poses;
            wild, pairs of pictures with realistic hair, glasses, lamps and cameras; wild-labelled,
            the same for every person with every expression but neutral, each
            under one of nine lights.
        world: of wild: training; other, with skin, hair, lamps and cameras that training never has.
        face_model: an ICT face file, or analytic; default: NTENSOR_FACE_MODEL, else analytic.
        batch_size: samples rendered at once.
        shard_size: samples per file.
        workers: processes that render; 0: only this one.
    """
    check_arguments(render, locals())
    faces = make_faces(face_model, split, size, seed, variation, world)
    face = faces.face_model
    extra: dict[str, int | str] = {"seed": seed, "variation": variation, "size": size}
    if variation in WILD:
        extra["world"] = world
    with ShardWriter(out, face, shard_size, split, face.source, extra) as writer:
        if writer.count == 0:
            write_statistics(writer.folder, faces.statistics)
        batches = Ranges(faces, min(writer.count, count), count, batch_size)
        loader = DataLoader(batches, batch_size=None, num_workers=workers)
        with (
            limit_threads(1 if workers else torch.get_num_threads()),
            tqdm(total=count, initial=writer.count, unit="image") as progress,
        ):
            for batch in loader:
                writer.add_records({name: value.numpy() for name, value in batch.items()})
                progress.update(len(batch["image"]))
    print(f"{out}: {writer.count} records, {face.source}, split {split}")


def check_command(folder: Path, *, limit: int = 20) -> None:
    """Reads a whole data set and lists damaged files and records; exits with 1 if there are any.

    Args:
        folder: of the data set.
        limit: number of damaged files and records to print.
    """
    check_arguments(check_command, locals())
    meta, damages, figures = check(folder)
    for damage in damages[:limit]:
        print(damage)
    if len(damages) > limit:
        print(f"... and {len(damages) - limit} more")
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(
        f"{folder}: {meta.count} records in {len(meta.shards)} files, {meta.source}; good: {shown}"
    )
    if damages:
        raise SystemExit(1)


def sheet_command(
    out: Path,
    *,
    data: Path | None = None,
    split: Split = "train",
    rows: Tiles = 8,
    columns: Tiles = 8,
    size: Side = 64,
    seed: Seed = 0,
    variation: Varied = "all",
    world: Literal["training", "other"] = "training",
    maps: bool = False,
    face_model: str | None = None,
) -> None:
    """Writes a contact sheet.

    Args:
        out: a PNG file.
        data: a data set; default: generated faces.
        split: of generated faces.
        rows: of the sheet.
        columns: of the sheet, unless maps are shown.
        size: of generated faces, pixels per side.
        seed: of generated faces.
        variation: of generated faces, as for render.
        world: of generated faces, as for render.
        maps: one row per sample, with image, mask, albedo, shading, normals and frontal maps.
        face_model: as for render.
    """
    check_arguments(sheet_command, locals())
    sheet.check_ending(out)
    count = rows if maps else rows * columns
    if data is not None:
        faces: Any = StoredFaces(data)
        count = min(count, faces.count)
    else:
        faces = make_faces(face_model, split, size, seed, variation, world)
    check_writable(out.parent)
    chosen = torch.arange(count)
    batches = [faces.batch(part) for part in chosen.split(16)]
    if maps:
        pictures = torch.cat([sheet.stack_maps(b) for b in batches])
        columns = len(pictures) // count
    else:
        pictures = torch.cat([get_input(b) for b in batches])
    sheet.save(out, sheet.tile(pictures, columns))
    print(f"{out}: {count} samples")


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    tyro = extras.load("tyro")
    positional = tyro.conf.configure(tyro.conf.PositionalRequiredArgs)
    commands: dict[str, Callable[..., None]] = {
        "check": positional(check_command),
        "render": render,
        "sheet": sheet_command,
    }
    tyro.extras.subcommand_cli_from_dict(
        commands, prog="python -m ntensor.faces.data", description=__doc__, args=arguments
    )
