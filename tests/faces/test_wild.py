"""Faces as they vary among people: pairs, targets, what a camera delivers, another world."""

import dataclasses

import numpy as np
import pytest
import torch

from ntensor.faces.datasets import scenes, worlds
from ntensor.faces.datasets.records import DIFFERS, VALID
from ntensor.faces.datasets.stored import StoredFaces
from ntensor.faces.datasets.wild import LabelledFaces, WildFaces
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.rendering import harmonics, props
from ntensor.faces.rendering.backdrops import draw_backdrop
from ntensor.faces.rendering.degradation import Degradation, degrade
from ntensor.faces.rendering.lamps import HardLight, cast_shadows, shade_hard
from ntensor.faces.rendering.wild import Layer, Lens


@pytest.fixture(scope="module")
def wild():
    return WildFaces(make_analytic_face(1500), size=32)


@pytest.fixture(scope="module")
def pairs(wild):
    """For each thing that two pictures differ in, the batch of one such pair."""
    found = {}
    for pair in range(60):
        name = DIFFERS[wild.draw_one(2 * pair)[2]]
        if name not in found:
            found[name] = wild.batch([2 * pair, 2 * pair + 1])
    assert set(found) == set(DIFFERS)
    return found


SAME = {
    "all": ("identity", "id_3dmm", "differs"),
    "expression": ("identity", "pose", "light", "id_3dmm", "differs"),
    "pose": ("identity", "exp_3dmm", "light", "id_3dmm", "differs"),
    "light": ("identity", "exp_3dmm", "pose", "mask", "normal", "albedo", "differs"),
}


@pytest.mark.parametrize("name", DIFFERS)
def test_a_pair_differs_in_what_it_says(pairs, name):
    batch = pairs[name]
    for key in SAME[name]:
        assert torch.equal(batch[key][0], batch[key][1]), key
    for key in {"expression": ["exp_3dmm"], "pose": ["pose"], "light": ["light"]}.get(
        name, ["exp_3dmm", "pose", "light"]
    ):
        assert not torch.equal(batch[key][0], batch[key][1]), key


def test_a_sample_does_not_depend_on_its_neighbours(wild):
    together = wild.batch([5, 2, 9])
    alone = WildFaces(make_analytic_face(1500), size=32).batch([2])
    for name, value in alone.items():
        assert torch.equal(value[0], together[name][1]), name


def test_the_target_is_the_sum_of_its_parts(pairs):
    for batch in pairs.values():
        mask = batch["mask"]
        face = (batch["albedo"] * batch["shading"]).clamp(0, 1)
        torch.testing.assert_close(batch["image"], mask * face + (1 - mask) * batch["background"])
        shading = harmonics.shading(batch["normal"], batch["light"]) * (mask > 0)
        torch.testing.assert_close(batch["shading"], shading)
        assert batch["input"].min() >= 0 and batch["input"].max() <= 1


def test_frontal_maps_belong_to_near_frontal_faces(wild):
    batch = wild.batch(range(12))
    frontal = batch["valid"][:, VALID.index("frontal")]
    assert torch.equal(frontal, batch["near_frontal"])
    drawn = batch["frontal_mask"].flatten(1).amax(1) > 0
    assert torch.equal(drawn, frontal)
    assert 0 < frontal.sum() < 12


def test_without_hair_and_lens_the_face_is_the_generated_one(wild):
    """Normals and mask are those of the renderer of plain pictures."""
    person, picture, differs = wild.draw_one(0)
    bare = dataclasses.replace(
        picture, hair=None, hat=None, glasses=None, lens=Lens(), collar=(400.0, 1.0, np.ones(3))
    )
    batch = wild.render_picture(person, bare, differs)
    pose = scenes.angles_to_rotation(torch.from_numpy(picture.angles)[None])
    vertices = wild.face_model.vertices(batch["id_3dmm"], batch["exp_3dmm"])
    skin = wild.find_person(person)[0].skin
    plain = wild.renderer.draw(vertices, [pose], skin, batch["light"])[0]
    assert (plain.mask - batch["mask"]).abs().mean() < 2e-3
    both = (plain.mask == 1) & (batch["mask"] == 1)
    cosine = (plain.normal * batch["normal"]).sum(1, keepdim=True)[both]
    assert (cosine > 0.995).float().mean() > 0.99


