"""Workers that share a port: each has as many connections as the next, and none of them can keep callers waiting."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.services import end
from tidemill.core.clock import wait_until
from tidemill.serving.acceptor import SLOTS, Tally


@contextmanager
def other(path: Path, index: int, count: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process that says it has so many connections."""
    code = (
        "import sys; from pathlib import Path; from tidemill.serving.acceptor import Tally\n"
        f"tally = Tally(Path({str(path)!r}), {index}); tally.set({count}); print('there', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "there\n"
            yield process
        finally:
            end(process)


def test_the_least_of_the_others_that_live_counts(tmp_path: Path) -> None:
    path = tmp_path / "run" / "connections"
    tally = Tally(path, 0)
    tally.set(1)
    assert tally.least() is None
    with other(path, 1, 7), other(path, SLOTS - 1, 3) as few:
        assert tally.least() == 3
        few.kill()
        few.wait()
        assert tally.least() == 7
    assert tally.least() is None
    tally.close()
    Tally(path, 1).close()  # what was closed can be opened again


@pytest.mark.slow
def test_connections_are_shared_and_a_worker_that_hangs_or_dies_keeps_nobody(make_plant) -> None:
    plant = make_plant(serve_workers=2)
    generation = plant.publish(plant.endpoint())
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        port = listener.getsockname()[1]
        workers = [stack.enter_context(plant.worker(index=index, listener=listener)) for index in (0, 1)]
        plant.wait(generation, index=1)

        def call() -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            stack.callback(connection.close)
            connection.request("GET", "/livez")
            assert connection.getresponse().read()
            return connection

        def open_at() -> list[int]:
            each = [psutil.Process(worker.process.pid).net_connections("tcp") for worker in workers]
            return [sum(one.status == psutil.CONN_ESTABLISHED for one in found) for found in each]

        burst = [socket.create_connection(("127.0.0.1", port)) for _ in range(16)]
        for line in burst:
            stack.callback(line.close)
        assert wait_until(lambda: sum(open_at()) == 16, timeout_s=10)
        assert max(open_at()) <= 11, open_at()  # one that did not run for 2 ms is passed over
        for _ in range(16):
            call()
        assert max(open_at()) <= 20, open_at()
        assert workers[0].call("GET", "/livez").status == 200
        hanging, living = workers
        os.kill(hanging.process.pid, signal.SIGSTOP)
        try:
            for _ in range(8):  # it has fewer and takes none
                call()
        finally:
            os.kill(hanging.process.pid, signal.SIGCONT)
        hanging.kill()
        for _ in range(8):
            call()
        assert len(psutil.Process(living.process.pid).net_connections("tcp")) >= 24
