"""A real local Ray: the conformance suite, and that no process outlives it."""

from collections.abc import Iterator

import psutil
import pytest

from tidemill.compute.conformance import ExecutorConformance
from tidemill.compute.executor import open_executor
from tidemill.core.clock import wait_until

ray = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    """One Ray for all tests of this module: to start one takes seconds."""
    before = set(psutil.Process().children(recursive=True))
    executor = open_executor("ray")
    yield
    executor.close()
    left = set(psutil.Process().children(recursive=True)) - before
    assert wait_until(lambda: not any(process.is_running() and process.status() != "zombie" for process in left), timeout_s=20), left


@pytest.mark.usefixtures("running_ray")
class TestRay(ExecutorConformance):
    @pytest.fixture
    def executor_name(self) -> str:
        return "ray"
