"""The report of an evaluation: Markdown, pictures and JSON in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ntensor.faces.writing.files import write_text

from . import markdown, plots, shapes
from .groups import Group, group_runs
from .look import Shown
from .materials import Materials
from .settings import Evaluation
from .transfer import FOLLOWS
from .worlds import format_worlds, take_own_world

_POSES = ["-60°", "-40°", "-20°", "0°", "20°", "40°", "60°"]


class Report:
    """Collects runs and writes the folder.

    Args:
        out (Path): the folder.
        settings (Evaluation)

    Attributes:
        files: the paths of the files written.
    """

    def __init__(self, out: Path, settings: Evaluation) -> None:
        self.out, self.settings = out, settings
        self.files: list[Path] = []
        self.runs: list[dict[str, Any]] = []
        self.extra: list[dict[str, Any]] = []
        self.shown: dict[str, Shown] = {}
        self.others: dict[str, list[dict[str, Any]]] = {}
        self._columns: dict[str, Mapping[str, dict[str, Tensor]]] = {}

    def add(self, measures: dict[str, Any], shown: Shown, baseline: bool = False) -> None:
        """Adds a run's measures; a baseline is listed next to the runs."""
        (self.extra if baseline else self.runs).append(measures)
        self.shown[measures["run"]] = shown

    def write(self, materials: Materials | None) -> None:
        """Writes everything.

        `materials` are those of the first run, or None if no run was measured on generated faces.
        """
        groups, extra = group_runs(self.runs), group_runs(self.extra)
        worlds = {name: group_runs(runs) for name, runs in self.others.items()}
        first = groups or next(iter(worlds.values()))
        parts = [self._head([*first, *extra])]
        if worlds:
            own = {GENERATED: group_runs([take_own_world(run) for run in self.runs])}
            parts += ["## Worlds", _WORLDS, format_worlds({**(own if groups else {}), **worlds})]
        if materials is not None:
            parts += self._normals(groups, extra, materials)
            parts += self._codes(groups, extra, materials)
            parts += self._transfers(groups, extra, materials)
            coefficients = markdown.format_coefficients_table(groups)
            if coefficients:
                parts += ["## Pose and coefficients", _COEFFICIENTS, coefficients]
            if any(group.first["shape"] for group in groups):
                parts += ["## Shape in 3D", _SHAPE, markdown.format_shape_table(groups)]
            if len(groups) > 1:
                parts += ["## Side by side", markdown.format_side_by_side(groups)]
        parts += [text for name in worlds for text in self._other(name, worlds[name])]
        self._text("report.md", "\n\n".join(parts) + "\n")
        content = {
            "runs": self.runs,
            "baselines": self.extra,
            "groups": {group.name: [run["run"] for run in group.runs] for group in first},
            "others": [measures for runs in self.others.values() for measures in runs],
        }
        self._text("evaluation.json", json.dumps(content, indent=1) + "\n")

    def _head(self, groups: Sequence[Group]) -> str:
        lines = ["# Evaluation", ""]
        lines += [f"Pictures: {run['pictures']}." for run in self.runs[:1]]
        for group in groups:
            model = group.first["configuration"]["model"]
            steps = ", ".join(str(run["step"]) for run in group.runs)
            lines.append(
                f"- **{group.name}**: network {group.first['network']}, rotation "
                f"{group.first['rotation']}, {model['image_size']} pixels, z_id {model['k_id']}, "
                f"z_exp {model['k_exp']}; {len(group.runs)} run(s), update {steps}"
            )
        several = any(len(group.runs) > 1 for group in groups)
        lines += ["", *(_ANCHORS if self.runs else ["Measured only on the pictures below."])]
        lines += ["Mean ± standard deviation over runs with different seeds."] if several else []
        return "\n".join(lines)

    def _normals(
        self, groups: Sequence[Group], extra: Sequence[Group], materials: Materials
    ) -> list[str]:
        if not any(group.values("angular_error", "network", "mean") for group in groups):
            return []
        parts = ["## Table 1: angular error of normals", _NORMALS, "All poses:"]
        parts.append(markdown.format_table_1(groups, extra, "angular_error", paper=True))
        if groups[0].first["angular_error_frontal"]:
            parts.append("Frontal faces:")
            parts.append(
                markdown.format_table_1(groups, extra, "angular_error_frontal", paper=False)
            )
        batch = shapes.choose(materials.pictures, 8)
        columns = {"input": batch["image"], "true norm.": batch["normal"]}
        for group in [*groups, *extra]:
            shown = self.shown[group.first["run"]]
            if shown.normals is not None:
                columns[group.name[:14]] = shown.normals
        multilinear = materials.multilinear
        codes = multilinear.codes(batch["image"], batch["mask"])
        columns["multilinear"] = multilinear.normals(codes, batch["image"].shape[-1])
        columns["mean face"] = materials.references.normal.expand_as(batch["normal"])
        for title, value in columns.items():
            if title != "input":
                columns[title] = plots.colour_normals(value, batch["mask"])
        return [*parts, self._sheet("normals.png", columns, "normals")]

    def _codes(
        self, groups: Sequence[Group], extra: Sequence[Group], materials: Materials
    ) -> list[str]:
        named = {name for group in groups for name in group.first["accuracy"]}
        parts: list[str] = []
        if named & {"z_id", "z_exp", "z_p"}:
            factors = [f for f in ("identity", "expression", "pose") if self._varies(groups, f)]
            parts += ["## Table 2: linear SVM on codes, all poses", _PROBES]
            parts.append(
                markdown.format_accuracy_table(groups, extra, "accuracy", factors, als=False)
            )
            if groups[0].first["table_3"]:
                factors = ["identity", "expression", "light"]
                parts += ["## Table 3: linear SVM on codes, frontal faces", _FRONTAL]
                parts.append(
                    markdown.format_accuracy_table(groups, extra, "table_3", factors, als=True)
                )
        parts += ["## Leakage: every code against every factor", _LEAKAGE]
        for group in [*groups, *extra]:
            name = f"leakage-{_make_file_name(group.name)}.png"
            plots.plot_heat_map(self._path(name), group.name, group.first["accuracy"])
            parts += [
                f"**{group.name}**",
                markdown.format_leakage_table(group),
                f"![leakage]({name})",
            ]
        return [*parts, *self._embeddings(groups, extra, materials)]

    def _varies(self, groups: Sequence[Group], factor: str) -> bool:
        return any(factor in row for row in groups[0].first["accuracy"].values())

    def _embeddings(
        self, groups: Sequence[Group], extra: Sequence[Group], materials: Materials
    ) -> list[str]:
        codes = self.shown[groups[0].first["run"]].codes
        count = self.settings.embedded
        if not count or "z_exp" not in codes:
            return []
        pictures = materials.pictures
        chosen = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))[:count]
        plain = next((g for g in [*groups, *extra] if g.first["network"] == "plain"), None)
        if plain is not None:
            title, baseline = (
                "z_0 of the plain auto-encoder",
                self.shown[plain.first["run"]].codes["z_0"],
            )
        else:
            size = groups[0].first["configuration"]["model"]["k_i"]
            baseline = materials.references.project(pictures[chosen]["image"])[:, :size].numpy()
            title = f"pixels, {baseline.shape[1]} principal components"
        face = pictures.face
        names = {
            "expression": [] if face is None else list(face.basic_names),
            "pose": _POSES,
        }
        parts = ["## t-SNE of codes", _EMBEDDED]
        for code, factor, figure in (("z_exp", "expression", 14), ("z_p", "pose", 15)):
            factors = pictures.factors()
            if code not in codes or factor not in factors:
                continue
            labels = factors[factor][chosen]
            known = (labels >= 0).numpy()
            own = codes[code][chosen.numpy()]
            rest = baseline[chosen.numpy()] if plain is not None else baseline
            panels = {
                f"{code} of {groups[0].name}": (own[known], labels.numpy()[known]),
                title: (rest[known], labels.numpy()[known]),
            }
            name = f"tsne-{factor}.png"
            plots.plot_embeddings(self._path(name), panels, dict.fromkeys(panels, names[factor]))
            parts.append(f"By {factor}, as the paper's figure {figure}:\n\n![{factor}]({name})")
        return parts

    def _transfers(
        self, groups: Sequence[Group], extra: Sequence[Group], materials: Materials
    ) -> list[str]:
        parts = ["## Transfers against rendered truth", _TRANSFERS]
        transfers = materials.transfers
        for edit, truth in transfers.truth.items():
            parts += [
                f"### {edit.capitalize()}",
                markdown.format_transfer_table(groups, extra, edit),
            ]
            columns = {
                "target": transfers.target["image"],
                f"{edit} of": transfers.source["image"],
                "truth": truth["image"],
            }
            for group in [*groups, *extra]:
                edits = self.shown[group.first["run"]].edits
                if edit in edits:
                    columns[group.name[:14]] = edits[edit]["image"]
                if edit == "pose" and FOLLOWS in edits:
                    columns[f"{group.name[:8]} follows"] = edits[FOLLOWS]["image"]
            columns |= materials.shown[edit]
            parts.append(self._sheet(f"transfer-{edit}.png", columns, f"{edit} transfer"))
        return parts

    def _other(self, name: str, groups: Sequence[Group]) -> list[str]:
        """The section of a user's own pictures."""
        first = groups[0].first
        text = f"{first['samples']} pictures: {first['pictures']}."
        if first["references"]:
            text += f" Baselines of training are fitted to {first['references']}."
        if first["left_out"]:
            text += f" Baselines of training are left out: {first['left_out']}."
        if first["degraded"]:
            text += f" {_DEGRADED}"
        parts = [f"## {name[0].upper()}{name[1:]}", text]
        if first["angular_error"]:
            parts.append(markdown.format_table_1(groups, [], "angular_error", paper=False))
        coefficients = markdown.format_coefficients_table(groups)
        parts += [coefficients] if coefficients else []
        for group in groups:
            if group.first["accuracy"]:
                parts += [f"**{group.name}**", markdown.format_leakage_table(group)]
        parts += [_PAIRS] if first["transfer"] else []
        for edit in first["transfer"]:
            parts += [f"**{edit}**", markdown.format_transfer_table(groups, [], edit)]
        for sheet, columns in self._columns[name].items():
            title = f"{name} {sheet}".strip()
            parts.append(self._sheet(f"own-{_make_file_name(title)}.png", columns, title))
        return parts

    def add_other(self, measures: dict[str, Any], sheets: Mapping[str, dict[str, Tensor]]) -> None:
        """Adds measures on a user's own pictures, and their sheets; the first run's are shown."""
        self.others.setdefault(measures["name"], []).append(measures)
        self._columns.setdefault(measures["name"], sheets)

    def _sheet(self, name: str, columns: dict[str, Any], title: str) -> str:
        plots.save_sheet(self._path(name), columns)
        return f"![{title}]({name})"

    def _path(self, name: str) -> Path:
        self.files.append(self.out / name)
        return self.out / name

    def _text(self, name: str, content: str) -> None:
        write_text(self._path(name), content)


