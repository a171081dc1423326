"""What decoders use of the picture itself, in addition to its codes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Kept(NamedTuple):
    """What the encoder keeps of `n` pictures for the decoders.

    Attributes:
        places (list of Tensor[n, c, h, w]): bool, the positions of the maxima of each pooling, in
            order; for unpooling. They belong to the picture that provides mask and background.
        maps (list of Tensor[n, c, h, w]): the picture, and the output of each stage; for skip
            connections. They belong to the same picture.
        fits (Tensor[n] or None): bool, the rows whose maps fit the decoded normals and albedo.
            Rows with another pose or identity are decoded without them. None: all fit.
    """

    places: list[Tensor]
    maps: list[Tensor]
    fits: Tensor | None = None

    def choose(self, rows: slice | Tensor) -> Kept:
        """Selects some of the pictures."""
        places, maps = [place[rows] for place in self.places], [part[rows] for part in self.maps]
        return Kept(places, maps, None if self.fits is None else self.fits[rows])

    def expand(self, n: int) -> Kept:
        """Repeats one picture `n` times."""
        places, maps = ([x.expand(n, -1, -1, -1) for x in part] for part in self[:2])
        return Kept(places, maps, None if self.fits is None else self.fits.expand(n))

    def restrict(self, fits: Tensor | None) -> Kept:
        """Restricts `fits` to these rows (Tensor[n], bool); None: no restriction."""
        if fits is None or not self.maps:
            return self
        return self._replace(fits=fits if self.fits is None else self.fits & fits)

    def for_all(self) -> Kept:
        """Without `fits`, for decoders whose output no edit changes."""
        return self._replace(fits=None)


NOTHING = Kept([], [])
