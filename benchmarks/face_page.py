"""Time from a slider's movement to the new picture on the page, in a headless browser.

    python benchmarks/face_page.py build/tiny [--moves 30] [--screenshot page.png] [--out FOLDER]

Serves the run by `python -m ntensor.faces.demo` and opens the page in Chromium (`apt-get install
chromium chromium-driver`, `pip install selenium`). A time is measured inside the page: from the
event that a moved slider sends to the changed picture, decoded. Page, browser and
network share this machine's cores. Writes `face_page.csv`, one row a slider.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from harness.files import write_table
from harness.machine import describe
from harness.options import add_out

SLIDERS = ("identity", "expression", "pose", "light")
# Sends a slider's events; answers in milliseconds, once the changed picture is shown.
MOVE = """
const [slider, value, done] = arguments, begin = performance.now();
const range = document.querySelector(`#${slider} input[type=range]`);
const shown = () => document.querySelector('#edited-face img');
const before = shown().src;
const watch = new MutationObserver(async () => {
  const image = shown();
  if (!image || image.src === before) return;
  watch.disconnect();
  await image.decode().catch(() => 0);
  done(performance.now() - begin);
});
watch.observe(document.body, {subtree: true, childList: true, attributes: true});
range.value = value;
range.dispatchEvent(new Event('input', {bubbles: true}));
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder that training wrote")
    parser.add_argument("--moves", type=int, default=30, help="of each slider")
    parser.add_argument("--screenshot", type=Path, help="a PNG of the page as it is at the end")
    add_out(parser)
    return parser.parse_args()


def browser() -> Any:
    """Chromium without a window."""
    try:
        from selenium import webdriver
    except ImportError as error:
        raise SystemExit("error: this needs selenium: pip install selenium") from error
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        raise SystemExit("error: no chromium on PATH: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("headless=new", "no-sandbox", "no-proxy-server", "window-size=1280,1400"):
        options.add_argument(f"--{argument}")
    return webdriver.Chrome(options, webdriver.ChromeService(programs[1]))


def moved(page: Any, moves: int) -> dict[str, list[float]]:
    """Milliseconds of each slider's moves, the sliders in turn; the first round is left out."""
    found: dict[str, list[float]] = {slider: [] for slider in SLIDERS}
    for number in range(moves + 1):
        # No value comes twice in a row, so that every move changes the picture.
        value = str(round(0.1 + 0.37 * number % 0.8, 2))
        for slider, times in found.items():
            took = page.execute_async_script(MOVE, slider, value)
            if number:
                times.append(took)
    return found


def main() -> None:
    options = parse()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "ntensor.faces.demo", str(options.run), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    page = None
    try:
        if "Ctrl-C ends it" not in (server.stdout.readline() if server.stdout else ""):
            raise SystemExit("error: the page was not served")
        page = browser()
        page.set_script_timeout(30)
        page.get(f"http://127.0.0.1:{port}")
        end = time.monotonic() + 60
        while not page.find_elements("css selector", "#edited-face img"):
            if time.monotonic() > end:
                raise SystemExit("error: the page showed no face within a minute")
            time.sleep(0.05)
        found = moved(page, options.moves)
        if options.screenshot is not None:
            page.save_screenshot(str(options.screenshot))
    finally:
        if page is not None:
            page.quit()
        server.terminate()
        server.wait()
    machine = describe(torch.get_num_threads(), torch.device("cpu"))
    rows = []
    for slider, times in found.items():
        cuts = statistics.quantiles(times, n=10, method="inclusive")
        row = {"slider": slider, "moves": len(times), "median_ms": statistics.median(times)}
        row |= {"p90_ms": cuts[-1], "slowest_ms": max(times)}
        row = {name: round(x, 1) if isinstance(x, float) else x for name, x in row.items()}
        print("{slider:12} median {median_ms} ms, p90 {p90_ms}, slowest {slowest_ms}".format(**row))
        rows.append(row | {"run": options.run.name})
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "face_page.csv"
    write_table(path, rows, machine)
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
