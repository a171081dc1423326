"""The page to try a run: what it shows without a browser, and the page itself in one."""

import base64
import dataclasses
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from ntensor.faces import demo, editing
from ntensor.faces.configuration import Configuration, fitted, to_json
from ntensor.faces.data import render
from ntensor.faces.demo_parts import MAPS, SIDES, SLIDERS, START, Demo, pixels, texture_places
from ntensor.faces.editing.session import Session
from ntensor.faces.errors import ConfigurationError, ImageError
from ntensor.faces.media.inputs import Face
from ntensor.faces.media.sheet import as_colours
from ntensor.faces.networks.model import build
from ntensor.faces.presets import tiny
from ntensor.faces.training import checkpoint

MIXED = {"identity": 0.3, "expression": 1.2, "pose": 0.4, "light": 0.7}


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
    configuration = fitted(configuration, sizes)
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


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def shown(run):
    return Demo(run)


@pytest.fixture
def session(shown):
    return shown.start()[0]


def pictures_in(text):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return [torch.from_numpy(pixels_of(base64.b64decode(data))) for data in found]


def pixels_of(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


@pytest.mark.parametrize("weights", [{}, {"light": 1.0}, {"identity": 1.5}, MIXED])
def test_session_decodes_the_mixed_codes(session, weights):
    every = dict.fromkeys(SLIDERS, 0.0) | weights
    session = Session(session.first, session.second)
    codes = editing.blend(session.first.encoded, session.second.encoded, every, project=True)
    wanted = editing.decode(session.model, codes, mask="normals")
    found = session.decode(weights)
    assert set(found) == set(wanted)
    # Background and mask's codes are the first face's, whose decoding is kept.
    for name, value in found.items():
        # Sums round by the size of their largest terms, not of what they cancel to.
        atol = 1e-5 * max(1.0, float(wanted[name].abs().max()))
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=atol, msg=name)


def test_faces_differ_by_each_code(session):
    first = session.decode({})
    for edit in SLIDERS:
        assert (session.decode({edit: 1.0})["image"] - first["image"]).abs().max() > 0.02, edit


def test_a_new_light_decodes_no_surface(session):
    calls = []
    handle = session.model.normal.register_forward_hook(lambda *_: calls.append(1))
    session.decode({"pose": 0.5})
    session.decode({"pose": 0.5, "light": 1.0})
    assert len(calls) == 1
    session.decode({"pose": 0.6, "light": 1.0})
    assert len(calls) == 2
    handle.remove()


def test_session_with_another_second_face(shown, session):
    third = shown.fixed(shown.face(3).image)
    other = session.replaced("second", third)
    assert other.first is session.first
    torch.testing.assert_close(
        other.decode({"light": 1})["light"], Session(third, third).decode({})["light"]
    )
    with pytest.raises(ConfigurationError, match="two models"):
        Session(
            session.first, editing.FixedFace(build(shown.run.configuration.model), third.encoded)
        )


def test_the_identity_follows_the_pose_where_training_did_not_separate_them(shown, monkeypatch):
    configuration = shown.run.configuration
    for weight in (0.0, 0.5):
        losses = dataclasses.replace(configuration.losses, independence=weight)
        changed = dataclasses.replace(configuration, losses=losses)
        monkeypatch.setattr(shown.run, "configuration", changed)
        assert (shown.leak is None) == (weight > 0)
        assert (shown.start()[0].leak is None) == (weight > 0)


def test_html_holds_the_decodings(shown, session):
    large, row = shown.edited(session, MIXED)
    maps = session.decode(MIXED)
    assert torch.equal(pictures_in(large)[0], torch.from_numpy(pixels(maps["image"][0])))
    found = pictures_in(row)
    assert len(found) == len(MAPS)
    for picture, (name, title) in zip(found, MAPS.items(), strict=True):
        assert torch.equal(picture, torch.from_numpy(pixels(as_colours(name, maps[name])[0])))
        assert f"<figcaption>{title}</figcaption>" in row


def test_first_and_second_face_are_shown(shown):
    session, sides = shown.start()
    for side, number in zip(SIDES, START, strict=True):
        picture, row = sides[side]
        image = shown.face(number).image
        assert torch.equal(pictures_in(picture)[0], torch.from_numpy(pixels(image)))
        own = editing.decode(session.model, shown.run.encode([Face("", image)]))
        assert torch.equal(pictures_in(row)[0], torch.from_numpy(pixels(own["image"][0])))


