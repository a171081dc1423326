"""The raw operations called by TorchScript (`trace` or `script`) under another default device."""

import sys

import torch

import ntensor  # noqa: F401


class Forward(torch.nn.Module):
    def forward(self, core, z_1, z_2, y, R):

        x, mean = torch.ops.ntensor.synthesis_projection_with_mean(core, [z_1, z_2])
        return (
            torch.ops.ntensor.synthesis([z_1, z_2]),
            torch.ops.ntensor.synthesis([z_1[:0], z_2[:0]]),
            torch.ops.ntensor.synthesis_projection(core, [z_1, z_2]),
            x,
            mean,
            torch.ops.ntensor.projection_core_grad(x, mean, [z_1, z_2]),
            torch.ops.ntensor.rotation(y, R, "column"),
            torch.ops.ntensor.rotation_matrix_grad(y, y, "row"),
            torch.ops.ntensor.rotated_synthesis(z_1, z_2, R, "row"),
        )


class Gradients(torch.nn.Module):
    def forward(self, core, z_1, z_2, y, R):
        both = [True, True]
        x, mean = torch.ops.ntensor.synthesis_projection_with_mean(core, [z_1, z_2])
        return (
            torch.ops.ntensor.projection_factor_grads(core, x, mean, [z_1, z_2], both),
            torch.ops.ntensor.synthesis_grads(y, [z_1, z_2[:, :2]], both),
            torch.ops.ntensor.synthesis_grads(y[:0], [z_1[:0], z_2[:0, :2]], both),
            torch.ops.ntensor.rotated_synthesis_grads(
                y, z_1, z_2[:, :2], R, "row", [True, True, True]
            ),
        )


torch.manual_seed(0)
arguments = [torch.randn(s) for s in ((5, 3, 4), (2, 3), (2, 4), (2, 6), (2, 3, 3))]
if sys.argv[1] == "trace":  # which takes no lists of truth values
    pairs = [(torch.jit.trace(Forward(), arguments), Forward())]
else:
    pairs = [(torch.jit.script(each), each) for each in (Forward(), Gradients())]
expected = [eager(*arguments) for _, eager in pairs]
torch.set_default_device("meta")
for (made, _), wanted in zip(pairs, expected, strict=True):
    for one, other in zip(made(*arguments), wanted, strict=True):
        assert one.device.type == "cpu"
        torch.testing.assert_close(one, other)
