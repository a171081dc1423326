"""Edits between two faces, code by code; what does not change is not recomputed."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.rendering import harmonics

from .codes import CODES, Encoded, bound, compose, find_nearest_rotation
from .detail import keep_detail
from .fixed import FixedFace
from .interpolation import blend
from .leak import follow_pose


class Session:
    r"""The faces between a first and a second one.

    The codes are those of `blend`, with the rotation nearest to a mixed `z_p`. Streams 1 and 3 are
    linear in `z_id`, and each of the two faces holds the cores contracted with its own, so

    .. math:: \mathcal{Q} \times_4 z_{id} = (1 - w) \, \mathcal{Q} \times_4 z_{id}^{first}
                                            + w \, \mathcal{Q} \times_4 z_{id}^{second}

    and no edit needs a full core. Normals and albedo are decoded again if identity, expression or
    pose changes; a new light costs no convolution.

    Args:
        first, second (FixedFace): of the same model.
        leak (Tensor[9, k_id] or None): from `fit_pose_leak`; `z_id` then follows the pose in
            normals and albedo, as in `editing.transfer_pose`. Streams 1 and 3 do not depend on the
            pose.

    Raises:
        ConfigurationError: the faces belong to different models.

    Example:
        >>> import torch
        >>> from ntensor.faces.configuration import ModelConfiguration
        >>> from ntensor.faces.editing import FixedFace, encode
        >>> from ntensor.faces.editing.session import Session
        >>> from ntensor.faces.networks.model import build
        >>> model = build(ModelConfiguration(channels=(8, 8, 8), k_3d=30))
        >>> faces = encode(model, torch.rand(2, 3, 64, 64))
        >>> session = Session(FixedFace(model, faces[0]), FixedFace(model, faces[1]))
        >>> session.decode({"expression": 0.5, "light": 1.2})["image"].shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(self, first: FixedFace, second: FixedFace, leak: Tensor | None = None) -> None:
        if first.model is not second.model:
            raise ConfigurationError("Session: expected two faces of one model, got two models")
        self.first, self.second, self.leak = first, second, leak
        self.model = first.model
        self._surfaces: tuple[tuple[tuple[float, ...], tuple[Tensor, Tensor]], ...] = ()

    def replace(self, side: str, face: FixedFace) -> Session:
        """The session with another `"first"` or `"second"` face."""
        sides = {"first": self.first, "second": self.second, side: face}
        return Session(**sides, leak=self.leak)

    @torch.no_grad()
    def decode(self, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """The edited face.

        Args:
            weights (mapping): `identity`, `expression`, `pose`, `light` to a number: 0 is the first
                face, 1 the second; a missing weight is 0.

        Returns:
            dict: as `editing.decode` with the mask of the normals; the background is the first
            face's.
        """
        output, z, w = self._decode_picture(weights)
        given = z.codes["z_l"], z.codes["z_exp"]
        start, end = self.first.streams(*given), self.second.streams(*given)
        mixed = {name: torch.lerp(start[name], end[name], w["identity"]) for name in start}
        return output | bound(mixed)

    @torch.no_grad()
    def edit_picture(self, weights: Mapping[str, float]) -> Tensor | None:
        """The first face's own picture with the edited expression, then the edited light; see
        `keep_detail`. Identity and pose, which would move everything, are kept.

        Args:
            weights (mapping): as for `decode`.

        Returns:
            Tensor[1, 3, S, S]: 0 to 1; None if the first face has no picture.
        """
        image = self.first.image
        if image is None:
            return None
        before = self._plain
        kept: dict[str, float] = {}
        for edit in ("expression", "light"):
            kept[edit] = weights.get(edit, 0.0)
            if kept[edit]:
                after = self._decode_picture(kept)[0]["image"]
                image, before = keep_detail(edit, image, before, after), after
        return image

    @functools.cached_property
    def _plain(self) -> Tensor:
        """The first face, decoded without edits."""
        return self._decode_picture({})[0]["image"]

    def _decode_picture(
        self, weights: Mapping[str, float]
    ) -> tuple[dict[str, Tensor], Encoded, dict[str, float]]:
        """Stream 2 and the picture, the codes, and the weight of every edit."""
        w = {edit: float(weights.get(edit, 0.0)) for edit in CODES}
        z = blend(self.first.encoded, self.second.encoded, w, project=True)
        starts, ends = (
            find_nearest_rotation(face.encoded.codes["z_p"]) for face in (self.first, self.second)
        )
        z = follow_pose(z, torch.lerp(starts, ends, w["identity"]), self.leak)
        normal, albedo = self._decode_surface(z, (w["identity"], w["expression"], w["pose"]))
        light = self.model.light(z.codes["z_l"])
        output = {
            "normal": normal,
            "albedo": albedo,
            "light": light,
            "shading": harmonics.shading(normal.float(), light.float()),
            "background": self.first.background,
        }
        return compose(output, "normals"), z, w

    def _decode_surface(self, z: Encoded, key: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        """Normals and albedo; the last two are cached, for `decode` and for `edit_picture`."""
        found = next((kept for kept in self._surfaces if kept[0] == key), None)
        if found is None:
            found = key, self.model.decode_surface(z.codes, z.kept)
            # A single assignment, since a page may decode in several threads.
            self._surfaces = (found, *self._surfaces[:1])
        return found[1]
