"""Where the batches of a run come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor


class Samples(Protocol):
    """Batches by the numbers of their samples.

    Attributes:
        size: number of samples; None: endless.
        statistics: mean and standard deviation of the standardised vectors, by name.
    """

    size: int | None
    statistics: Mapping[str, tuple[Tensor, Tensor]]

    def __getitem__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The batch of these samples; a function of `indices` alone."""
