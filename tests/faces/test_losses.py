"""Every term of the objective on values that are worked out by hand."""

import math

import pytest
import torch

from ntensor.faces.training import losses


def close(found, wanted):
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-6, atol=1e-7)


def test_reconstruction():
    close(losses.reconstruction(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])), 2.5)


def test_opponent_colours():
    grey, red = torch.full((1, 3, 2, 2), 0.6), torch.zeros(1, 3, 2, 2)
    red[:, 0] = 0.3
    wanted = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(losses.opponent(grey), wanted)
    wanted = torch.tensor([-1.5, 6.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(losses.opponent(red), wanted)


def test_colour_does_not_see_luminance():
    image = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(
        losses.colour(image + 0.3, image), torch.tensor(0.0), atol=1e-9, rtol=0
    )
    red = image.clone()
    red[:, 0] += 0.1  # 2 in red less green, 1 in yellow less blue
    close(losses.colour(red, image), (4 + 1) / 2)


def test_thumbnail_is_of_means():
    image = torch.full((1, 3, 8, 8), 0.4)
    image[:, :, :2, :2] = 0.6  # one of 4 x 4 places, luminance 1
    wanted = torch.zeros(1, 3, 4, 4)
    close(losses.thumbnail(wanted.flatten(1), image), 1 / 48)
    wanted[0, 0, 0, 0] = 1
    close(losses.thumbnail(wanted.flatten(1), image), 0.0)


def test_adversarial_is_an_absolute_error():
    close(losses.adversarial(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])), 1.5)


def test_discriminator():
    real, fake, k = torch.tensor(1.0), torch.tensor(0.5), torch.tensor(0.4)
    close(losses.discriminator(real, fake, k), 0.8)


@pytest.mark.parametrize(
    ("k", "real", "fake", "wanted"),
    [(0.1, 1.0, 0.2, 0.4), (0.0, 0.1, 1.0, 0.0), (0.9, 2.0, 0.0, 1.0)],
    ids=["moves", "stays at 0", "stays at 1"],
)
def test_balance(k, real, fake, wanted):
    k, real, fake = torch.tensor(k), torch.tensor(real), torch.tensor(fake)
    found, measure = losses.update_balance(k, real, fake, gamma=0.5, rate=1.0)
    close(found, wanted)
    close(measure, float(real + (0.5 * real - fake).abs()))


def test_balance_carries_no_gradient():
    real = torch.tensor(1.0, requires_grad=True)
    k, measure = losses.update_balance(torch.tensor(0.1), real, 0.5 * real, 0.7, 0.1)
    assert not k.requires_grad and not measure.requires_grad


def test_verification_is_one_minus_cosine():
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 2.0]])
    second = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    close(losses.verification(first, second), (0 + 1 + 2) / 3)


def contrast(z, person):
    """`losses.pairs` by loops, in float64."""
    unit = torch.nn.functional.normalize(z.double() - 1, dim=1)
    known = [i for i in range(len(person)) if person[i] >= 0]
    each = []
    for i in known:
        partners = [p for p in known if p != i and person[p] == person[i]]
        weights = {a: math.exp(unit[i] @ unit[a] / 0.1) for a in known if a != i}
        shares = [math.log(weights[p] / sum(weights.values())) for p in partners]
        each += [-sum(shares) / len(shares)] if shares else []
    return sum(each) / len(each) if each else 0.0


@pytest.mark.parametrize(
    "person",
    [[0, 0, 1, 1, 2, 2], [3, 3, 3, -1, 5, -1], [0, 1, 2, 3, 4, 5], [7, 7, -1, -1, -1, -1]],
    ids=["pairs", "three and unknown ones", "no pairs", "one pair alone"],
)
def test_pairs_against_loops(person):
    z = 1 + torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    z.requires_grad_(True)
    found = losses.pairs(z, torch.tensor(person))
    close(found.detach(), contrast(z.detach(), person))
    found.backward()
    moved = torch.tensor([number >= 0 for number in person])
    assert torch.isfinite(z.grad).all() and not z.grad[~moved].any()
    assert bool(z.grad[moved].any()) == (person in ([0, 0, 1, 1, 2, 2], [3, 3, 3, -1, 5, -1]))


