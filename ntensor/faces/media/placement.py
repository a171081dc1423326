"""Locates a face in a picture with a run's own encoder.

Faces are generated with room around them and cropped with random shifts and scales. A ridge
regression on the encoder's features then predicts from a crop how far it is from the face. In a new
picture, crops of several sizes all over it are moved by the regression repeatedly. A place where
many of them end shows a face. The network itself is not trained.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ntensor.faces.common.ridge import fit_ridge
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.networks.model import Model
from ntensor.faces.rendering.renderer import Camera

from . import images

# Left, top, right, bottom; pixels.
Box = tuple[float, float, float, float]

# Number of generated faces, and of crops per face.
PICTURES, CROPS = 96, 10
# Side of their pictures, relative to the face's square.
ROOM = 2.5
# Largest shifts of the crops in x and y, relative to their side, and the largest logarithm of their
# scale: for the regression of the first rounds, and for that of the last rounds.
COARSE, FINE = (0.3, 0.3, 0.7), (0.12, 0.12, 0.2)
ROUNDS, LAST = 4, 2
LARGEST_STEP = 0.4
RIDGE = 1.0
# The encoder's maps are pooled to this size in each direction.
PLACES = 4

# Sides of the initial crops of a search, relative to the picture's shorter side.
SIDES = (1.0, 0.7, 0.5, 0.35)
# Crops this close to each other, in shift and log scale, count as one place.
NEAR = (0.12, 0.15)
# The smallest share of crops that end in one place, and the smallest presence there, for a face.
SURE = (0.3, 0.5)
# Indices of the regressions.
COARSER, FINER, PRESENT = range(3)
# Squares this close to each other, in shift and log scale, show the same face.
RIGHT = (0.2, 0.3)
# Larger pictures are reduced for the search: their shorter side, in sides of the network's picture.
SEARCHED = 4


@dataclasses.dataclass(frozen=True)
class Placement:
    """A square in a picture.

    Attributes:
        x, y, side (float): its centre and side, in pixels from the picture's upper left corner.
        share (float): share of the search's crops that ended there.
        presence (float): near 1 if the crop looks like a well-placed face, near 0 if not.
        stays (bool): whether the picture's middle square, one of the initial crops, did not move.
    """

    x: float
    y: float
    side: float
    share: float = 1.0
    presence: float = 1.0
    stays: bool = False

    @property
    def box(self) -> Box:
        """Left, top, right, bottom."""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half

    @property
    def sure(self) -> bool:
        """Whether a face is likely there."""
        return self.share >= SURE[0] and self.presence >= SURE[1]

    def agrees(self, other: Placement) -> bool:
        """Whether another square shows the same face well enough."""
        apart = max(abs(self.x - other.x), abs(self.y - other.y)) / self.side
        ratio = torch.tensor(other.side / self.side).log().abs()
        return apart <= RIGHT[0] and float(ratio) <= RIGHT[1]


def enclose(box: Box) -> Placement:
    """The square of a box's longer side with the same centre."""
    left, top, right, bottom = box
    return Placement((left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top))


