"""A training run as a program, so that tests can continue, stop and kill it.

    python runs.py FOLDER [accident]

`accident`: `kill` ends the process by SIGKILL in the middle of writing the second checkpoint,
`terminate` sends it SIGTERM before its third update, `group` also its worker; `robust` is none, but
a run of pairs with all that the preset adds which is a mean over samples."""

import os
import signal
import sys
from pathlib import Path

import torch

from batches import RandomPairs, RandomSamples, small_configuration, small_robust
from ntensor.faces.training.processes import Processes
from ntensor.faces.training.trainer import Trainer


class Accident(RandomSamples):
    """Samples that send a signal when the third update asks for its batch."""

    def __getitem__(self, indices):
        if 8 in indices and "group" in sys.argv:
            os.killpg(os.getpgrp(), signal.SIGTERM)
        elif 8 in indices:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(indices)


def kill_in_second_checkpoint():
    from safetensors import torch as safetensors

    save, written = safetensors.save_file, []

    def save_half(tensors, path, **options):
        save(tensors, path, **options)
        written.append(path)
        if len(written) == 3:
            with open(path, "r+b") as file:
                file.truncate(os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    safetensors.save_file = save_half


if __name__ == "__main__":
    folder, accident = Path(sys.argv[1]), (sys.argv[2:] or [""])[0]
    if accident == "kill":
        kill_in_second_checkpoint()
    samples = Accident() if accident in ("terminate", "group") else RandomSamples()
    configuration = small_configuration(
        training={"steps": 8, "checkpoint_every": 2},
        losses={"adversarial": 0.1},
        data={"workers": int(accident == "group")},
    )
    if accident == "robust":
        samples = RandomPairs()
        configuration = small_robust(losses={"pairs": 0.0}, steps=3, batch_size=8)
    with Processes(torch.device("cpu")) as processes:
        trainer = Trainer(configuration, folder, samples, RandomSamples(4, seed=1), processes)
        print(trainer.train())
