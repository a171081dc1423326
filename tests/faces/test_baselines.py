"""The multilinear model after [37] and the landmark fit, on planted models and rendered faces."""

import math

import pytest
import torch

import ntensor
from ntensor.faces.baselines import (
    estimate_light,
    fit_landmarks,
    fit_multilinear,
    rewarp,
    warp_by_flow,
)
from ntensor.faces.baselines.als import fit_rank_one
from ntensor.faces.baselines.landmark_fit import from_pixels, project, to_pixels
from ntensor.faces.datasets.grids import make_grid
from ntensor.faces.datasets.scenes import angles_to_rotation
from ntensor.faces.morphable.analytic_face import make_analytic_face


def planted(sizes, offset, extent=30, count=200, seed=1):
    """Pictures of a random orthonormal core, the core, and the factors."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.double)

    core = torch.linalg.qr(draw(extent, math.prod(sizes)))[0].reshape(extent, *sizes).contiguous()
    factors = [draw(count, k) for k in sizes]
    for z in factors:
        z[:, 0] += offset
    return ntensor.synthesis_projection(core, *factors), core, factors


@pytest.fixture(scope="module")
def face():
    return make_analytic_face(1000)


@pytest.mark.parametrize(("sizes", "offset"), [((2, 2), 0), ((2, 2, 2), 1)])
def test_multilinear_recovers_a_planted_model(sizes, offset):
    x, core, factors = planted(sizes, offset)
    model = fit_multilinear(x, sizes, sweeps=200, tolerance=1e-3, starts=64)
    assert model.errors[-1] < 1e-5
    flat = model.core.flatten(1)
    torch.testing.assert_close(flat.T @ flat, torch.eye(len(flat.T), dtype=x.dtype))
    new = [z.flip(0).roll(m, 0) for m, z in enumerate(factors)]
    unseen = ntensor.synthesis_projection(core, *new)
    torch.testing.assert_close(
        model.reconstruct(*model.transform(unseen)), unseen, atol=1e-4, rtol=1e-4
    )
    # Each factor of the model depends on one planted factor alone.
    found = model.transform(unseen)
    changed = [new[0], *(z.flip(0) for z in new[1:])]
    again = model.transform(ntensor.synthesis_projection(core, *changed))
    cosine = [torch.cosine_similarity(a, b).abs() for a, b in zip(found, again, strict=True)]
    constant = [c.min().item() > 1 - 1e-4 for c in cosine]
    assert sum(constant) == 1


def test_multilinear_edit_swaps_one_factor():
    x, core, factors = planted((2, 2), 0)
    model = fit_multilinear(x, (2, 2), sweeps=200, tolerance=1e-3, starts=64)
    assert model.errors[-1] < 1e-5
    edited = model.edit(x, x.flip(0), 1)
    own = [z / z.norm(dim=1, keepdim=True) for z in factors]
    truths = []
    for mode in range(2):
        swapped = list(own)
        swapped[mode] = own[mode].flip(0)
        truths.append(ntensor.synthesis_projection(core, *swapped))
    # Which of the planted factors became the second one, and the signs, are not determined.
    likeness = [torch.cosine_similarity(edited, truth).abs().min() for truth in truths]
    assert max(likeness) > 1 - 1e-4 > min(likeness)
    torch.testing.assert_close(edited.norm(dim=1), x.norm(dim=1))


def test_permuted_factors_are_the_same_model():
    x = torch.rand(40, 30, generator=torch.Generator().manual_seed(0))
    model = fit_multilinear(x, (2, 3, 4), sweeps=3)
    turned = model.permute((2, 0, 1))
    assert turned.core.shape == (30, 4, 2, 3)
    light, expression, identity = (torch.rand(5, k) for k in (2, 3, 4))
    torch.testing.assert_close(
        turned.reconstruct(identity, light, expression),
        model.reconstruct(light, expression, identity),
    )
    torch.testing.assert_close(
        turned.reconstruct(*turned.factors), model.reconstruct(*model.factors)
    )
    with pytest.raises(ValueError, match="permutation of 3"):
        model.permute((0, 0, 1))


def test_no_sweep_raises_the_error():
    x = torch.rand(60, 40, generator=torch.Generator().manual_seed(0))
    for center in (False, True):
        model = fit_multilinear(x, (2, 2, 3), sweeps=12, tolerance=0, center=center)
        assert len(model.errors) == 12
        steps = zip(model.errors, model.errors[1:], strict=False)
        assert all(after <= before + 1e-6 for before, after in steps)
        found = x - model.reconstruct(*model.factors)
        shown = float(found.norm() / (x - model.mean).norm())
        assert shown == pytest.approx(model.errors[-1], rel=1e-3)


def test_best_rank_one():
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(5, k, generator=generator, dtype=torch.double) for k in (2, 3, 4)]
    tensors = torch.einsum("na,nb,nc->nabc", *factors)
    found = fit_rank_one(tensors)
    torch.testing.assert_close(torch.einsum("na,nb,nc->nabc", *found), tensors)
    lengths = torch.stack([z.norm(dim=1) for z in found])
    torch.testing.assert_close(lengths, lengths[:1].expand(3, -1))
    matrices = torch.randn(4, 5, 3, generator=generator, dtype=torch.double)
    u, v = fit_rank_one(matrices)
    values = torch.linalg.svdvals(matrices)[:, 0]
    torch.testing.assert_close(torch.einsum("na,nab,nb->n", u, matrices, v), values.square())


def test_multilinear_on_faces_with_and_without_pose(face):
    people, lights = range(2000, 2004), (0, 6, 15)
    errors = {}
    for name, poses in (("frontal", [0.0]), ("turned", [-40.0, 40.0])):
        faces = make_grid(
            people, poses=poses, lights=lights, face_model=face, size=16, background=False
        )
        x = faces.batch(range(len(faces)))["image"].flatten(1)
        model = fit_multilinear(x, (3, 3, 4), sweeps=6)
        errors[name] = model.errors[-1]
        assert all(torch.isfinite(z).all() for z in model.transform(x[:5]))
    assert errors["frontal"] < errors["turned"]


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((3, 4, 5), (2,), r"shape \(n, k_x\)"),
        ((10, 8), (3, 3), "at most n and k_x"),
        ((10, 8), (), "sizes must be positive"),
    ],
)
def test_multilinear_refuses(shape, sizes, message):
    with pytest.raises(ValueError, match=message):
        fit_multilinear(torch.rand(shape), sizes)


def test_transform_refuses_another_extent():
    model = fit_multilinear(torch.rand(20, 12), (2, 2))
    with pytest.raises(ValueError, match=r"transform: x must have shape \(n, 12\)"):
        model.transform(torch.rand(3, 11))


def seen(face, angles, label=1, identity=None):
    n = len(angles)
    identity = torch.zeros(n, face.identity_size) if identity is None else identity
    expression = face.basic_weights[label].expand(n, -1)
    pose = angles_to_rotation(torch.tensor(angles))
    return identity, expression, pose, project(face, identity, expression, pose, None)


def test_landmark_fit_of_the_mean_face(face):
    angles = [[30.0, 10.0, -5.0], [-20.0, 0.0, 0.0]]
    *_, pose, landmarks = seen(face, angles)
    moved = 0.8 * landmarks + torch.tensor([3.0, -7.0])
    fit = fit_landmarks(face, moved)
    torch.testing.assert_close(fit.scale, torch.full((2,), 0.8), atol=0.04, rtol=0)
    assert (fit.landmarks(face) - moved).norm(dim=2).mean() < 1.0
    turn = (fit.pose @ pose.mT).diagonal(dim1=1, dim2=2).sum(1)
    assert torch.rad2deg(torch.acos(((turn - 1) / 2).clamp(-1, 1))).max() < 5
    torch.testing.assert_close(fit.pose @ fit.pose.mT, torch.eye(3).expand(2, 3, 3))
    assert fit.expression.min() >= 0 and fit.expression.max() <= 1


def test_landmark_fit_beats_the_mean_shape_on_persons(face):
    faces = make_grid(range(2000, 2006), poses=[-20.0, 20.0], lights=(0,), face_model=face, size=16)
    batch = faces.batch(range(0, len(faces), 5))
    truth = face.vertices(batch["id_3dmm"], batch["exp_3dmm"])
    landmarks = project(face, batch["id_3dmm"], batch["exp_3dmm"], batch["pose"], None)
    fit = fit_landmarks(face, landmarks, scale=1.0)

    def error(vertices):
        return (vertices - truth).square().sum(2).mean(1).sqrt().mean()

    usual = face.vertices(torch.zeros(1, face.identity_size), face.basic_weights.mean(0)[None])
    assert error(fit.vertices(face)) < 0.75 * error(usual)


def test_pixels_and_millimetres():
    points = torch.tensor([[0.0, 8.0], [-104.0, 112.0], [104.0, 8.0]])
    places = to_pixels(points, 64)
    torch.testing.assert_close(places, torch.tensor([[32.0, 32.0], [0.0, 0.0], [64.0, 32.0]]))
    torch.testing.assert_close(from_pixels(places, 64), points)


def test_rewarp(face):
    faces = make_grid([2000], ["happy", "sad"], [-20.0, 20.0], (5,), face, 32)
    batch = faces.batch(range(4))
    landmarks = project(face, batch["id_3dmm"], batch["exp_3dmm"], batch["pose"], None)
    fit = fit_landmarks(face, landmarks, scale=1.0)
    image = batch["image"]
    itself, inside, normal = rewarp(face, image, fit, fit)
    assert (itself - image).abs().mean() < 0.01
    assert (inside - batch["mask"]).abs().mean() < 0.03
    angle = torch.cosine_similarity(normal, batch["normal"])[(inside * batch["mask"])[:, 0] > 0.9]
    assert angle.mean() > 0.97
    turned, *_ = rewarp(face, image[[0]], fit[[0]], fit[[0]].with_pose(fit[[1]]))
    covered = batch["mask"][[1]]
    own = ((image[[0]] - image[[1]]).square() * covered).sum()
    assert ((turned - image[[1]]).square() * covered).sum() < 0.6 * own


def test_flow_warp(face):
    faces = make_grid([2000], ["happy", "sad"], [20.0], (5, 9), face, 48)
    batch = faces.batch(range(4))
    landmarks = project(face, batch["id_3dmm"], batch["exp_3dmm"], batch["pose"], None)
    fit = fit_landmarks(face, landmarks, scale=1.0)
    image = batch["image"]
    itself, inside, normal = warp_by_flow(face, image, fit, fit)
    torch.testing.assert_close(itself, image)
    torch.testing.assert_close(normal.norm(dim=1, keepdim=True), inside)

    def error(found, row):
        return float(((found - image[row]).square() * batch["mask"][row]).sum())

    order = dict(zip(zip(batch["expression"].tolist(), batch["light_bin"].tolist(), strict=True),
                     range(4), strict=True))  # fmt: skip
    (happy, sad), (one, other) = sorted({key[0] for key in order}), sorted({k[1] for k in order})
    start, moved, lit = order[happy, one], order[sad, one], order[happy, other]
    own = fit[[start]]
    found, covered, _ = warp_by_flow(face, image[[start]], own, own.with_expression(fit[[moved]]))
    assert error(found, moved) < 0.5 * error(image[[start]], moved)
    away = (torch.nn.functional.max_pool2d(covered, 9, 1, 4) == 0).float()
    assert 0.05 < away.mean() < 0.9
    torch.testing.assert_close(found * away, image[[start]] * away)
    light = estimate_light(face, image[[lit]], fit[[lit]])
    found, *_ = warp_by_flow(face, image[[start]], own, own, light)
    assert error(found, lit) < 0.5 * error(image[[start]], lit)


def test_landmark_fit_refuses(face):
    with pytest.raises(ValueError, match=r"shape \(n, 68, 2\), got \(1, 5, 2\)"):
        fit_landmarks(face, torch.zeros(1, 5, 2))