def test_pairs_of_nobody_known():
    for person in ([-1, -1], [4, -1]):
        close(losses.pairs(torch.ones(2, 3), torch.tensor(person)), 0.0)


def test_swap_counts_pictures_without_a_partner_as_zero():
    face, target = torch.zeros(2, 3, 1, 2), torch.zeros(2, 3, 1, 2)
    mask = torch.tensor([1.0, 0.0]).expand(2, 1, 1, 2)
    face[1] = 0.4  # half of one of two pictures lies inside the mask
    normals = torch.zeros(2, 3, 1, 2)
    normals[0, 0] = 1.0  # weighs 1 and 0.1, a third of the coordinates
    wanted = (0.16 / 4 + 0.2 * 1.1 / 12) * 2 / 8
    close(losses.swap(face, normals, target, torch.zeros_like(normals), mask, 8), wanted)
    none = torch.zeros(0, 3, 1, 2)
    close(losses.swap(none, none, none, none, none[:, :1], 8), 0.0)


def test_pose_reads_the_matrix_row_by_row():
    R = torch.arange(9.0).view(1, 3, 3)
    close(losses.pose(torch.arange(9.0)[None], R), 0.0)
    close(losses.pose(torch.arange(9.0)[None], R.transpose(1, 2)), 48 / 9)


@pytest.mark.parametrize("term", [losses.expression, losses.identity, losses.shape, losses.light])
def test_squared_errors(term):
    close(term(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 6.0]])), 13 / 3)


@pytest.mark.parametrize("term", [losses.frontal_image, losses.frontal_normal])
def test_frontal_terms_count_near_frontal_samples_only(term):
    found = torch.zeros(4, 3, 2, 2, requires_grad=True)
    target = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    loss = term(found, target, torch.tensor([True, False, True, False]))
    close(loss.detach(), (1 + 9) / 4)
    loss.backward()
    assert found.grad[1].abs().max() == 0 and found.grad[3].abs().max() == 0
    close(term(found.detach(), target, torch.zeros(4, dtype=torch.bool)), 0.0)


def test_normal_weighs_the_face():
    found = torch.zeros(1, 3, 1, 2)
    target = torch.ones(1, 3, 1, 2)
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    close(losses.normal(found, target, mask), (1 + 0.1) / 2)


def test_normal_unit():
    found = torch.zeros(1, 3, 1, 2)
    found[0, :, 0, 0] = torch.tensor([0.0, 0.0, 2.0])
    found[0, :, 0, 1] = 7.0
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    close(losses.normal_unit(found, mask), 9 / 2)


def test_smoothness_inside_the_mask():
    x = torch.tensor([[0.0, 1.0, 5.0], [0.0, 3.0, 5.0]]).view(1, 1, 2, 3)
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]).view(1, 1, 2, 3)
    # Down: 0, 2, (0). Right: 1, 3, (4, 2): pairs with the last column lie outside.
    close(losses.albedo_smoothness(x, mask), 2 / 3 + 4 / 4)
    close(losses.normal_smoothness(x, mask), 4 / 3 + 10 / 4)


def test_white_shading_is_one_mean_for_the_batch():
    shading = torch.zeros(2, 3, 1, 2)
    shading[0, 0], shading[1, 0] = 0.25, 1.25
    shading[:, 1:] = 0.75
    mask = torch.ones(2, 1, 1, 2)
    close(losses.white_shading(shading, mask), 0.0)
    mask[1] = 0
    close(losses.white_shading(shading, mask), 0.5 * 0.25)


def test_mask_and_background():
    found, target = torch.tensor([[0.5, 1.0]]), torch.tensor([[1.0, 1.0]])
    close(losses.mask(found.view(1, 1, 1, 2), target.view(1, 1, 1, 2)), 0.25)
    image = torch.zeros(1, 3, 1, 2)
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    close(losses.background(image + 3, image, mask), 4.5)


def test_texture():
    close(losses.texture(torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), 0.5)), 0.25)


def test_prior():
    logit = torch.tensor([0.0, 2.0])
    close(losses.prior(logit), (math.log(2) + math.log1p(math.exp(-2))) / 2)
    close(
        losses.prior_discriminator(logit, -logit),
        2 * (math.log(2) + math.log1p(math.exp(-2))) / 2,
    )
