"""A control plane that runs are logged to: in this process, and as a real process behind a proxy that can be told to fail."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import world
from tests.client.faults import Proxy
from tests.server.conftest import start_control
from tidemill.client.client import Client, connect
from tidemill.client.http import HttpTransport
from tidemill.client.seeds import SEED
from tidemill.core.clock import wait_until
from tidemill.govern.workspace import Workspace
from tidemill.server.app import create_app
from tidemill.server.inprocess import InProcessTransport


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which runs lie until they have arrived, and nothing else in the environment."""
    for name in ("URL", "TOKEN", "PROJECT", "OFFLINE", "RUN", "HOME"):
        monkeypatch.delenv(f"TIDEMILL_{name}", raising=False)
    monkeypatch.setenv("TIDEMILL_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    SEED.set(None)
    return tmp_path / "runs"


@pytest.fixture
def client(ws: Workspace) -> Iterator[Client]:
    """The SDK on top of the app over a fresh workspace, without a socket."""
    transport = InProcessTransport(create_app(ws))
    yield Client(transport)
    transport.close()


class Plane:
    """A control plane as a process: it can be killed, so that nobody listens, and started again on the same port."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with socket.create_server(("127.0.0.1", self.port)) as listening:
            self.port = listening.getsockname()[1]
            self.process = start_control(self.home, listening)
        probe = HttpTransport(self.url)
        assert wait_until(lambda: probe.request("GET", "/readyz").status == 200, timeout_s=60)
        probe.close()

    def kill(self) -> None:
        """Kill it as kill -9 does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """A real control plane over an empty workspace, ready."""
    world.init(tmp_path / "home").close()
    made = Plane(tmp_path / "home")
    made.start()
    yield made
    made.kill()


@pytest.fixture
def remote(plane: Plane) -> Iterator[Client]:
    """The SDK over the network."""
    with connect(plane.url) as made:
        yield made


@pytest.fixture
def proxy(plane: Plane) -> Iterator[Proxy]:
    """What stands between a caller and the control plane, and fails when told to."""
    with Proxy(plane.port) as made:
        yield made
