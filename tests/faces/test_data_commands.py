"""`python -m ntensor.faces.data`, and the sentence for a missing package."""

import subprocess
import sys

import pytest
import torch

from ntensor.faces import data
from ntensor.faces.common import extras
from ntensor.faces.datasets.storage import read_meta
from ntensor.faces.writing import sheet


def test_render_check_and_sheet(tmp_path, capsys):
    folder = tmp_path / "set"
    arguments = ["render", "--out", str(folder), "--face-model", "analytic", "--size", "16",
                 "--shard-size", "4", "--batch-size", "3"]  # fmt: skip
    data.main([*arguments, "--count", "5"])
    first = (folder / "shard_000.npz").read_bytes()
    data.main([*arguments, "--count", "9"])
    assert read_meta(folder).count == 9
    assert (folder / "shard_000.npz").read_bytes() == first
    data.main(["check", str(folder)])
    shown = capsys.readouterr().out
    assert "9 records" in shown and "render error 0.00" in shown and "analytic face" in shown
    picture = tmp_path / "sheet.png"
    data.main(["sheet", "--out", str(picture), "--data", str(folder), "--rows", "2", "--maps"])
    image = extras.load("PIL.Image").open(picture)
    assert image.size == (16 * len(sheet.SHOWN), 32)
    (folder / "shard_000.npz").write_bytes(first[:100])
    with pytest.raises(SystemExit) as stopped:
        data.main(["check", str(folder)])
    assert stopped.value.code == 1
    assert "shard_000.npz: cannot be read" in capsys.readouterr().out


def test_messages_instead_of_tracebacks(tmp_path):
    with pytest.raises(SystemExit, match=r"meta.json: the file does not exist"):
        data.main(["check", str(tmp_path)])
    for name in ("sheet.xyz", "sheet"):
        with pytest.raises(SystemExit, match=f"{name}: expected the suffix of a picture"):
            data.main(["sheet", "--out", str(tmp_path / name)])
    for option in ("--size", "--batch-size", "--shard-size"):
        with pytest.raises(SystemExit, match=r"error: \w+ must be .* at least \d, .* got 0"):
            data.main(["render", "--out", str(tmp_path), "--count", "1", option, "0"])
    with pytest.raises(SystemExit, match="which is not a file"):
        data.main(["render", "--out", str(tmp_path), "--count", "1", "--face-model", "absent"])


def test_missing_package_is_named():
    code = (
        "import sys; sys.modules['tyro'] = None\n"
        "from ntensor.faces.data import main\n"
        "main(['check', '.'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'ntensor[faces]'")
    assert "Traceback" not in done.stderr
    with pytest.raises(ModuleNotFoundError, match=r"needs the package absent: run pip install"):
        extras.load("absent")


def test_tile():
    pictures = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 2, 2) / 2
    tiled = sheet.tile(pictures, 2)
    assert tiled.shape == (4, 4, 3)
    assert tiled[0, 0, 0] == 0 and tiled[0, 2, 0] == 128 and tiled[2, 0, 0] == 255
    assert (tiled[2:, 2:] == 0).all()
