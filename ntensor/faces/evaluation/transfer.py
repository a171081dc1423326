"""Transfers of expression, pose and light, measured against the ground truth of each edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ntensor.faces import editing
from ntensor.faces.baselines import estimate_light, fit_landmarks, rewarp, warp_by_flow
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.datasets.records import get_input
from ntensor.faces.morphable.face_model import FaceModel
from ntensor.faces.networks.model import Model
from ntensor.faces.rendering import harmonics

from .pairs import Batch, Pairs, Transfers
from .references import Multilinear

Measures = dict[str, dict[str, float]]

# Adds the change of the network's reconstruction to the picture, and the change of its normals and
# landmarks to the target's true ones, which the copy of the input has as well.
DETAIL = "network, its change added to the input"
# The target's picture, warped by the face model with the network's coefficients; see
# `editing.warp_expression`. The movement is added to the true landmarks, as above.
WARP = "network's coefficients, the input warped"
# The unchanged target.
COPY = "copy of the input"
# The edit in which the identity code follows the pose; see `editing.fit_pose_leak`.
FOLLOWS = "network, z_id follows the pose"

# The camera's scale, which is given to the landmark fit.
_SCALE = 1.0
_CHUNK = 32


def edit_by_network(
    model: Model,
    transfers: Pairs,
    device: torch.device,
    batch_size: int,
    leak: Tensor | None = None,
    shaped: bool = True,
) -> dict[str, Batch]:
    """Every edit that the network can do: `image`, and `normal` and `landmarks` if it has them.

    The key `""` is the unedited reconstruction of the target. An edited pose joins face and
    background by the length of the decoded normals, since the mask of `z_m` has the target's
    outline. With `leak`, from `editing.fit_pose_leak`, `FOLLOWS` is the edited pose with that
    correction. Unless `shaped`, the network's shape belongs to another face model and gives no
    landmarks.
    """
    has = set(model.encoder.heads)
    edits = [edit for edit in transfers.truth if editing.CODES[edit] in has]
    if not edits:
        return {}
    follows = [FOLLOWS] if leak is not None and "pose" in edits else []
    parts: dict[str, list[Batch]] = {edit: [] for edit in ["", *edits, *follows]}
    for first in range(0, len(transfers.target["image"]), batch_size):
        rows = slice(first, first + batch_size)
        target, source = (
            editing.encode(model, get_input(batch)[rows].to(device))
            for batch in (transfers.target, transfers.source)
        )
        plain = editing.decode(model, target)
        for edit, kept in parts.items():
            output, pose = plain, target
            if edit == "expression":
                output = editing.transfer_expression(model, target, source)
            elif edit in ("pose", FOLLOWS):
                given = leak if edit == FOLLOWS else None
                output = editing.transfer_pose(model, target, source, mask="normals", leak=given)
                pose = source
            elif edit == "light":
                output = {**plain, **editing.transfer_light(model, target, source)}
            z_p = pose.codes.get("z_p") if shaped else None
            kept.append(_keep_output(model, transfers, output, z_p))
    return {
        edit: {name: torch.cat([part[name] for part in batches]) for name in batches[0]}
        for edit, batches in parts.items()
    }


def measure_network(
    model: Model,
    transfers: Pairs,
    device: torch.device,
    batch_size: int,
    leak: Tensor | None = None,
    shaped: bool = True,
) -> tuple[dict[str, Measures], dict[str, Batch]]:
    """Errors of the network's edits by edit and method, and the edited batches, with `WARP`."""
    edited = edit_by_network(model, transfers, device, batch_size, leak, shaped)
    measures = {}
    for edit in transfers.truth:
        if edit not in edited:
            continue
        rows = {"network": edited[edit], "network, nothing transferred": edited[""]}
        if edit == "pose" and FOLLOWS in edited:
            rows[FOLLOWS] = edited[FOLLOWS]
        if edit == "expression":
            warped = _warp(model, transfers, device)
            rows, edited = rows | warped, edited | warped
        if edit != "pose":
            rows[DETAIL] = _add_change(edit, transfers, edited[""], edited[edit])
        measures[edit] = {
            name: transfers.measure(edit, b["image"], b.get("normal"), b.get("landmarks"))
            for name, b in rows.items()
        }
    return measures, edited