def test_hair_lies_outside_of_the_head_and_ends_at_its_edge():
    face = make_analytic_face(1500)
    surface = props.find_surface(face)
    points = face.mean.double().numpy()
    hair = props.Hair(40, -20, -60, 0, 50, 12, np.zeros((1, 4)), np.full(3, 0.2), 0.1)
    grid = props.make_hair(surface, points, hair, 0).points.reshape(props.COLUMNS, props.ROWS, 3)
    middle = np.array([0.0, 38.0, -42.0])
    base = np.linalg.norm(points[surface] - middle, axis=2)
    crown = np.linalg.norm(grid[:, 0] - middle, axis=1)
    np.testing.assert_allclose(crown, base[:, 0] + 12, atol=1e-9)
    heights = grid[:, -1, 1] - middle[1]
    np.testing.assert_allclose(heights[0], 40, atol=1.5)
    np.testing.assert_allclose(heights[props.COLUMNS // 2], -60, atol=1.5)
    np.testing.assert_allclose(heights[props.COLUMNS // 4], -20, atol=1.5)


def test_a_wall_casts_its_shadow_away_from_the_lamp():
    """A wall 6 pixels high, the lamp at 45 degrees from the left: a shadow on the right."""
    depth = torch.zeros(1, 1, 64, 64)
    depth[..., 20:22] = 6
    lit = cast_shadows(depth, torch.tensor([-1.0, 0.0, 1.0]) / 2**0.5)[0, 0, 32]
    assert (lit[:19] == 1).all()
    assert (lit[22:25] < 0.3).all()
    assert (lit[32:] == 1).all()
    from_front = cast_shadows(depth, torch.tensor([0.0, 0.0, 1.0]))
    assert torch.equal(from_front, torch.ones_like(depth))


def test_a_soft_light_is_the_harmonics():
    normal = torch.nn.functional.normalize(torch.randn(1, 3, 8, 8), dim=1)
    layer = Layer(torch.ones(1, 1, 8, 8), normal, torch.rand(1, 3, 8, 8))
    light = scenes.project_lamps([scenes.make_fixed_lamps(3)])
    soft = harmonics.shading(normal, light)
    lamp = HardLight(torch.eye(3)[:2], torch.ones(2, 3), torch.ones(3), 0.0, 0.0, 10.0)
    shaded = shade_hard(layer, torch.zeros(1, 1, 8, 8), lamp, soft)
    torch.testing.assert_close(shaded, layer.albedo * soft)
    hard = dataclasses.replace(lamp, hardness=1.0, ambient=torch.full((3,), 0.25))
    up_to = shade_hard(layer, torch.ones(1, 1, 8, 8), hard, soft)
    lamps = normal[:, 0].clamp_min(0) + normal[:, 1].clamp_min(0) + 0.25
    torch.testing.assert_close(up_to, layer.albedo * lamps[:, None])


def test_a_far_camera_is_orthographic_and_a_near_one_enlarges_what_is_near():
    points = torch.tensor([[[30.0, 40.0, 50.0], [30.0, 40.0, -50.0]]])
    far = Lens().project(points, (0.0, 8.0))
    torch.testing.assert_close(far, points, rtol=0, atol=0.05)
    near = Lens(500.0, 1.1, (2.0, -3.0)).project(points, (0.0, 8.0))
    for k, z in ((0, 50.0), (1, -50.0)):
        scale = 1.1 * 500 / (500 - z)
        wanted = torch.tensor([30 * scale + 2, 32 * scale + 8 - 3, z])
        torch.testing.assert_close(near[0, k], wanted)


def test_degradations():
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(degrade(image, Degradation()), image)
    grey = degrade(image, Degradation(saturation=0.0, noise=0.05, seed=3))
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    framed = degrade(image, Degradation(margins=(3, 0, 0, 2), black=True))
    assert framed[..., :3].abs().max() == 0 and framed[:, :, -2:].abs().max() == 0
    assert torch.equal(framed[:, :, :-2, 3:], image[:, :, :-2, 3:])
    repeated = degrade(image, Degradation(margins=(3, 0, 0, 0)))
    assert torch.equal(repeated[..., 0], image[..., 3])
    packed = degrade(image, Degradation(quality=60))
    assert 0 < (packed - image).abs().mean() < 0.2
    blurred = degrade(image, Degradation(blur=0.25))
    assert blurred.std() < 0.7 * image.std()
    dark = degrade(image, Degradation(gamma=2.0, exposure=0.5))
    torch.testing.assert_close(dark, (0.5 * image) ** 2)


def test_backdrops_differ_and_lie_in_range():
    first, second = draw_backdrop(1, 24), draw_backdrop(2, 24)
    assert first.shape == (3, 24, 24) and not np.array_equal(first, second)
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, draw_backdrop(1, 24))


def test_the_other_world_has_lamps_and_cameras_that_training_never_has():
    assert worlds.OTHER.distance[1] <= worlds.TRAINING.distance[0]
    assert set(worlds.OTHER.hair) - set(worlds.TRAINING.hair)
    hues, tones = (worlds.draw_person(w, 7) for w in (worlds.OTHER, worlds.TRAINING))
    assert not torch.equal(hues.skin.skin, tones.skin.skin)
    again = worlds.draw_person(worlds.OTHER, 7)
    assert torch.equal(hues.patches.colour, again.patches.colour)


def test_labelled_faces_are_a_grid_of_persons_and_expressions():
    face = make_analytic_face(1500)
    faces = LabelledFaces(face, "test", 16, world=worlds.OTHER)
    count = len(face.basic_names) - 1
    rows = [faces.draw_one(k) for k in range(3 * count)]
    wanted = [faces.persons[k // count] for k in range(len(rows))]
    assert [person for person, _, _ in rows] == wanted
    neutral = face.basic_names.index("neutral")
    seen = {picture.label for _, picture, _ in rows}
    assert seen == set(range(count + 1)) - {neutral}
    lights = {faces.draw_one(k)[1].light_bin for k in range(80)}
    assert lights == set(range(9))


def test_a_rendered_set_is_read_back_and_goes_on(tmp_path):
    from ntensor.faces.data import render

    given = {"variation": "wild", "size": 16, "face_model": "analytic", "batch_size": 2}
    render(tmp_path / "set", 4, shard_size=2, **given)
    render(tmp_path / "set", 6, shard_size=2, **given)
    render(tmp_path / "whole", 6, shard_size=2, **given)
    parts, whole = (StoredFaces(tmp_path / name).batch(range(6)) for name in ("set", "whole"))
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    direct = WildFaces(make_analytic_face(), size=16).batch(range(6))
    torch.testing.assert_close(parts["input"], direct["input"], rtol=0, atol=0.5 / 255 + 1e-6)
    assert torch.equal(parts["differs"], direct["differs"])
    assert torch.equal(parts["near_frontal"], direct["near_frontal"])


def test_another_world_is_one_of_wild_faces(tmp_path):
    from ntensor.faces.common.errors import ConfigurationError
    from ntensor.faces.data import render

    with pytest.raises(ConfigurationError, match="world other needs variation wild"):
        render(tmp_path / "set", 2, world="other")
    assert not (tmp_path / "set").exists()
