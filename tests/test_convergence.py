"""A small model in training: every backend walks the path of the definition."""

import pytest
import torch

import definitions
import ntensor
from backends import each_backend

STEPS = 50
# Triton's interpreter takes most of a second a step.
STEPS_OF_TRITON = 5


class Model(torch.nn.Module):
    """Two encoders, rotated and plain streams, one core with two outputs."""

    def __init__(self, operations):
        super().__init__()
        self.operations = operations
        self.encoders = torch.nn.ModuleList(torch.nn.Linear(8, k) for k in (4, 5, 6))
        self.core = torch.nn.Parameter(0.2 * torch.randn(20, 4, 5, 6))
        self.pose = torch.nn.Parameter(torch.eye(3).repeat(16, 1, 1))

    def forward(self, image):
        z_l, z_exp, z_id = (torch.tanh(encode(image)) for encode in self.encoders)
        texture, normals = self.operations.synthesis_projection_with_mean(
            self.core, z_l, z_exp, z_id
        )
        return texture, normals, self.operations.rotated_synthesis(z_exp, z_id, self.pose)


def losses(operations, steps=STEPS):
    torch.manual_seed(0)
    model, image = Model(operations), torch.randn(16, 8)
    targets = torch.randn(16, 20), torch.randn(16, 20), torch.randn(16, 30)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    history = []
    for _ in range(steps):
        pairs = zip(model(image), targets, strict=True)
        loss = sum((x - target).square().mean() for x, target in pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return torch.tensor(history)


@pytest.fixture(scope="module")
def expected():
    return losses(definitions)


@each_backend
def test_same_losses(backend, expected):
    steps = STEPS_OF_TRITON if backend == "triton" else STEPS
    with ntensor.use_backend(backend):
        ours = losses(ntensor, steps)
    assert expected[-1] < 0.5 * expected[0], "the task is learnable"
    torch.testing.assert_close(ours, expected[:steps], rtol=1e-3, atol=1e-4)
