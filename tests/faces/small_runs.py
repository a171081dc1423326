"""Folders of runs as training leaves them, with untrained networks of 16 pixels."""

import dataclasses

import numpy as np
import torch
from PIL import Image

from ntensor.faces.configuration import fit_to_data, to_json
from ntensor.faces.configuration.presets import tiny
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.networks.model import build
from ntensor.faces.training import checkpoint

VERTICES = 1000

# Two faces of other persons, poses and lights.
HAPPY = "generated:test:0:happy:20:3"
SAD = "generated:test:1:sad:-30,5,10"


# Words for the analytic face, whatever the environment names.
ANALYTIC = ("--data.face-model", "analytic", "--data.vertices", str(VERTICES))

# Words of a training of two updates, but for its folder.
TRAINING = [
    *("--preset", "tiny", "--model.image-size", "16", "--model.channels", "4", "4", "4"),
    *("--training.steps", "2", "--training.batch-size", "2", "--data.cache", "4"),
    *("--data.validation", "2", *ANALYTIC),
    *("--model.k-id", "4", "--model.k-exp", "3"),
]


def write_run(
    folder, network="neuro-tensorial", rotation="column", size=16, channels=(4, 4, 4), **data
):
    """Writes the run; gives its folder."""
    base = tiny()
    model = dataclasses.replace(
        base.model, network=network, rotation=rotation, image_size=size, channels=channels,
        k_i=8, k_b=4, k_m=4, k_l=3, k_exp=3, k_id=4,
    )  # fmt: skip
    variation = "all"
    if network == "proof-of-concept":
        variation = "expression" if rotation == "off" else "pose"
    data = dataclasses.replace(base.data, vertices=VERTICES, variation=variation, cache=0, **data)
    configuration = dataclasses.replace(base, model=model, data=data)
    face = make_analytic_face(VERTICES)
    sizes = {"k_3d": face.shape_size, "exp_3dmm": face.expression_size,
             "id_3dmm": face.identity_size, "image_size": size}  # fmt: skip
    configuration = fit_to_data(configuration, sizes)
    generator_state = torch.get_rng_state()
    torch.manual_seed(0)
    made = build(configuration.model)
    torch.set_rng_state(generator_state)
    made.statistics.set(GeneratedFaces(face, size=size).statistics)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configuration.json").write_text(to_json(configuration))
    checkpoint.save(folder, 3, {"model": made.state_dict()}, {"step": 3})
    return folder


def picture(path):
    """A written picture, (3, h, w) from 0 to 1."""
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255
