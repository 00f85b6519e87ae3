"""The control plane over a workspace: in this process, and as a real process on a real socket."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import world
from tidemill.client.client import Client
from tidemill.client.http import HttpTransport
from tidemill.core.clock import wait_until
from tidemill.govern.workspace import Workspace
from tidemill.server.app import create_app
from tidemill.server.inprocess import InProcessTransport


@pytest.fixture
def transport(ws: Workspace) -> Iterator[InProcessTransport]:
    """The app over a fresh workspace, without a socket."""
    made = InProcessTransport(create_app(ws))
    yield made
    made.close()


@pytest.fixture
def client(transport: InProcessTransport) -> Client:
    """The SDK on top of it."""
    return Client(transport)


@dataclass
class Served:
    """A control plane in a process of its own, with the socket that it was handed."""

    home: Path
    url: str
    socket: socket.socket
    process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start the process again on the same socket."""
        self.process = start_control(self.home, self.socket)


def start_control(home: Path, listening: socket.socket) -> subprocess.Popen[bytes]:
    """Start a control plane on a socket that is open already."""
    command = [sys.executable, "-m", "tidemill.server.process", "--home", str(home), "--fd", str(listening.fileno())]
    return subprocess.Popen(command, pass_fds=(listening.fileno(),), stderr=subprocess.DEVNULL)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A real control plane over an empty workspace, ready."""
    world.init(tmp_path / "home").close()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        made = Served(tmp_path / "home", url, listening, start_control(tmp_path / "home", listening))
        probe = HttpTransport(url)
        assert wait_until(lambda: probe.request("GET", "/readyz").status == 200, timeout_s=20)
        probe.close()
        yield made
        made.process.kill()
        made.process.wait()