def test_offered_faces_are_of_unseen_persons(shown):
    first, second = shown.offered(0), shown.offered(1)
    assert len(first) == len(second) == 12
    assert len({picture.tobytes() for picture in first + second}) == 24
    assert shown.face(3).name.startswith("generated:test:3:")
    assert "generated faces alone (analytic face, 1000 vertices)" in shown.sentence


def test_upload_takes_the_middle_square(shown, tmp_path):
    picture = Image.new("RGB", (90, 40), (255, 0, 0))
    picture.paste((0, 255, 0), (25, 0, 65, 40))
    picture.save(tmp_path / "face.jpg", quality=95)
    found = shown.uploaded(tmp_path / "face.jpg")
    assert found.shape == (3, 16, 16)
    # The outermost columns take a little of what lies outside.
    assert found[1, :, 1:-1].min() > 0.9 and found[0, :, 1:-1].max() < 0.1


def test_bad_uploads_are_explained(shown, tmp_path):
    def refused(name, message):
        with pytest.raises(ImageError, match=message) as caught:
            shown.uploaded(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)

    (tmp_path / "text.png").write_text("no picture")
    refused("text.png", r"^text.png: not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    refused("empty.png", r"^empty.png: not a picture")
    Image.new("RGB", (3, 3)).save(tmp_path / "small.png")
    refused("small.png", r"^small.png: wanted at least")
    Image.new("1", (8000, 6000)).save(tmp_path / "huge.png")
    refused("huge.png", r"^huge.png: wanted at most 40 million pixels, got 8000 x 6000")


def test_mesh_is_the_shape_with_the_frontal_image(shown, session):
    found = trimesh.load(io.BytesIO(shown.mesh(session, MIXED)), file_type="glb", force="mesh")
    maps = session.decode(MIXED)
    vertices = editing.vertices_of_stream(session.model, maps)[0]
    torch.testing.assert_close(
        torch.from_numpy(found.vertices).float(), 1e-3 * vertices, rtol=1e-4, atol=1e-5
    )
    assert found.faces.tolist() == shown.face_model.shape_triangles().tolist()
    texture = found.visual.material.baseColorTexture
    assert texture.tobytes() == pixels(maps["frontal_image"][0]).tobytes()


def test_places_in_the_texture(shown):
    face = shown.run.inputs.generated("test", "0")
    truth = shown.face_model
    vertices = truth.vertices(face.truth["id_3dmm"], face.truth["exp_3dmm"])[0, truth.landmarks68]
    places = texture_places(vertices)
    seen = torch.stack([places[:, 0], 1 - places[:, 1]], 1) * 16 - 0.5
    assert (seen - face.landmarks).abs().max() < 0.05 * 8 + 1e-3


def test_run_on_a_data_set_of_another_shape(tmp_path):
    render(tmp_path / "set", 5, size=16, face_model="analytic")
    (tmp_path / "run").mkdir()
    folder = str(tmp_path / "set")
    found = Demo(write_run(tmp_path / "run", {"source": folder, "validation_source": folder}))
    assert found.sentence == f"Trained with 3 updates on the data set {folder}."
    assert len({picture.tobytes() for picture in found.offered(0)}) == 5
    session, _ = found.start()
    with pytest.raises(ConfigurationError, match=r"3000 coordinates, .* has 18000"):
        found.mesh(session, {})


def test_command_fails_with_a_sentence(run, tmp_path, monkeypatch, capsys):
    def refused(message, *arguments):
        with pytest.raises(SystemExit, match=f"^error: {message}"):
            demo.main(list(arguments))

    refused(r".*got no checkpoint", str(tmp_path / "nothing"))
    refused(r"port must be 1 to 65535, got 70000", str(run), "--port", "70000")
    (tmp_path / "plain").mkdir()
    plain = write_run(tmp_path / "plain", network="intrinsic")
    refused(r"identity needs a network with the code z_id", str(plain))
    monkeypatch.setitem(sys.modules, "gradio", None)
    refused(r".*needs the package gradio: run pip install 'ntensor\[demo\]'", str(run))
    with pytest.raises(SystemExit, match="0"):
        demo.main(["--help"])
    assert "--port 8080" in capsys.readouterr().out


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_taken_port(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=rf"^error: port {port} cannot be used \(Address"):
            demo.main([str(run), "--port", str(port)])


# The command in a process that prints every address outside of this machine that it asks for.
SERVER = """
import signal, socket, sys
from ntensor.faces.demo import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
def watch(name, host_of):
    original = getattr(socket.socket, name, None) or getattr(socket, name)
    def watched(*arguments, **options):
        host = host_of(arguments)
        if host not in ("127.0.0.1", "localhost", "::1", None, ""):
            print("OUTSIDE", name, host, flush=True)
        return original(*arguments, **options)
    setattr(socket.socket if hasattr(socket.socket, name) else socket, name, watched)
address = lambda arguments: arguments[1][0] if isinstance(arguments[1], tuple) else None
watch("connect", address)
watch("connect_ex", address)
watch("getaddrinfo", lambda arguments: arguments[0])
main(sys.argv[1:])
"""


@pytest.fixture
def page(run, tmp_path):
    """The command's process and the page in Chromium."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'ntensor[demo]'")
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser needs selenium")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in programs.items():
        if path is None:
            pytest.skip(f"no {name} on PATH: apt-get install chromium chromium-driver")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(run), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "no-proxy-server"):
        options.add_argument(f"--{argument}")
    options.add_argument("--window-size=1280,1400")
    options.add_argument("--use-angle=swiftshader")
    options.add_argument("--enable-unsafe-swiftshader")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    service = webdriver.ChromeService(programs["chromedriver"])
    browser = webdriver.Chrome(options, service)
    try:
        assert "Ctrl-C ends it" in process.stdout.readline()
        browser.get(f"http://127.0.0.1:{port}")
        yield process, browser
    finally:
        browser.quit()
        process.kill()
        process.wait()


def eventually(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the page did not come to it"
        time.sleep(0.02)
    return found


def test_page_in_a_browser(page, shown, tmp_path):
    process, browser = page

    def picture(part):
        return browser.execute_script(
            "return document.querySelector(arguments[0])?.src", f"#{part} img"
        )

    def move(slider, value):
        browser.execute_script(
            "const s = document.querySelector(arguments[0]); s.value = arguments[1];"
            "s.dispatchEvent(new Event('input', {bubbles: true}));"
            "s.dispatchEvent(new Event('pointerup', {bubbles: true}));",
            f"#{slider} input[type=range]",
            value,
        )

    start = eventually(lambda: picture("edited-face"))
    titles = browser.execute_script(
        "return [...document.querySelectorAll('#edited-maps figcaption')].map(e => e.innerText)"
    )
    assert titles == list(MAPS.values())

    before = picture("first-face")
    browser.find_elements("css selector", "#first-offered button.thumbnail-item")[4].click()
    eventually(lambda: picture("first-face") != before)
    chosen = eventually(
        lambda: picture("edited-face") not in (start, None) and picture("edited-face")
    )
    before = picture("second-face")
    browser.find_elements("css selector", "#second-offered button.thumbnail-item")[5].click()
    eventually(lambda: picture("second-face") != before)
    for slider in SLIDERS:
        before = picture("edited-face")
        move(slider, "0.8")
        eventually(lambda before=before: picture("edited-face") != before)
    assert picture("edited-face") != chosen
    # A slider that is dragged ends at its last value.
    for step in range(20):
        move("light", str(step / 20))
    weights = dict.fromkeys(SLIDERS, 0.8) | {"light": 0.95}
    first, second = (shown.fixed(shown.face(number).image) for number in (4, 5))
    session = Session(first, second, shown.leak)
    wanted = torch.from_numpy(pixels(session.decode(weights)["image"][0])).int()
    eventually(
        lambda: (pictures_in(f'src="{picture("edited-face")}"')[0] - wanted).abs().max() <= 1
    )

    (tmp_path / "broken.png").write_text("no picture")
    upload = browser.find_elements("css selector", "input[type=file]")[0]
    upload.send_keys(str(tmp_path / "broken.png"))
    eventually(
        lambda: "broken.png: not a picture" in browser.find_element("css selector", "body").text
    )
    before = picture("first-face")
    Image.new("RGB", (50, 40), (90, 160, 30)).save(tmp_path / "good.png")
    upload.send_keys(str(tmp_path / "good.png"))
    eventually(lambda: picture("first-face") != before)

    tabs = browser.find_elements("css selector", "button[role=tab]")
    next(tab for tab in tabs if tab.text == "3D shape").click()
    asked = set()

    def asked_for_the_shape():
        for entry in browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.add(message["params"]["request"]["url"])
        return any(url.endswith(".glb") for url in asked)

    eventually(lambda: browser.find_elements("css selector", "#shape canvas"))
    eventually(asked_for_the_shape)
    assert {urlparse(url).hostname for url in asked} <= {"127.0.0.1", None}
    # The browser keeps no face.
    kept = browser.execute_script("return Object.keys({...localStorage, ...sessionStorage})")
    assert not [name for name in kept if "history" in name]

    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert rest.strip() == "ended"
