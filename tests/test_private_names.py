"""torch's private names stand in one file, `ntensor/backends/_torch.py`, which gives the reason for each."""

import re
from pathlib import Path

import ntensor

FOLDER = Path(ntensor.__file__).parent
# A private module or attribute of torch, or a private attribute of one of its objects.
PRIVATE = re.compile(
    r"\btorch(?:\.\w+)*\._[a-z]"
    r"|\bfrom torch[\w.]* import (?:\w+, )*_"
    r"|\._(?:schema|cdata|version|current_level|get_active_ddp_module|op_dispatcher)\b",
    re.I,
)


def uses(text):
    return [line.strip() for line in text.splitlines() if PRIVATE.search(line)]


def test_private_names_stand_in_one_file():
    assert len(uses((FOLDER / "_torch.py").read_text(encoding="utf-8"))) > 20
    for path in FOLDER.rglob("*.py"):
        if path.name != "_torch.py" and "faces" not in path.relative_to(FOLDER).parts:
            assert not uses(path.read_text(encoding="utf-8")), path
