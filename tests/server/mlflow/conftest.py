"""Tidemill and MLflow's own server, each as a process on a socket."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import services, world


@dataclass(frozen=True)
class Served:
    """A control plane: what it serves, where, and as which process."""

    home: Path
    url: str
    pid: int


@contextmanager
def control_plane(folder: Path, **settings: str) -> Iterator[Served]:
    """Serve an empty workspace in a folder."""
    home = folder / "home"
    world.init(home).close()
    port = services.free_port()
    command = [sys.executable, "-m", "tidemill.server.process", "--home", str(home)]
    environment = {**os.environ, "TIDEMILL_PORT": str(port), **{f"TIDEMILL_{name.upper()}": value for name, value in settings.items()}}
    log = (folder / "server.log").open("wb")
    with log, subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url + "/readyz", folder / "server.log", port)
            yield Served(home, url, process.pid)
        finally:
            services.end(process)


@pytest.fixture(scope="module")
def tidemill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A control plane over an empty workspace."""
    with control_plane(tmp_path_factory.mktemp("tidemill")) as made:
        yield made


@pytest.fixture(scope="module")
def tidemill_url(tidemill: Served) -> str:
    """Its address."""
    return tidemill.url


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's own server over an empty SQLite file, with one worker and without its job runners."""
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("mlflow")
    port = services.free_port()
    command = [sys.executable, "-W", "ignore", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    log = (folder / "server.log").open("wb")
    with log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, url + "/health", folder / "server.log", port)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # it starts workers of its own
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path, port: int) -> None:
    ready = services.Ready(port, url=url)
    if not services.wait_until(lambda: process.poll() is not None or ready(), timeout_s=120) or process.poll() is not None:
        pytest.fail(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
