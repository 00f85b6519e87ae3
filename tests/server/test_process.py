"""The control plane as a process: on a socket that it was handed, until it is told to stop."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server.conftest import Served
from tidemill.client.client import connect
from tidemill.core.clock import wait_until

pytestmark = pytest.mark.slow


def test_it_serves_and_stops_cleanly_when_told(served: Served) -> None:
    with connect(served.url) as client:
        assert client.status()["home"] == str(served.home)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(timeout=15) == 0


def test_requests_under_way_are_finished_before_it_ends(served: Served) -> None:
    with connect(served.url) as client, ThreadPoolExecutor(8) as pool:
        started = [pool.submit(client.runs.start, "e", f"n{number}") for number in range(40)]
        assert wait_until(lambda: any(future.done() for future in started), timeout_s=10)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=15) == 0
        served.start()
        runs = {future.result()["id"] for future in started}
        assert {run["id"] for run in client.runs.list()} == runs


def test_a_killed_server_is_followed_by_another_and_callers_do_not_notice(served: Served) -> None:
    with connect(served.url) as client, ThreadPoolExecutor(4) as pool:
        started = [pool.submit(client.runs.start, "e", f"n{number}") for number in range(60)]
        assert wait_until(lambda: sum(future.done() for future in started) > 5, timeout_s=10)
        served.process.kill()
        served.process.wait()
        served.start()
        runs = [future.result()["id"] for future in started]
        assert len(set(runs)) == 60
        assert len(client.runs.list()) == 60


def test_a_folder_without_a_workspace_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tidemill.server.process", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith("tidemill: ")
    assert "tidemill init" in done.stderr
    assert "Traceback" not in done.stderr
