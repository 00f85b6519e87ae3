"""A control plane on a socket for a whole module, and MLflow's own client of it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow

from tests import world
from tests.server.conftest import start_control
from tidemill.client.http import HttpTransport
from tidemill.core.clock import wait_until


@dataclass
class Place:
    """Where a server listens, what it serves, and a client that asks it."""

    home: Path
    url: str
    client: Any


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Place]:
    """Serve a fresh workspace."""
    world.init(folder / "home", **settings).close()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        process = start_control(folder / "home", listening)
        try:
            probe = HttpTransport(url)
            assert wait_until(lambda: probe.request("GET", "/readyz").status == 200, timeout_s=20)
            probe.close()
            yield Place(folder / "home", url, mlflow.MlflowClient(tracking_uri=url, registry_uri=url))
        finally:
            process.kill()
            process.wait()
