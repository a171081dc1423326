"""What the tests of several files share."""

import pytest

from demo_runs import write_run
from ntensor.faces.datasets.generated import GeneratedFaces
from ntensor.faces.morphable.analytic_face import make_analytic_face
from ntensor.faces.page.parts import Demo


@pytest.fixture(scope="session")
def generated():
    return GeneratedFaces(make_analytic_face(1000), size=16)


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def shown(demo_run):
    return Demo(demo_run)
