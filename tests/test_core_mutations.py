"""The faults that `core_mutations.py` plants have their places in the sources."""

import pytest

from core_mutations import FAULTS, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_has_one_place(fault):
    assert (ROOT / "csrc" / fault.file).read_text().count(fault.before) == 1
    assert fault.before != fault.after