class Placer:
    """Finds upright faces with a network's encoder.

    The regressions are fitted on first use, which takes seconds.

    Args:
        model (Model): a trained network.
        face (FaceModel): generates the faces that the regressions are fitted to.
    """

    def __init__(self, model: Model, face: FaceModel) -> None:
        self.model, self.face = model, face
        self.size = model.configuration.image_size

    @torch.no_grad()
    def find(self, image: Tensor) -> Placement:
        """Finds the most likely place of a face.

        Args:
            image (Tensor[3, h, w]): 0 to 1.
        """
        reduced, factor = self._reduce(image)
        height, width = reduced.shape[1:]
        squares = begun = spread_squares(height, width)
        low = squares.new_tensor([0, 0, min(SIDES) / 2 * min(height, width)])
        high = squares.new_tensor([width, height, 1.5 * max(height, width)])
        for number in range(ROUNDS + LAST):
            step = self._measure(reduced, squares, last=number >= ROUNDS)
            middle = squares[:, :2] + step[:, :2] * squares[:, 2:]
            squares = torch.cat([middle, squares[:, 2:] * step[:, 2:].exp()], 1)
            squares = squares.clamp(low, high)
        apart = torch.cdist(squares[:, :2], squares[:, :2], p=float("inf"))
        ratio = squares[:, 2:] / squares[:, 2]
        near = (apart / squares[:, 2:] < NEAR[0]) & (ratio.log().abs() < NEAR[1])
        most = near.sum(1).argmax()
        square = squares[near[most]].median(0).values
        x, y, side = (factor * square).tolist()
        return Placement(
            *(x, y, side),
            share=float(near[most].float().mean()),
            presence=float(self._regress(reduced, square[None], PRESENT)),
            stays=Placement(*squares[0].tolist()).agrees(Placement(*begun[0].tolist())),
        )

    def _reduce(self, image: Tensor) -> tuple[Tensor, float]:
        """Reduces a picture for the search; returns it and the factor of the reduction."""
        height, width = image.shape[1:]
        factor = min(height, width) / (SEARCHED * self.size)
        if factor <= 1:
            return image, 1.0
        size = (round(height / factor), round(width / factor))
        return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0], factor

    def _measure(self, image: Tensor, squares: Tensor, last: bool) -> Tensor:
        """Predicted shift and log scale (n, 3) from the crops of squares (n, 3) to the face."""
        step = self._regress(image, squares, FINER if last else COARSER)
        return step.clamp(-LARGEST_STEP, LARGEST_STEP)

    def _regress(self, image: Tensor, squares: Tensor, which: int) -> Tensor:
        """Applies a regression to the crops of squares (n, 3)."""
        mean, deviation, *weights = self._fitted
        features = (self._describe(cut_out(image, squares, self.size)) - mean) / deviation
        return F.pad(features, (0, 1), value=1) @ weights[which]

    def _describe(self, crops: Tensor) -> Tensor:
        """Features (n, k) of crops (n, 3, S, S): the encoder's last feature maps, pooled."""
        kept: list[Tensor] = []
        stack = self.model.encoder.stack
        # Calling the whole encoder keeps its preprocessing of pictures.
        handle = stack.register_forward_hook(lambda module, given, made: kept.append(made[0]))
        try:
            for part in crops.split(64):
                self.model.encode(part.to(next(self.model.parameters()).device))
        finally:
            handle.remove()
        return torch.cat([F.adaptive_avg_pool2d(maps, PLACES).flatten(1) for maps in kept]).cpu()

    @functools.cached_property
    def _fitted(self) -> tuple[Tensor, ...]:
        """Mean and deviation of the features, and the weights of the three regressions.

        The third separates crops with a well-placed face (1) from all others (0).
        """
        camera, random = Camera(), torch.Generator().manual_seed(0)
        wide = Camera(ROOM * camera.half_width, camera.center)
        faces = GeneratedFaces(self.face, "train", round(ROOM * self.size), camera=wide)
        found: dict[Sequence[float], list[tuple[Tensor, Tensor]]] = {COARSE: [], FINE: []}
        empty = []
        for number in range(PICTURES):
            drawn = faces.batch([number])
            image, x, y = self._trim(drawn["image"][0], random)
            for largest, parts in found.items():
                crops, away = self._jitter(image, x, y, largest, random)
                parts.append((self._describe(crops), away))
            crops, _ = self._jitter(drawn["background"][0], x, y, COARSE, random)
            empty.append(self._describe(crops))
        (coarse, far), (fine, near) = (
            (torch.cat([features for features, _ in parts]), torch.cat([away for _, away in parts]))
            for parts in found.values()
        )
        mean, deviation = coarse.mean(0), coarse.std(0) + 1e-3
        everything = torch.cat([coarse, fine, *empty])
        limits = torch.tensor([RIGHT[0], *RIGHT])
        shown = torch.zeros(len(everything), 1)
        shown[: len(far) + len(near), 0] = (torch.cat([far, near]).abs() <= limits).all(1).float()
        fits = ((coarse, far), (fine, near), (everything, shown))
        return mean, deviation, *(fit_ridge((x - mean) / deviation, y, RIDGE) for x, y in fits)

    def _trim(self, image: Tensor, random: torch.Generator) -> tuple[Tensor, float, float]:
        """Trims the sides of a generated picture; returns it and the centre of the face's square.

        Crops then show repeated borders, like those of tightly cropped pictures.
        """
        middle = image.shape[-1] / 2
        most = round(middle - self.size / 2) + 1
        left, right, top, bottom = torch.randint(most, (4,), generator=random).tolist()
        length = image.shape[-1]
        cut = image[:, top : length - bottom, left : length - right]
        return cut, middle - left, middle - top

    def _jitter(
        self, image: Tensor, x: float, y: float, largest: Sequence[float], random: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Random crops around a face centred at (x, y), and the offsets from them to the face.

        Half of the crops are grey.
        """
        away = (2 * torch.rand(CROPS, 3, generator=random) - 1) * torch.tensor(largest)
        sides = self.size * (-away[:, 2:]).exp()
        squares = torch.cat([torch.tensor([x, y]) - away[:, :2] * sides, sides], 1)
        crops = cut_out(image, squares, self.size)
        grey = torch.rand(CROPS, 1, 1, 1, generator=random) < 0.5
        return torch.where(grey, crops.mean(1, keepdim=True), crops), away


def spread_squares(height: int, width: int) -> Tensor:
    """Squares (n, 3) of several sizes all over a picture, overlapping by half.

    The largest middle square comes first.
    """
    squares = []
    for share in SIDES:
        side = share * min(height, width)
        rows, columns = (
            torch.linspace(side / 2, length - side / 2, max(2, round(2 * length / side - 1)))
            if length > side
            else torch.tensor([length / 2])
            for length in (height, width)
        )
        squares += [(float(x), float(y), side) for x in columns for y in rows]
    return torch.tensor([(width / 2, height / 2, float(min(height, width))), *squares])


def cut_out(image: Tensor, squares: Tensor, size: int) -> Tensor:
    """Crops (n, 3, size, size) of squares (n, 3), each given by centre and side in pixels."""
    boxes = [Placement(*square).box for square in squares.tolist()]
    return torch.stack([images.crop(image, size, box)[0] for box in boxes])
