"""Shading against numbers worked out otherwise, and the two orders of the harmonics."""

import math

import pytest
import torch

from ntensor.faces.rendering import harmonics


def unit(n, generator, dtype=torch.double):
    drawn = torch.randn(n, 3, 1, 1, generator=generator, dtype=dtype)
    return torch.nn.functional.normalize(drawn, dim=1)


def quadratic_form(normals, light):
    """`(n, 1)^T M(L) (n, 1)` of Ramamoorthi and Hanrahan, with their printed constants."""
    c1, c2, c3, c4, c5 = 0.429043, 0.511664, 0.743125, 0.886227, 0.247708
    l1, l2, l3, l4, l5, l6, l7, l8, l9 = light.unbind(-1)
    rows = [
        [c1 * l9, c1 * l5, c1 * l8, c2 * l4],
        [c1 * l5, -c1 * l9, c1 * l6, c2 * l2],
        [c1 * l8, c1 * l6, c3 * l7, c2 * l3],
        [c2 * l4, c2 * l2, c2 * l3, c4 * l1 - c5 * l7],
    ]
    m = torch.stack([torch.stack(row, -1) for row in rows], -2)  # (n, 3, 4, 4)
    n = torch.cat([normals[:, :, 0, 0], torch.ones(len(normals), 1, dtype=normals.dtype)], 1)
    return torch.einsum("ni,ncij,nj->nc", n, m, n)


def test_is_the_quadratic_form(generator):
    normals = unit(20, generator)
    light = torch.randn(20, 3, 9, generator=generator, dtype=torch.double)
    ours = harmonics.shading(normals, light, rectify=False)[:, :, 0, 0]
    torch.testing.assert_close(ours, quadratic_form(normals, light), atol=2e-5, rtol=0)


def test_is_cut_off_at_zero(generator):
    normals = unit(50, generator)
    light = torch.randn(50, 3, 9, generator=generator, dtype=torch.double)
    signed = harmonics.shading(normals, light, rectify=False)
    assert (signed < 0).any()
    assert torch.equal(harmonics.shading(normals, light), signed.clamp(min=0))


def test_gradient(generator):
    normals = unit(2, generator).requires_grad_()
    light = (harmonics.ambient(torch.ones(2, 3, dtype=torch.double)) * 5).requires_grad_()
    assert torch.autograd.gradcheck(harmonics.shading, (normals, light))


def test_lamp_approximates_the_clamped_cosine(generator):
    """Order 2 keeps 99 % of the energy of the clamped cosine; its worst error is 0.125 at 90."""
    normals = unit(400, generator)
    lamp = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.double).expand(400, 3)
    light = harmonics.directional(lamp, torch.ones(400, 3, dtype=torch.double))
    found = harmonics.shading(normals, light, rectify=False)[:, 0, 0, 0]
    error = found - normals[:, 2, 0, 0].clamp(min=0)
    assert error.abs().max() < 0.126
    assert error.square().mean().sqrt() < 0.07


def test_azimuth_sign():
    """A positive azimuth is at the image's left: normals that look left are brighter."""
    lamp = harmonics.direction_of(torch.tensor([40.0]), torch.tensor([0.0]))
    assert lamp[0, 0] < 0
    light = harmonics.directional(lamp, torch.ones(1, 3)).expand(2, 3, 9)
    s = math.sqrt(0.5)
    left_and_right = torch.tensor([[-s, 0, s], [s, 0, s]]).view(2, 3, 1, 1)
    left, right = harmonics.shading(left_and_right, light)[:, 0, 0, 0]
    assert left > right + 0.5


def sfsnet_shading(normals, light):
    """SfSNet's shading from its definition: attenuated harmonics in its own order, R9 G9 B9."""
    x, y, z = (normals[:, k, 0, 0] for k in range(3))
    a0, a1, a2 = math.pi, 2 * math.pi / 3, math.pi / 4
    first, second = math.sqrt(3 / (4 * math.pi)), 3 * math.sqrt(5 / (12 * math.pi))
    functions = torch.stack(
        [
            torch.full_like(x, a0 / math.sqrt(4 * math.pi)),
            a1 * first * z,
            a1 * first * x,
            a1 * first * y,
            a2 * math.sqrt(5 / (4 * math.pi)) / 2 * (2 * z * z - x * x - y * y),
            a2 * second * x * z,
            a2 * second * y * z,
            a2 * second / 2 * (x * x - y * y),
            a2 * second * x * y,
        ],
        1,
    )
    return torch.stack([(functions * part).sum(1) for part in light.split(9, dim=1)], 1)


def test_both_orders_render_the_same(generator):
    normals = unit(30, generator)
    light = torch.randn(30, 3, 9, generator=generator, dtype=torch.double)
    ours = harmonics.shading(normals, light, rectify=False)[:, :, 0, 0]
    theirs = sfsnet_shading(normals, harmonics.to_sfsnet(light))
    torch.testing.assert_close(theirs, ours)
    assert torch.equal(harmonics.from_sfsnet(harmonics.to_sfsnet(light)), light)
    unconverted = sfsnet_shading(normals, light.flatten(1))
    assert (unconverted - ours).abs().mean() > 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: harmonics.basis(torch.ones(2, 4)), r"\(n, 3, \.\.\.\), got \(2, 4\)"),
        (
            lambda: harmonics.shading(torch.ones(2, 3, 1, 1), torch.ones(2, 9)),
            r"light must have shape \(2, 3, 9\).*got \(2, 9\)",
        ),
        (lambda: harmonics.to_sfsnet(torch.ones(2, 27)), r"\(n, 3, 9\), got \(2, 27\)"),
        (lambda: harmonics.from_sfsnet(torch.ones(2, 9)), r"\(n, 27\), got \(2, 9\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