def _warp(model: Model, transfers: Pairs, device: torch.device) -> dict[str, Batch]:
    """`WARP`, if the network predicts pose and coefficients of the transfers' face model."""
    face = transfers.face
    if face is None:
        return {}
    target, source = (
        editing.encode(model, get_input(batch).to(device))
        for batch in (transfers.target, transfers.source)
    )
    parts = []
    try:
        for first in range(0, len(transfers.target["image"]), _CHUNK):
            rows = slice(first, first + _CHUNK)
            image = transfers.target["image"][rows]
            parts.append(editing.warp_expression(model, face, image, target[rows], source[rows]))
    except ConfigurationError:
        return {}
    image, normal, movement = (torch.cat(column) for column in zip(*parts, strict=True))
    warped = {"image": image, "normal": normal}
    if transfers.has_landmarks:
        warped["landmarks"] = transfers.project_landmarks(transfers.target) + movement
    return {WARP: warped}


def _add_change(edit: str, transfers: Pairs, plain: Batch, edited: Batch) -> Batch:
    given = dict(transfers.target)
    if transfers.has_landmarks:
        given["landmarks"] = transfers.project_landmarks(transfers.target)
    parts = {name: (given[name], plain[name], edited[name]) for name in plain if name in given}
    return {
        name: editing.keep_detail(edit, *part) if name == "image" else part[0] + part[2] - part[1]
        for name, part in parts.items()
    }


def measure_baselines(
    transfers: Transfers, multilinear: Multilinear | None
) -> tuple[dict[str, Measures], dict[str, dict[str, Tensor]]]:
    """Errors of the baselines by edit and method, and their pictures.

    - `copy of the input`: the unchanged target, with its true normals and landmarks.
    - `3DMM fit`: the face model fitted to the true landmarks of both pictures, with coefficients
      swapped. An expression warps the picture by the fitted motion, a pose draws the face again,
      and a light multiplies the picture by the ratio of the shadings of the fitted normals.
    - `multilinear`: the model after [37] of unaligned faces, with one code swapped.
    """
    face, target, source = transfers.face, transfers.target, transfers.source
    own, other = (
        fit_landmarks(face, transfers.project_landmarks(batch), scale=_SCALE)
        for batch in (target, source)
    )
    measures: dict[str, Measures] = {}
    shown: dict[str, dict[str, Tensor]] = {}
    for edit in tqdm(transfers.truth, "baselines of transfers", unit="edit"):
        wanted = own if edit == "light" else getattr(own, f"with_{edit}")(other)
        draw = rewarp if edit == "pose" else warp_by_flow
        image, inside, normal = _draw_in_chunks(draw, face, target["image"], own, wanted)
        if edit == "light":
            light = _match_mean(
                estimate_light(face, source["image"], other),
                estimate_light(face, target["image"], own),
                normal,
                inside,
            )
            image, _, normal = _draw_in_chunks(draw, face, target["image"], own, wanted, light)
        measures[edit] = {
            COPY: measure_copy(transfers, edit),
            "3DMM fit": transfers.measure(edit, image, normal, wanted.landmarks(face)),
        }
        shown[edit] = {"3DMM fit": image}
        if multilinear is not None and edit != "pose":
            swapped = multilinear.edit(target["image"], target["mask"], source, edit)
            measures[edit]["multilinear"] = transfers.measure(edit, swapped)
            shown[edit]["multilinear"] = swapped
    return measures, shown


def measure_copy(transfers: Pairs, edit: str) -> dict[str, float]:
    """Errors of the unchanged target."""
    target = transfers.target
    landmarks = transfers.project_landmarks(target) if transfers.has_landmarks else None
    return transfers.measure(edit, target["image"], target["normal"], landmarks)


