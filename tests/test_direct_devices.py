"""Direct calls of the compiled core for CPUs: tensors on a GPU are not theirs."""

import torch

from ntensor.backends._torch import plain_keys
from ntensor.ops import direct


def is_open():
    return direct.project((torch.ones(2, 3, 4), torch.ones(5, 3), torch.ones(5, 4)), False)


def test_closed_on_a_gpu(monkeypatch):
    """Tensors that say of themselves what plain ones on a GPU do."""
    for keys in plain_keys("CUDA"):
        monkeypatch.setattr(direct, "keys_of", lambda tensor, keys=keys: keys)
        assert direct._set_up() and is_open() is None
    monkeypatch.undo()
    assert direct._set_up() and is_open() is not None
