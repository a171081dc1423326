"""The page in a browser, which must ask nothing of any other machine."""

import json
import shutil
import signal
import subprocess
import sys
import time
from urllib.parse import urlparse

import pytest
import torch
from PIL import Image

from demo_runs import free_port, pictures_in
from ntensor.faces.editing.session import Session
from ntensor.faces.page.parts import MAPS, SLIDERS, to_pixels

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
def page(demo_run):
    """The command's process and the page in Chromium."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'ntensor[demo]'")
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser needs selenium")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in programs.items():
        if path is None:
            pytest.skip(f"no {name} on PATH: apt-get install chromium chromium-driver")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(demo_run), "--port", str(port)],
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
    first, second = (shown.fix_face(shown.choose_face(number).image) for number in (4, 5))
    session = Session(first, second, shown.leak)
    wanted = torch.from_numpy(to_pixels(session.decode(weights)["image"][0])).int()
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