def measure_pairs(
    model: Model, pairs: Mapping[str, Pairs], device: torch.device, batch_size: int
) -> tuple[dict[str, Measures], dict[str, dict[str, Tensor]]]:
    """Errors of the network's edits of stored pairs and of the unchanged picture.

    The network sees the input, which may be degraded. All errors are measured on clean pictures,
    and methods that edit the picture itself start from the clean one.

    Returns:
        dict, dict: errors by edit and method; pictures by edit and title.
    """
    measures: dict[str, Measures] = {}
    shown: dict[str, dict[str, Tensor]] = {}
    for edit, chosen in tqdm(pairs.items(), "edits of pairs", unit="edit"):
        own, edited = measure_network(model, chosen, device, batch_size)
        if edit not in own:
            continue
        measures[edit] = {**own[edit], COPY: measure_copy(chosen, edit)}
        shown[edit] = _show_pairs(chosen, edit, edited)
    return measures, shown


def _show_pairs(pairs: Pairs, edit: str, edited: Mapping[str, Batch]) -> dict[str, Tensor]:
    """The columns of a sheet."""
    columns = {"input": get_input(pairs.target)}
    if "input" in pairs.target:
        columns["target"] = pairs.target["image"]
    columns |= {
        f"{edit} of": get_input(pairs.source),
        "truth": pairs.truth[edit]["image"],
        "network": edited[edit]["image"],
    }
    if edit != "pose":
        columns["change added"] = _add_change(edit, pairs, edited[""], edited[edit])["image"]
    if WARP in edited:
        columns["warped"] = edited[WARP]["image"]
    return columns


def _draw_in_chunks(
    draw: Callable[..., tuple[Tensor, ...]], face: FaceModel, *given: Any
) -> tuple[Tensor, ...]:
    parts = []
    for first in range(0, len(given[0]), _CHUNK):
        rows = slice(first, first + _CHUNK)
        parts.append(draw(face, *(x[rows] for x in given)))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _match_mean(light: Tensor, own: Tensor, normal: Tensor, inside: Tensor) -> Tensor:
    """Scales each channel of a light to the mean shading of `own` on these normals.

    A light estimated from a picture includes the colour of its face.
    """
    given, wanted = (
        (harmonics.shading(normal, lamp) * inside).sum((2, 3)) for lamp in (light, own)
    )
    return light * (wanted / given.clamp_min(1e-3)).unsqueeze(2)


def _keep_output(model: Model, transfers: Pairs, output: Mapping[str, Tensor], z_p: Any) -> Batch:
    kept = {name: output[name].float().cpu() for name in ("image", "normal") if name in output}
    face = transfers.face if transfers.has_landmarks else None
    if face is not None and "shape" in output and z_p is not None:
        vertices = editing.restore_vertices(model, output).float().cpu()
        rotation = editing.find_nearest_rotation(z_p.float().cpu()).unflatten(1, (3, 3))
        kept["landmarks"] = select_landmarks(face, vertices) @ rotation[:, :2].mT
    return kept


def select_landmarks(face: FaceModel, shape: Tensor) -> Tensor:
    """The landmarks (n, 68, 3) of shapes (n, V_s, 3); NaN for those not among the vertices.

    Raises:
        ConfigurationError: the shapes belong to another face model.
    """
    if shape.shape[1] != len(face.shape_vertices):
        raise ConfigurationError(
            f"{face.source}: expected shapes of its {len(face.shape_vertices)} vertices, got "
            f"{shape.shape[1]}: the run was trained with another face model"
        )
    position = torch.full((len(face.mean),), -1)
    position[face.shape_vertices] = torch.arange(len(face.shape_vertices))
    places = position[face.landmarks68]
    points = shape[:, places.clamp_min(0)]
    points[:, places < 0] = torch.nan
    return points
