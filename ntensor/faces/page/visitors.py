"""The page's sessions; their requests are computed one at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ntensor.faces.common.errors import PageError
from ntensor.faces.editing.session import Session

from .folder import Folder
from .parts import OFFERED, SIDES, SLIDERS, Demo

MOST_VISITORS = 16
PATIENCE = 30.0


@dataclass
class Visitor:
    """The state of one open page.

    Attributes:
        session: its two faces.
        solid: whether the 3D shape is shown.
        offered: the page of offered faces on each side.
        mesh: the file of the last shape shown.
    """

    session: Session
    solid: bool = False
    offered: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    mesh: Path | None = None

    def close(self) -> None:
        """Removes the mesh file."""
        if self.mesh is not None:
            self.mesh.unlink(missing_ok=True)


class Visitors:
    """The open pages; a new one replaces the least recently used.

    Requests are computed one at a time; the others wait.

    Args:
        demo (Demo)
        folder (Folder): for meshes.
        most (int): limit on open pages.
        patience (float): longest wait of a request, seconds.
    """

    def __init__(
        self, demo: Demo, folder: Folder, most: int = MOST_VISITORS, patience: float = PATIENCE
    ) -> None:
        self.demo, self.folder = demo, folder
        self.most, self.patience = most, patience
        self._open: OrderedDict[str, Visitor] = OrderedDict()
        self._turn = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def start(self, name: str) -> list[str]:
        """Opens a page; returns HTML of both sides and of the edited face."""
        with self._take_turn():
            session, sides = self.demo.start()
            self._close(name)
            self._open[name] = Visitor(session)
            while len(self._open) > self.most:
                self._close(next(iter(self._open)))
            return [*sides["first"], *sides["second"], *self.demo.show_edited(session, {})]

    def forget(self, name: str) -> None:
        """Drops the state of a closed page."""
        with self._take_turn():
            self._close(name)

    def edit(self, name: str, values: Sequence[float]) -> list[str]:
        """HTML of the edited face."""
        with self._visit(name) as visitor:
            return self.demo.show_edited(visitor.session, _name_weights(values))

    def choose(self, name: str, side: str, index: int, values: Sequence[float]) -> list[str]:
        """Chooses an offered face for a side; returns HTML of the side and of the edited face."""
        with self._visit(name) as visitor:
            number = visitor.offered[side] * OFFERED + index
            return self._replace(visitor, side, self.demo.choose_face(number).image, values)

    def upload(self, name: str, side: str, path: Path, values: Sequence[float]) -> list[str]:
        """As `choose`, with an uploaded picture; its file is removed."""
        try:
            with self._visit(name) as visitor:
                return self._replace(visitor, side, self.demo.read_upload(path), values)
        finally:
            path.unlink(missing_ok=True)

    def offer_others(self, name: str, side: str) -> list[Any]:
        """Pictures of the next faces offered on a side."""
        with self._visit(name) as visitor:
            visitor.offered[side] += 1
            self.folder.make_room()
            return self.demo.show_offered(visitor.offered[side])

    def show(self, name: str, solid: bool) -> None:
        """Switches between picture and 3D shape; a page that opens selects the picture itself."""
        if not solid and name not in self._open:
            return
        with self._visit(name) as visitor:
            visitor.solid = solid

    def make_shape(self, name: str, values: Sequence[float]) -> Path | None:
        """Writes the edited shape as a GLB file; None if the picture is shown."""
        with self._visit(name) as visitor:
            if not visitor.solid:
                return None
            mesh = self.demo.make_mesh(visitor.session, _name_weights(values))
            visitor.close()
            visitor.mesh = self.folder.write(mesh, ".glb")
            return visitor.mesh

    def _close(self, name: str) -> None:
        if (visitor := self._open.pop(name, None)) is not None:
            visitor.close()

    def _replace(
        self, visitor: Visitor, side: str, image: Tensor, values: Sequence[float]
    ) -> list[str]:
        session = visitor.session.replace(side, self.demo.fix_face(image))
        shown = self.demo.show_side(side, session, image)
        edited = self.demo.show_edited(session, _name_weights(values))
        visitor.session = session
        return [*shown, *edited]

    @contextmanager
    def _visit(self, name: str) -> Iterator[Visitor]:
        with self._take_turn():
            if name not in self._open:
                raise PageError("this page's session has ended; reload the page")
            self._open.move_to_end(name)
            yield self._open[name]

    @contextmanager
    def _take_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=self.patience):
            raise PageError("the page is busy with other edits; try again later")
        try:
            yield
        finally:
            self._turn.release()


def _name_weights(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(SLIDERS, values, strict=True))
