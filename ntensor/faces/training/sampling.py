"""The samples of an update; they depend only on its index, so a run can resume anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from ntensor.faces.common.errors import ConfigurationError


def draw_order(
    epoch: int, size: int, seed: int, blocks: Sequence[int] = (), paired: bool = False
) -> torch.Tensor:
    """The order of `size` samples in pass `epoch` (Tensor[size], int64).

    If samples come in `blocks`, given by their sizes, they are visited block by block. With
    `paired`, samples 2k and 2k + 1 are adjacent; every block must then have an even size.
    """
    generator = torch.Generator().manual_seed((seed << 32) + epoch)
    counts = list(blocks) or [size]
    starts = [0, *itertools.accumulate(counts)]
    parts = []
    for block in torch.randperm(len(counts), generator=generator).tolist():
        order = torch.randperm(counts[block] // (2 if paired else 1), generator=generator)
        if paired:
            order = torch.stack([2 * order, 2 * order + 1], 1).flatten()
        parts.append(starts[block] + order)
    return torch.cat(parts)


def draw_fits(update: int, batch_size: int, seed: int, without: float) -> torch.Tensor:
    """Which samples of an update are decoded with skip connections (Tensor[batch_size], bool).

    Each is decoded without them with probability `without`. The draw depends only on the arguments.
    """
    generator = torch.Generator().manual_seed((seed << 32) + update)
    return torch.rand(batch_size, generator=generator) >= without


def check_pairs(size: int | None, blocks: Sequence[int] = ()) -> None:
    """Refuses samples whose pairs cannot stay together.

    Raises:
        ConfigurationError: a block has an odd size.
    """
    for number, count in enumerate(list(blocks) or [size or 0]):
        if count % 2:
            raise ConfigurationError(
                "losses.pairs and losses.swap need an even number of samples in every shard, so "
                f"that pairs stay together; shard {number} has {count}"
            )


class Updates(Sampler[list[int]]):
    """Indices of this process's share of each update, from update `start` to update `stop`.

    An update takes the next `batch_size` samples of a sequence. This is 0, 1, 2, ... for an endless
    set, and pass after pass for a finite one, each in its own order; with `paired`, samples 2k and
    2k + 1 stay together. An update has `accumulation` consecutive parts, and each part is divided
    among the processes in contiguous blocks.

    Args:
        size (int or None): of the set; None: endless.
        batch_size, accumulation (int): of an update.
        start, stop (int): updates.
        seed (int): of the orders.
        rank, world (int): of the process, and the number of processes.
        blocks (sequence of int), paired (bool): as in `draw_order`.

    Raises:
        ValueError: a part cannot be divided evenly.

    Example:
        >>> from ntensor.faces.training.sampling import Updates
        >>> list(Updates(None, batch_size=4, accumulation=2, start=1, stop=2))
        [[4, 5], [6, 7]]
    """

    def __init__(
        self,
        size: int | None,
        batch_size: int,
        accumulation: int = 1,
        start: int = 0,
        stop: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        blocks: Sequence[int] = (),
        paired: bool = False,
    ) -> None:
        if batch_size % (accumulation * world):
            raise ValueError(
                f"accumulation * processes ({accumulation} * {world}) must divide batch_size "
                f"({batch_size})"
            )
        self.size, self.batch_size, self.accumulation = size, batch_size, accumulation
        self.start, self.stop, self.seed = start, stop, seed
        self.rank, self.world, self.blocks, self.paired = rank, world, blocks, paired

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch_size // self.accumulation
        share = part // self.world
        known: tuple[int, torch.Tensor] | None = None
        for update in range(self.start, self.stop):
            for number in range(self.accumulation):
                first = update * self.batch_size + number * part + self.rank * share
                indices = []
                for place in range(first, first + share):
                    if self.size is None:
                        indices.append(place)
                        continue
                    epoch, inside = divmod(place, self.size)
                    if known is None or known[0] != epoch:
                        order = draw_order(epoch, self.size, self.seed, self.blocks, self.paired)
                        known = (epoch, order)
                    indices.append(int(known[1][inside]))
                yield indices
