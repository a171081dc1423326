"""The page's folder, and what it does for its sessions."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading

import pytest
from PIL import Image

from demo_runs import pictures_in
from ntensor.faces.common.errors import ImageError, PageError
from ntensor.faces.page import folder as folders
from ntensor.faces.page.folder import PREFIX, Folder
from ntensor.faces.page.parts import OFFERED, SIDES
from ntensor.faces.page.visitors import Visitors

NOTHING = (0.0, 0.0, 0.0, 0.0)

PAGE = """
import sys, tempfile
from ntensor.faces.page.folder import Folder
tempfile.tempdir = sys.argv[1]
with Folder() as folder:
    (folder.files / "face.png").write_bytes(b"face")
    print(folder.path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def visitors(shown, place):
    with Folder() as folder:
        yield Visitors(shown, folder, most=2)


def test_folder_is_private_and_removed(place):
    with pytest.raises(KeyboardInterrupt), Folder() as folder:
        (folder.files / "face.png").write_bytes(b"face")
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        raise KeyboardInterrupt
    assert list(place.iterdir()) == []


def test_what_a_killed_page_left_is_removed(place):
    pages = [
        subprocess.Popen(
            [sys.executable, "-c", PAGE, str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        killed, running = (page.stdout.readline().strip() for page in pages)
        pages[0].send_signal(signal.SIGKILL)
        pages[0].wait()
        assert os.path.exists(killed)
        with Folder():
            assert not os.path.exists(killed)
            assert os.path.exists(os.path.join(running, "files", "face.png"))
    finally:
        for page in pages:
            page.kill()
            page.communicate()


def test_what_is_not_ones_own_is_left(place, monkeypatch):
    (place / "mine").mkdir()
    (place / "mine" / "kept").write_text("kept")
    (place / f"{PREFIX}link").symlink_to(place / "mine")
    (place / f"{PREFIX}file").write_text("kept")
    (place / f"{PREFIX}other").mkdir()
    (place / f"{PREFIX}left").mkdir()
    other = (place / f"{PREFIX}other").lstat().st_ino
    original = os.getuid()
    monkeypatch.setattr(folders.os, "getuid", lambda: original)

    class Status:
        def __init__(self, status):
            self.status = status

        def __getattr__(self, name):
            if name == "st_uid" and self.status.st_ino == other:
                return original + 1
            return getattr(self.status, name)

    lstat = type(place).lstat
    monkeypatch.setattr(type(place), "lstat", lambda self: Status(lstat(self)))
    with Folder():
        names = {path.name for path in place.iterdir()}
    assert names >= {"mine", f"{PREFIX}link", f"{PREFIX}file", f"{PREFIX}other"}
    assert f"{PREFIX}left" not in names
    assert (place / "mine" / "kept").exists()


def test_room_is_made_by_the_oldest_files(place):
    with Folder(most=100) as folder:
        (folder.files / "sample.png").write_bytes(b"x" * 30)
        folder.keep()
        for age in range(5):
            (folder.files / str(age)).mkdir()
            path = folder.files / str(age) / "face.png"
            path.write_bytes(b"x" * 20)
            os.utime(path, (100 - age, 100 - age))
        folder.make_room(10)
        left = {path.parent.name for path in folder.files.rglob("face.png")}
        assert left == {"0", "1", "2"}
        folder.make_room(1000)
        assert [path.name for path in folder.files.rglob("*.png")] == ["sample.png"]


@pytest.mark.parametrize(
    "asked",
    [
        lambda visitors: visitors.edit("a", NOTHING),
        lambda visitors: visitors.choose("a", "first", 0, NOTHING),
        lambda visitors: visitors.offer_others("a", "first"),
        lambda visitors: visitors.show("a", True),
        lambda visitors: visitors.make_shape("a", NOTHING),
    ],
)
def test_before_the_start_and_after_the_end(visitors, asked):
    with pytest.raises(PageError, match="session has ended; reload"):
        asked(visitors)
    visitors.start("a")
    asked(visitors)
    visitors.forget("a")
    with pytest.raises(PageError, match="session has ended; reload"):
        asked(visitors)


def test_a_page_selects_its_first_tab_while_it_opens(visitors):
    visitors.show("a", False)
    assert len(visitors) == 0
    with pytest.raises(PageError, match="session has ended; reload"):
        visitors.show("a", True)


def test_choices_and_edits(visitors, shown):
    start = visitors.start("a")
    assert len(start) == 2 * len(SIDES) + 2
    assert visitors.edit("a", NOTHING) == start[-2:]
    chosen = visitors.choose("a", "first", 5, NOTHING)
    assert chosen[0] != start[0] and chosen[2:] != start[-2:]
    assert visitors.edit("a", NOTHING) == chosen[2:]
    offered = visitors.offer_others("a", "first")
    assert len(offered) == OFFERED
    picture = pictures_in(visitors.choose("a", "first", 3, NOTHING)[0])[0]
    assert (picture.numpy() == offered[3]).all()
    assert visitors.edit("a", (1.0, 1.0, 1.0, 1.0)) != visitors.edit("a", NOTHING)


def test_the_page_unused_for_longest_makes_room(visitors):
    for name in ("a", "b"):
        visitors.start(name)
    visitors.edit("a", NOTHING)
    visitors.start("c")
    assert len(visitors) == 2
    visitors.edit("a", NOTHING)
    with pytest.raises(PageError, match="session has ended"):
        visitors.edit("b", NOTHING)


def test_an_upload_is_removed_whatever_comes_of_it(visitors):
    path = visitors.folder.files / "face.png"

    def uploaded(content):
        path.write_bytes(content) if content else Image.new("RGB", (40, 40), "red").save(path)
        return visitors.upload("a", "second", path, NOTHING)

    with pytest.raises(PageError, match="session has ended"):
        uploaded(None)
    assert not path.exists()
    before = visitors.start("a")
    assert uploaded(None)[0] != before[2]
    assert not path.exists()
    with pytest.raises(ImageError, match=r"^face\.png: not a picture"):
        uploaded(b"no picture")
    assert not path.exists()


def test_one_mesh_is_kept_while_its_page_is_open(visitors):
    for name in ("a", "b", "c"):
        visitors.start(name)
        assert visitors.make_shape(name, NOTHING) is None
        visitors.show(name, True)
        for _ in range(3):
            path = visitors.make_shape(name, NOTHING)
            assert path.read_bytes().startswith(b"glTF")
    left = list(visitors.folder.files.iterdir())
    assert len(left) == 2 and path in left
    visitors.start("c")
    visitors.forget("b")
    assert list(visitors.folder.files.iterdir()) == []


def test_one_after_the_other(visitors, monkeypatch):
    visitors.start("a")
    visitors.patience = 0.0
    begun, ended = threading.Event(), threading.Event()
    original = visitors.demo.show_edited

    def slow(session, weights):
        begun.set()
        ended.wait(60)
        return original(session, weights)

    monkeypatch.setattr(visitors.demo, "show_edited", slow)
    editing = threading.Thread(target=visitors.edit, args=("a", NOTHING))
    editing.start()
    assert begun.wait(60)
    with pytest.raises(PageError, match="busy with other edits"):
        visitors.edit("a", NOTHING)
    ended.set()
    editing.join()
    assert len(visitors.edit("a", NOTHING)) == 2
