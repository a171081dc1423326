"""What decoders take from the picture itself, beside its codes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Kept(NamedTuple):
    """What the encoder keeps of `n` pictures for the decoders.

    Attributes:
        places (list of Tensor[n, c, h, w]): bool, where each pooling found its maxima, first
            pooling first; for unpooling. They belong to the picture that gives mask and background.
        maps (list of Tensor[n, c, h, w]): the picture, and what each stage made of it; for skip
            connections. They belong to the same picture.
        fits (Tensor[n] or None): bool, the rows whose maps fit the normals and the albedo that are
            decoded. Those of another pose or identity are decoded without. None: all fit.
    """

    places: list[Tensor]
    maps: list[Tensor]
    fits: Tensor | None = None

    def choose(self, rows: slice | Tensor) -> Kept:
        """Some of the pictures."""
        places, maps = [place[rows] for place in self.places], [part[rows] for part in self.maps]
        return Kept(places, maps, None if self.fits is None else self.fits[rows])

    def expand(self, n: int) -> Kept:
        """One picture `n` times."""
        places, maps = ([x.expand(n, -1, -1, -1) for x in part] for part in self[:2])
        return Kept(places, maps, None if self.fits is None else self.fits.expand(n))

    def restrict(self, fits: Tensor | None) -> Kept:
        """The same where the maps fit, only in these rows (Tensor[n], bool); None: in all."""
        if fits is None or not self.maps:
            return self
        return self._replace(fits=fits if self.fits is None else self.fits & fits)

    def for_all(self) -> Kept:
        """The same for decoders of what no edit changes."""
        return self._replace(fits=None)


NOTHING = Kept([], [])
