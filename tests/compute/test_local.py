"""The process pool: the conformance suite, and that no process outlives it."""

import signal
import subprocess
import sys

import psutil
import pytest

from tidemill.compute.conformance import ExecutorConformance, square
from tidemill.compute.executor import open_executor
from tidemill.core.clock import wait_until


@pytest.mark.slow
class TestLocal(ExecutorConformance):
    @pytest.fixture
    def executor_name(self) -> str:
        return "local:2"


def children() -> set[psutil.Process]:
    # multiprocessing's resource tracker is one a process and stays; it is no worker
    return {child for child in psutil.Process().children(recursive=True) if "resource_tracker" not in " ".join(child.cmdline())}


@pytest.mark.slow
def test_close_leaves_no_process_and_the_pool_stays_warm() -> None:
    before = children()
    executor = open_executor("local:2")
    assert list(executor.map(square, range(4))) == [0, 1, 4, 9]
    first = children() - before
    assert 1 <= len(first) <= 2
    list(executor.map(square, range(4)))
    assert first <= children()
    executor.close()
    assert not children() - before


PARENT = """
from tidemill.compute.conformance import square
from tidemill.compute.executor import open_executor
if __name__ == "__main__":
    executor = open_executor("local:2")
    list(executor.map(square, range(8)))
    print("ready", flush=True)
    input()
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert len(workers) >= 2
        parent.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers), timeout_s=10)


def test_a_core_each_by_default() -> None:
    executor = open_executor("local")
    assert executor.workers >= 1
    executor.close()
