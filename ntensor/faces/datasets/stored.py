"""Reads stored data sets: streaming, with checks, by several workers."""

from __future__ import annotations

import collections
import functools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ntensor.faces.common.errors import DamagedData
from ntensor.faces.morphable.face_model import FaceModel

from .records import VALID, Arrays, decode, find_faults, read_shard
from .storage import (
    SMALLEST_DEVIATION,
    STATISTICS,
    Meta,
    read_basis,
    read_meta,
    read_statistics,
)

OnDamage = Literal["refuse", "skip"]
# Number of pixels that `check` decodes at once.
_PIXELS = 4_000_000


class StoredFaces(IterableDataset[dict[str, Tensor]]):
    """A stored data set, see `storage`, with the interface of `GeneratedFaces`.

    Iteration yields batches endlessly, in an order that depends on `seed`, the pass and the number
    of workers. Shards are shuffled, distributed over ranks and workers, and read one at a time, so
    a set may be larger than the memory. Use it with `DataLoader(batch_size=None)`. Each worker
    holds at most `cache` shards.

    Every shard is checked when it is read. Damage, see `records.find_faults`, is refused, or
    skipped with a warning that names file, record and fault; the batch is then smaller.

    Args:
        folder: of the data set.
        batch_size (int), seed (int)
        shuffle (bool): False: in the stored order.
        on_damage: `refuse` or `skip`.
        first_batch (int): where iteration starts; for resuming.
        rank, world_size (int): of distributed training.
        cache (int): number of shards held in memory.
        passes (int or None): number of passes over the set; None: endless.

    Attributes:
        meta (Meta)
        face_model (FaceModel or None): None without `basis.npz`.
        sizes (dict)

    Raises:
        DamagedData: `meta.json` or `basis.npz` is damaged.
        ValueError: an invalid argument.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 64,
        seed: int = 0,
        shuffle: bool = True,
        on_damage: OnDamage = "refuse",
        first_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        cache: int = 2,
        passes: int | None = None,
    ) -> None:
        if on_damage not in ("refuse", "skip"):
            raise ValueError(f"StoredFaces: on_damage must be refuse or skip, got {on_damage!r}")
        for name, value in (("batch_size", batch_size), ("cache", cache)):
            if value < 1:
                raise ValueError(f"StoredFaces: {name} must be positive, got {value}")
        self.folder = Path(folder)
        self.meta: Meta = read_meta(folder)
        self.face_model: FaceModel | None = read_basis(self.folder, self.meta)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.on_damage, self.first_batch, self.passes = on_damage, first_batch, passes
        self.rank, self.world_size = rank, world_size
        self._cache_size = cache
        self._cache: collections.OrderedDict[int, tuple[Arrays | None, Any]] = (
            collections.OrderedDict()
        )
        self._starts = np.cumsum([0, *(count for _, count in self.meta.shards)])

    @property
    def sizes(self) -> dict[str, int]:
        """`image` (pixels per side), `id_3dmm` (k_a), `exp_3dmm` (k_b), `shape` (3V)."""
        meta = self.meta
        return {
            "image": meta.size,
            "id_3dmm": meta.id_3dmm,
            "exp_3dmm": meta.exp_3dmm,
            "shape": 3 * meta.vertices,
        }

    @property
    def count(self) -> int:
        """Number of records, including damaged ones."""
        return self.meta.count

    @functools.cached_property
    def statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and standard deviation of `id_3dmm`, `exp_3dmm` and `shape`, at least 1e-4.

        Read from `statistics.npz`, or else computed in one pass over the set.
        """
        written = read_statistics(self.folder, self.meta)
        return self._measure() if written is None else written

    def _measure(self) -> dict[str, tuple[Tensor, Tensor]]:
        total: dict[str, Tensor] = {}
        count = dict.fromkeys(STATISTICS, 0)
        for start in range(0, self.count, 256):
            batch = self.batch(range(start, min(start + 256, self.count)))
            for name in STATISTICS:
                chosen = batch[name][batch["valid"][:, VALID.index(name)]].double()
                sums = torch.stack([chosen.sum(0), chosen.square().sum(0)])
                total[name] = total[name] + sums if name in total else sums
                count[name] += len(chosen)
        moments = {}
        for name, sums in total.items():
            mean, square = sums / max(count[name], 1)
            deviation = (square - mean.square()).clamp_min(0).sqrt().clamp_min(SMALLEST_DEVIATION)
            moments[name] = (mean.float(), deviation.float())
        return moments

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Reads samples by index, with the keys of `Faces.batch`.

        Args:
            indices: 0 to `count - 1`. With `on_damage="skip"`, damaged samples are left out.

        Returns:
            dict: `valid` (n, len(VALID)) bool marks the parts that each sample has; missing ones
            are zero, missing labels -1.

        Raises:
            DamagedData: a file or record is damaged and `on_damage` is `refuse`.
            IndexError: there is no such sample, or none remains after skipping.
        """
        wanted = [int(index) for index in indices]
        for index in wanted:
            if not 0 <= index < self.count:
                raise IndexError(f"batch: index must be 0..{self.count - 1}, got {index}")
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        arrays = self._gather(
            [(int(s), i - int(self._starts[s])) for s, i in zip(shards, wanted, strict=True)]
        )
        if arrays is None:
            raise IndexError("batch: every requested sample is damaged")
        return self._decode(arrays)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        consumer, consumers = self.rank * workers + number, self.world_size * workers
        # The number of batches before `first_batch` that this worker yielded.
        skip = len(range(number, self.first_batch, workers))
        current = 0
        while self.passes is None or current < self.passes:
            plan = self._plan(current, consumer, consumers)
            usable = False
            for start in range(0, len(plan), self.batch_size):
                if skip:
                    skip, usable = skip - 1, True
                    continue
                arrays = self._gather(plan[start : start + self.batch_size])
                if arrays is not None:
                    usable = True
                    yield self._decode(arrays)
            if not usable and plan:
                raise DamagedData(self.folder, None, "every record that was read is damaged")
            if not plan:
                return
            current += 1

    def _plan(self, current: int, consumer: int, consumers: int) -> list[tuple[int, int]]:
        """The (shard, record) pairs of one pass for one consumer, in order."""
        order = np.random.default_rng([self.seed, current])
        shards = np.arange(len(self.meta.shards))
        if self.shuffle:
            shards = order.permutation(shards)
        few = len(shards) < consumers
        plan = []
        for shard in shards if few else shards[consumer::consumers]:
            rng = np.random.default_rng([self.seed, current, int(shard)])
            records = np.arange(self.meta.shards[shard][1])
            records = rng.permutation(records) if self.shuffle else records
            plan += [
                (int(shard), int(r)) for r in (records[consumer::consumers] if few else records)
            ]
        return plan

    def _load_shard(self, shard: int) -> tuple[Arrays | None, dict[int, str]]:
        if shard in self._cache:
            self._cache.move_to_end(shard)
            return self._cache[shard]
        file, count = self.meta.shards[shard]
        path = self.folder / file
        faulty: dict[int, str] = {}
        arrays: Arrays | None = None
        try:
            arrays = read_shard(path, self.meta.fields, self.meta.arrays, count)
            faulty = find_faults(arrays)
        except DamagedData as damage:
            if self.on_damage == "refuse":
                raise
            warnings.warn(f"skipped {damage}", stacklevel=2)
        for record, reason in faulty.items():
            if self.on_damage == "skip":
                warnings.warn(f"skipped {DamagedData(path, record, reason)}", stacklevel=2)
        self._cache[shard] = (arrays, faulty)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return self._cache[shard]

    def _gather(self, wanted: list[tuple[int, int]]) -> Arrays | None:
        """Arrays of the records in this order, or None if all are damaged."""
        kept: dict[int, list[tuple[int, int]]] = {}
        parts: list[Arrays] = []
        places: list[int] = []
        for place, (shard, record) in enumerate(wanted):
            kept.setdefault(shard, []).append((place, record))
        for shard, records in kept.items():
            arrays, faulty = self._load_shard(shard)
            bad = [record for _, record in records if record in faulty]
            if bad and self.on_damage == "refuse":
                path = self.folder / self.meta.shards[shard][0]
                raise DamagedData(path, bad[0], faulty[bad[0]])
            good = [(p, r) for p, r in records if arrays is not None and r not in faulty]
            if arrays is not None and good:
                rows = [record for _, record in good]
                parts.append({name: array[rows] for name, array in arrays.items()})
                places += [place for place, _ in good]
        if not parts:
            return None
        order = np.argsort(places)
        return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}

    def _decode(self, arrays: Arrays) -> dict[str, Tensor]:
        batch = decode(arrays, self.meta.fields)
        face = self.face_model
        if face is not None and "shape" not in arrays:
            columns = [VALID.index(name) for name in ("id_3dmm", "exp_3dmm")]
            both = batch["valid"][:, columns].all(1)
            shape = face.shape(face.vertices(batch["id_3dmm"], batch["exp_3dmm"]))
            batch["shape"] = shape * both[:, None]
            batch["valid"][:, VALID.index("shape")] = both
        return batch


def check(folder: str | Path) -> tuple[Meta, list[DamagedData], dict[str, float]]:
    """Reads a whole data set and collects all its faults.

    Args:
        folder: of the data set.

    Returns:
        the content of `meta.json`; the damage found; and figures: `records`, the share `near
        frontal`, and `render error`, the mean of |image - clamp(albedo shading)| inside the masks
        of samples that have both.

    Raises:
        DamagedData: `meta.json` is damaged, so nothing else can be read.
    """
    meta = read_meta(folder)
    damages: list[DamagedData] = []
    for read in (read_basis, read_statistics):
        try:
            read(Path(folder), meta)
        except DamagedData as damage:
            damages.append(damage)
    error, weight, near, records = 0.0, 0.0, 0, 0
    for file, count in meta.shards:
        path = Path(folder) / file
        try:
            arrays = read_shard(path, meta.fields, meta.arrays, count)
        except DamagedData as damage:
            damages.append(damage)
            continue
        faulty = find_faults(arrays)
        damages += [DamagedData(path, record, faulty[record]) for record in sorted(faulty)]
        good = [record for record in range(count) if record not in faulty]
        # Decoded maps take many times the memory of the stored ones.
        at_once = max(1, _PIXELS // meta.size**2)
        for first in range(0, len(good), at_once):
            rows = good[first : first + at_once]
            batch = decode({name: array[rows] for name, array in arrays.items()}, meta.fields)
            records += len(rows)
            near += int(batch["near_frontal"].sum())
            columns = [VALID.index(name) for name in ("mask", "normal", "light", "albedo")]
            complete = batch["valid"][:, columns].all(1)
            if complete.any():
                face = (batch["albedo"] * batch["shading"]).clamp(0, 1)
                solid = (batch["mask"] > 0.999)[complete].float()
                error += float(((batch["image"] - face)[complete].abs() * solid).mean(1).sum())
                weight += float(solid.sum())
    figures = {"records": float(records), "near frontal": near / max(records, 1)}
    if weight:
        figures["render error"] = error / weight
    return meta, damages, figures