def _make_file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


# The column of the generated pictures, which tables 1 to 3 are measured on.
GENERATED = "generated faces"

_ANCHORS = (
    "Trained and tested on generated faces; the paper's figures are on other data",
    "(Photoface, Multi-PIE) and are listed for reference only.",
)
_WORLDS = (
    "One column for each kind of pictures, with the same measures and baselines. Accuracies: "
    "random folds / persons held out (for identity, expressions). Light is measured on frontal "
    "generated faces under many lights. Mean face, mean image, components of pixels and the linear "
    "regressions come from the training pictures. The persons' own mean is the mean of all other "
    "persons of the set; the components of the set's own pixels are shown too. E_id and E_exp: 1 "
    "is the share of the coefficients' variance that the training mean leaves. Edits in a set use "
    "pairs in which nothing else differs."
)
_COEFFICIENTS = (
    "Angle between the rotation nearest to z_p and the true one; the constant faces the camera. "
    "Share of the variance of the standardised coefficients that is not explained; at 1, nothing "
    "is."
)
_DEGRADED = (
    "The network, the untrained encoder and the components of pixels see pictures as a camera "
    "delivers them; all errors are measured on the clean pictures."
)
_PAIRS = (
    "Edits of pairs that differ in a single factor: each picture is the ground truth of an edit of "
    "the other. Methods that edit the picture itself start from the clean one, as the copy does."
)
_NORMALS = (
    "Degrees inside the face: mean and standard deviation over pictures of their mean angles, and "
    "shares of all pixels below an angle. Baselines: the mean face of training, the normal that "
    "faces the camera, linear regression from principal components of the pixels, and normals "
    "from the codes of this project's multilinear model after [37] (equation 5), which is given "
    "the true mask. The paper's rows were measured on Photoface."
)
_PROBES = (
    "Random stratified folds / folds that hold out whole groups (identities; for identity, "
    "expressions). One-versus-rest linear support vector machines with squared hinge loss and "
    "C = 1, on standardised codes."
)
_FRONTAL = (
    "As table 2. The multilinear model is this project's, after [37]; it is fitted to frontal "
    "faces of training identities and is given the true mask."
)
_LEAKAGE = (
    "Random folds / whole groups held out. A code that reveals a factor other than its own leaks: "
    "accuracy on the diagonal alone does not show that the factors are separated."
)
_EMBEDDED = "Standardised codes of the same pictures, two dimensions by t-SNE."
_TRANSFERS = (
    "Random pairs of unseen identities; the ground truth is rendered. Mean squared errors of the "
    "picture and inside the true mask; mean angle of normals inside the true mask; mean distance "
    "of the 68 landmarks. The copy of the input has its true normals and landmarks. The 3DMM fit "
    "is given the true landmarks of both pictures and the camera's scale; an expression warps the "
    "target's picture by the motion of the fitted surface, a pose redraws it, and a light "
    "multiplies its colours by the ratio of the shadings of the fitted normals. The multilinear "
    "model after [37] is fitted to faces in all poses. Besides the paper's edits, there are three "
    "of this project: the change of the reconstruction added to the input, or for an "
    "expression taken where it exceeds the network's error, which keeps what the "
    "network does not reproduce; the input warped by the surface with the predicted coefficients; "
    "and a pose edit in which z_id follows the pose as far as it depends on it, by a regression on "
    "codes of training pictures."
)
_SHAPE = (
    "Root mean square distance of corresponding vertices, without alignment. The landmark fit is "
    "given the true landmarks and the camera's scale."
)
