"""The landmarks of a run's input faces."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ntensor.faces import editing
from ntensor.faces.common.errors import FacesError
from ntensor.faces.editing import Encoded, find_nearest_rotation
from ntensor.faces.media import images
from ntensor.faces.media.inputs import Face

from .opened import OpenedRun


def find_landmarks(opened: OpenedRun, faces: Sequence[Face], codes: Encoded) -> list[Tensor]:
    """The 68 landmarks (68, 2) of each face, in pixels of its picture.

    They are the given ones if every face has them, else those of the network's shape (eq. 3),
    rotated by the rotation nearest to `z_p` and projected by the generated faces' camera.

    Raises:
        FacesError: a face has none, and the network has no shape or pose.
    """
    if all(face.landmarks is not None and len(face.landmarks) == 68 for face in faces):
        return [face.landmarks for face in faces if face.landmarks is not None]
    if "z_p" not in codes.codes:
        raise FacesError(
            "the warp needs 68 landmarks: give --landmarks, or a network with shape and pose"
        )
    output = editing.decode(opened.model, codes)
    surface = opened.inputs.surface
    vertices = editing.restore_vertices(opened.model, output).cpu()
    rows = surface.landmarks68
    if vertices.shape[1] != len(surface.mean) or bool((rows < 0).any()):
        raise FacesError(
            f"the network's shape of {vertices.shape[1]} vertices has no landmarks of the face "
            f"model ({surface.source}): give --landmarks"
        )
    rotation = find_nearest_rotation(codes.codes["z_p"]).cpu().unflatten(1, (3, 3))
    posed = vertices[:, rows] @ rotation.transpose(1, 2)
    return list(images.project(posed, opened.inputs.size))
