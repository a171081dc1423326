"""Edits of codes: what changes, what stays, and the short path beside the long one."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from batches import small_configuration
from ntensor.faces import editing
from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.editing import FixedFace
from ntensor.faces.editing.session import Session
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.networks.model import build
from ntensor.faces.rendering import harmonics

CHANGED_BY = {
    "expression": {"image", "normal", "albedo", "shading", "shape", "frontal_image",
                   "frontal_normal", "exp_3dmm"},
    "pose": {"image", "normal", "albedo", "shading"},
    "identity": {"image", "normal", "albedo", "shading", "shape", "frontal_image",
                 "frontal_normal", "id_3dmm"},
    "light": {"image", "shading", "light", "frontal_image"},
}  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["unpooling", "subpixel"])
def model(request):
    torch.manual_seed(1)
    decoders = {"unpooling": request.param, "subpixel": not request.param}
    made = build(small_configuration(model=decoders).model).eval()
    # Larger codes than at the start of training, so that every edit shows.
    with torch.no_grad():
        for head in made.encoder.heads.values():
            head.weight.mul_(4)
        made.albedo.last.weight.mul_(5)
        made.light.linear.weight.mul_(10)
    return made


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def faces(model, images):
    return editing.encode(model, images)


def network(name, **entries):
    return build(small_configuration(model={"network": name, **entries}).model)


def transfer(edit):
    return getattr(editing, f"transfer_{edit}")


@pytest.mark.parametrize("edit", editing.CODES)
def test_own_codes_give_the_reconstruction(model, images, faces, edit):
    wanted = model(images)
    found = transfer(edit)(model, faces, faces)
    assert_close(found["image"], wanted["image"], rtol=0, atol=0)
    if edit != "light":
        # Colours of the frontal view, which the network does not bound, are bounded for a user.
        wanted["frontal_image"] = wanted["frontal_image"].clamp(0, 1)
        for name in ("shape", "frontal_image", "frontal_normal", "exp_3dmm"):
            assert_close(found[name], wanted[name], rtol=0, atol=0)


@pytest.mark.parametrize("edit", editing.CODES)
def test_an_edit_changes_what_depends_on_its_code_and_nothing_else(model, faces, edit):
    target, source = faces[:2], faces[2:4]
    name = editing.CODES[edit]
    swapped = target.replace({name: source.codes[name]})
    found, before = editing.decode(model, swapped), editing.decode(model, target)
    changed = {key for key in found if not torch.equal(found[key], before[key]) and key in before}
    assert changed == CHANGED_BY[edit]
    edited = transfer(edit)(model, target, source)
    for key in ("image", "normal", "albedo", "light", "mask", "background"):
        assert_close(edited[key], found[key])


def test_expression_transfer_is_the_multilinear_form(model, faces):
    target, source = faces[0], faces[1]
    found = editing.transfer_expression(model, target, source)
    z_exp, z_id, z_l = source.codes["z_exp"][0], target.codes["z_id"][0], target.codes["z_l"][0]
    shape_core = model.shape_stream.projection.core
    assert_close(found["shape"][0], torch.einsum("xei,e,i->x", shape_core, z_exp, z_id))
    core = model.frontal_stream.projection.core
    frontal = torch.einsum("xlei,l,e,i->x", core, z_l, z_exp, z_id)
    swapped = target.replace({"z_exp": source.codes["z_exp"]})
    assert_close(model.decode(swapped.codes, swapped.kept)["frontal_image"].flatten(), frontal)
    assert_close(found["frontal_image"].flatten(), frontal.clamp(0, 1))


def test_frontal_colours_are_bounded(model, faces):
    wild = faces.replace({"z_l": 100 * faces.codes["z_l"]})
    assert model.decode(wild.codes, wild.kept)["frontal_image"].abs().max() > 1
    fixed = editing.FixedFace(model, wild[0])
    weights = dict.fromkeys(editing.CODES, 0.5)
    for output in (
        editing.decode(model, wild),
        editing.decode(model, wild, mask="normals"),
        fixed.decode(),
        Session(fixed, fixed, None).decode(weights),
    ):
        assert output["frontal_image"].min() >= 0 and output["frontal_image"].max() <= 1


def test_one_face_for_many(model, faces):
    many = editing.transfer_expression(model, faces[0], faces)
    one = editing.transfer_expression(model, faces[0], faces[3])
    assert_close(many["image"][3], one["image"][0])
    turned = editing.transfer_pose(model, faces, faces[2])
    assert_close(turned["image"][1], editing.transfer_pose(model, faces[1], faces[2])["image"][0])
    with pytest.raises(ValueError, match="expected one picture or 5, got 2"):
        editing.transfer_expression(model, faces[:2], faces)


def test_light_is_source_light_on_target_normals_and_albedo(model, images, faces):
    target, source = faces[:2], faces[2:4]
    found = editing.transfer_light(model, target, source)
    own, other = model(images[:2]), model(images[2:4])
    shading = harmonics.shading(own["normal"], other["light"])
    assert_close(found["shading"], shading)
    assert_close(found["shading_target"], own["shading"])
    assert_close(found["shading_source"], other["shading"])
    wanted = own["mask"] * own["albedo"] * shading + (1 - own["mask"]) * own["background"]
    assert_close(found["image"], wanted)
    swapped = target.replace({"z_l": source.codes["z_l"]})
    assert_close(found["image"], editing.decode(model, swapped)["image"])


def test_light_of_the_network_after_30():
    other = network("intrinsic")
    faces = editing.encode(other, torch.rand(2, 3, 16, 16))
    found = editing.transfer_light(other, faces[0], faces[1])
    assert not torch.equal(found["shading"], found["shading_target"])
    assert_close(
        editing.transfer_light(other, faces, faces)["image"], editing.decode(other, faces)["image"]
    )


def test_projected_pose(model, faces):
    codes = editing.find_nearest_rotation(faces.codes["z_p"])
    found = editing.transfer_pose(model, faces[0], faces[1], project=True)
    wanted = faces[0].replace({"z_p": codes[1:2]})
    assert_close(found["image"], editing.decode(model, wanted)["image"])


@pytest.fixture
def leak():
    return torch.randn(9, 4, generator=torch.Generator().manual_seed(5))


def test_identity_follows_the_pose(model, faces, leak):
    target, source = faces[0], faces[1]
    change = (source.codes["z_p"] - target.codes["z_p"]) @ leak
    z_id = target.codes["z_id"] + change
    wanted = target.replace({"z_p": source.codes["z_p"], "z_id": z_id})
    found = editing.transfer_pose(model, target, source, leak=leak)
    assert_close(found["image"], editing.decode(model, wanted)["image"])
    # What is left of the source's identity once its pose is taken out, in the target's pose.
    wanted = target.replace({"z_id": source.codes["z_id"] - change})
    found = editing.transfer_identity(model, target, source, leak=leak)
    assert_close(found["image"], editing.decode(model, wanted)["image"])
    both = editing.transfer_identity(model, faces[:2], source, leak=leak)
    assert_close(both["image"][:1], found["image"])


def test_a_session_follows_the_pose(model, faces, leak):
    turned = faces.replace({"z_p": editing.find_nearest_rotation(faces.codes["z_p"])})
    session = Session(FixedFace(model, turned[0]), FixedFace(model, turned[1]), leak)
    for edit in ("pose", "identity"):
        wanted = transfer(edit)(model, turned[0], turned[1], mask="normals", leak=leak)
        assert_close(session.decode({edit: 1.0})["normal"], wanted["normal"])
    replaced = session.replace("second", FixedFace(model, faces[2]))
    assert replaced.leak is leak


def test_leak_is_the_slope_of_a_regression(generator):
    z_p, slope = torch.randn(200, 9, generator=generator), torch.randn(9, 4, generator=generator)
    noise = 0.01 * torch.randn(200, 4, generator=generator)
    found = editing.fit_pose_leak({"z_p": z_p + 3, "z_id": z_p @ slope + noise - 7})
    assert_close(found, slope, rtol=0, atol=0.02)
    with pytest.raises(ConfigurationError, match="got no z_p"):
        editing.fit_pose_leak({"z_id": slope})


def test_nearest_rotation(generator):
    z = torch.randn(20, 9, generator=generator, dtype=torch.double)
    found = editing.find_nearest_rotation(z).view(-1, 3, 3)
    identity = torch.eye(3, dtype=torch.double)
    assert_close(found.mT @ found, identity.expand_as(found))
    assert_close(torch.linalg.det(found), torch.ones(20, dtype=torch.double))
    assert_close(editing.find_nearest_rotation(found.flatten(1)), found.flatten(1))
    distance = (found - z.view(-1, 3, 3)).square().sum((1, 2))
    others = editing.find_nearest_rotation(
        torch.randn(500, 9, generator=generator, dtype=torch.double)
    )
    for k in range(20):
        assert distance[k] <= (others.view(-1, 3, 3) - z[k].view(3, 3)).square().sum((1, 2)).min()


def test_mask_of_the_normals(model, faces):
    output = editing.decode(model, faces)
    given = torch.zeros_like(output["normal"])
    given[:, 2, :, :8] = 0.9
    found = editing.codes.compose({**output, "normal": given}, "normals")
    face = output["albedo"] * output["shading"]
    assert_close(found["image"][..., :8], face[..., :8])
    assert_close(found["image"][..., 8:], output["background"][..., 8:])
    with pytest.raises(ValueError, match="mask must be"):
        editing.decode(model, faces, mask="none")


@pytest.mark.parametrize("edit", editing.CODES)
def test_interpolation_goes_from_the_face_to_its_transfer(model, faces, edit):
    first, second = faces[0], faces[1]
    found = editing.interpolate(model, first, second, edit)
    assert len(found["image"]) == 11
    assert_close(found["image"][0], editing.decode(model, first)["image"][0])
    assert_close(found["image"][10], transfer(edit)(model, first, second)["image"][0])
    assert_close(
        found["background"], editing.decode(model, first)["background"].expand(11, *[-1] * 3)
    )
    third = editing.blend(first, second, {edit: 0.3}).codes[editing.CODES[edit]]
    name = editing.CODES[edit]
    assert_close(third, 0.7 * first.codes[name] + 0.3 * second.codes[name])
    assert_close(
        found["image"][3],
        editing.decode(model, first.replace({name: third}))["image"][0],
    )


def test_blend_of_several_codes(faces):
    weights = {"expression": torch.tensor([0.0, 1.0]), "pose": 0.5}
    found = editing.blend(faces[0], faces[1], weights, project=True)
    assert len(found) == 2
    assert_close(found.codes["z_exp"], faces.codes["z_exp"][:2])
    assert_close(found.codes["z_id"], faces.codes["z_id"][:1].expand(2, -1))
    R = found.codes["z_p"].view(2, 3, 3)
    assert_close(R.mT @ R, torch.eye(3).expand(2, 3, 3), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="weights must be among expression, pose, light, identity"):
        editing.blend(faces[0], faces[1], {"smile": 1.0})


def test_fixed_identity_equals_the_whole_network(model, faces):
    fixed = editing.FixedFace(model, faces[0])
    codes = {name: faces.codes[name] for name in ("z_exp", "z_p", "z_l")}
    found = fixed.decode(**codes)
    wanted = editing.decode(model, faces[0].expand(5).replace(codes))
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert_close(found[name], wanted[name], msg=lambda text, name=name: f"{name}: {text}")
    own = fixed.decode(streams=False)
    assert_close(own["image"], editing.decode(model, faces[0])["image"])
    assert "shape" not in own
    with pytest.raises(ValueError, match="expected one face, got 5"):
        editing.FixedFace(model, faces)
    with pytest.raises(ConfigurationError, match='needs a network "neuro-tensorial"'):
        editing.FixedFace(network("intrinsic"), faces[0])


@pytest.mark.parametrize(
    ("name", "entries", "edit", "code"),
    [
        ("intrinsic", {}, "expression", "z_exp"),
        ("intrinsic", {}, "pose", "z_p"),
        ("plain", {}, "identity", "z_id"),
        ("plain", {}, "light", "z_l"),
        ("proof-of-concept", {"rotation": "off"}, "pose", "z_p"),
        ("proof-of-concept", {}, "light", "z_l"),
    ],
)
def test_networks_without_the_code_are_refused(name, entries, edit, code):
    made = network(name, **entries)
    faces = editing.encode(made, torch.rand(2, 3, 16, 16))
    with pytest.raises(ConfigurationError, match=f"{edit} needs a network with the code {code}"):
        transfer(edit)(made, faces[0], faces[1])


@pytest.mark.parametrize("rotation", ["off", "column"])
def test_proof_of_concept(rotation):
    made = network("proof-of-concept", rotation=rotation)
    images = torch.rand(2, 3, 16, 16)
    faces = editing.encode(made, images)
    assert_close(editing.transfer_expression(made, faces, faces)["image"], made(images)["image"])
    found = editing.transfer_expression(made, faces[0], faces[1])
    z_exp, z_id = faces[1].codes["z_exp"], faces[0].codes["z_id"]
    wanted = made.decoder(made.feature(z_exp, z_id, faces[0].codes.get("z_p")))
    assert_close(found["image"], wanted)
    assert_close(found["texture"], made(images)["texture"][:1])
    if rotation == "column":
        assert editing.transfer_pose(made, faces[0], faces[1])["image"].shape == (1, 3, 16, 16)


def test_encode_and_replace_check_shapes(model, faces):
    with pytest.raises(ValueError, match=r"\(n, 3, 16, 16\), got \(1, 3, 64, 64\)"):
        editing.encode(model, torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"expected codes of .*, got z_n"):
        faces.replace({"z_n": torch.zeros(5, 2)})
    with pytest.raises(ValueError, match=r"z_exp must have shape \(5, 3\)"):
        faces.replace({"z_exp": torch.zeros(1, 3)})


def test_reconstruction_takes_the_standardisation_back():
    face = make_analytic_face(1000)
    base = small_configuration().model
    sizes = {"k_3d": face.shape_size, "exp_3dmm": face.expression_size}
    made = build(dataclasses.replace(base, **sizes, id_3dmm=face.identity_size))
    x_id, x_exp = torch.randn(2, face.identity_size), torch.rand(2, face.expression_size)
    shape = face.shape(face.vertices(x_id, x_exp))
    statistics = {
        "shape": (shape.mean(0), torch.full((face.shape_size,), 3.0)),
        "id_3dmm": (x_id.mean(0), torch.full_like(x_id[0], 0.9)),
        "exp_3dmm": (x_exp.mean(0), torch.full_like(x_exp[0], 0.2)),
    }
    made.statistics.set(statistics)
    targets = {"shape": shape, "id_3dmm": x_id, "exp_3dmm": x_exp}
    output = {name: made.statistics.standardise(name, x) for name, x in targets.items()}
    truth = face.vertices(x_id, x_exp)
    tolerance = {"rtol": 1e-5, "atol": 1e-3}
    assert_close(editing.restore_vertices(made, output), truth, **tolerance)
    assert_close(editing.build_vertices(made, output, face), truth, **tolerance)
    assert editing.measure_shape_error(truth + torch.tensor([0.0, 3.0, 4.0]), truth).tolist() == (
        pytest.approx([5.0, 5.0], abs=1e-4)
    )
    cut = dataclasses.replace(face, identity_modes=face.identity_modes[:9])
    with pytest.raises(ConfigurationError, match=r"predicts 30 identity .* has 9 and 16"):
        editing.build_vertices(made, output, cut)
    with pytest.raises(ConfigurationError, match='"plain" does not provide a shape'):
        editing.restore_vertices(network("plain"), {})


def test_frontal_normals_are_unit_or_nothing():
    normal = torch.zeros(1, 3, 1, 2)
    normal[0, :, 0, 0], normal[0, :, 0, 1] = torch.tensor([0.0, 0.6, 0.8]) * 0.8, 0.1
    found = editing.collect_frontal_maps({"frontal_normal": normal, "image": normal})
    assert set(found) == {"frontal_normal"}
    assert_close(found["frontal_normal"][0, :, 0], torch.tensor([[0.0, 0], [0.6, 0], [0.8, 0]]))
