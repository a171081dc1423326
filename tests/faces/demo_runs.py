"""A small run for the page, and what the page's HTML shows."""

import base64
import dataclasses
import io
import re
import socket

import numpy as np
import torch
from PIL import Image

from ntensor.faces.configuration import Configuration, fit_to_data, to_json
from ntensor.faces.configuration.presets import tiny
from ntensor.faces.networks.model import build
from ntensor.faces.training import checkpoint


def write_run(folder, data=None, **model):
    base = tiny()
    sizes = {"image_size": 16, "channels": (4, 4, 4), "k_i": 8, "k_b": 4, "k_m": 4}
    sizes |= {"k_exp": 3, "k_id": 4, **model}
    configuration = Configuration(
        dataclasses.replace(base.model, **sizes),
        base.losses,
        dataclasses.replace(base.data, **(data or {"vertices": 1000})),
        base.training,
    )
    sizes = {"k_3d": 3000, "exp_3dmm": 16, "id_3dmm": 30, "image_size": 16}
    configuration = fit_to_data(configuration, sizes)
    torch.manual_seed(0)
    network = build(configuration.model)
    # Maps that start near a constant are made to differ from face to face.
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".last.weight" in name or name.startswith("encoder.heads"):
                parameter.mul_(5)
    (folder / "configuration.json").write_text(to_json(configuration))
    checkpoint.save(folder, 3, {"model": network.state_dict()}, {"step": 3})
    return folder


def pictures_in(text):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return [torch.from_numpy(pixels_of(base64.b64decode(data))) for data in found]


def pixels_of(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
