"""What several tests of the page share."""

import pytest

from demo_runs import write_run
from ntensor.faces.page.parts import Demo


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def shown(demo_run):
    return Demo(demo_run)
