"""The random draws of an update; they depend on its index, so a run can resume anywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from ntensor.faces.configuration import TrainingConfiguration
from ntensor.faces.datasets.records import get_input

from .augmentation import draw_augmentation
from .processes import Processes
from .sampling import draw_fits


class Draws:
    """Draws for all samples of an update, distributed over its parts and processes.

    Args:
        settings (TrainingConfiguration)
        processes (Processes)
        skips (bool): whether the network has skip connections to drop at random.
    """

    def __init__(self, settings: TrainingConfiguration, processes: Processes, skips: bool) -> None:
        self.settings, self.processes, self.skips = settings, processes, skips

    def deal(self, part: int, count: int) -> slice:
        """The slice of an update's samples that forms this process's part, of `count` samples."""
        share = self.settings.batch_size // (self.settings.accumulation * self.processes.world)
        first = (part * self.processes.world + self.processes.rank) * share
        return slice(first, first + count)

    def draw_fits(self, update: int, part: int, count: int) -> Tensor | None:
        """Which samples of a part are decoded with skip connections; None: the network has none."""
        settings = self.settings
        if not self.skips:
            return None
        fits = draw_fits(update, settings.batch_size, settings.seed, settings.without_skips)
        return fits[self.deal(part, count)].to(self.processes.device)

    def vary_input(
        self, batch: dict[str, Tensor], update: int, part: int, codes_only: bool
    ) -> dict[str, Tensor]:
        """The batch of a part, with its input augmented if the settings require it."""
        settings = self.settings
        if not settings.augment:
            return batch
        image = get_input(batch)
        drawn = draw_augmentation(update, settings.batch_size, image.shape[-1], settings.seed)
        seen = drawn.choose(self.deal(part, len(image))).apply(image, moves=codes_only)
        return {**batch, "input": seen.contiguous(memory_format=torch.channels_last)}
