"""The servers that tracking is measured against: Tidemill, MLflow's own, and one that answers at once and does nothing."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

import psutil
from tests.services import Ready, end, free_port


class Server:
    """A running server, and how long it took to answer."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], ready_s: float) -> None:
        self.url, self.process, self.ready_s = url, process, ready_s

    def memory_mb(self, *, control_only: bool = False) -> float:
        """Return the memory of all its processes, what they share counted once (PSS)."""
        whole = psutil.Process(self.process.pid)
        members = [whole, *whole.children(recursive=True)]
        if control_only:
            members = [member for member in members if "tidemill.server.process" in member.cmdline()]
        return sum(member.memory_full_info().pss for member in members) / 1e6

    def processes(self) -> int:
        return 1 + len(psutil.Process(self.process.pid).children(recursive=True))


@contextmanager
def started(command: list[str], url: str, *, folder: Path, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Run a server until the block ends; it has answered /health before."""
    begin = perf_counter()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )
    try:
        ready = Ready(0, url=url + "/health")
        while not ready():
            if process.poll() is not None or perf_counter() - begin > 120:
                raise SystemExit(f"{command} did not start: {(folder / 'server.log').read_text(errors='replace')[-2000:]}")
            sleep(0.01)
        yield Server(url, process, perf_counter() - begin)
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        end(process)
        psutil.wait_procs(children, timeout=10)


@contextmanager
def tidemill(home: Path | None = None, **settings: str) -> Iterator[Server]:
    """Run `tidemill up` on a new workspace, or on the one in home."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-", dir=os.environ.get("TDIR")) as name:
        folder = Path(name)
        place = home or folder / "home"
        given = {f"TIDEMILL_{key.upper()}": value for key, value in settings.items()}
        if home is None:
            subprocess.run([sys.executable, "-m", "tidemill", "init", str(place)], check=True, capture_output=True, env=os.environ | given)
        port = free_port()
        command = [sys.executable, "-m", "tidemill", "up", "--home", str(place), "--port", str(port), "--serve-port", "0"]
        with started(command, f"http://127.0.0.1:{port}", folder=folder, environment=given) as server:
            yield server


@contextmanager
def mlflow(database: Path | None = None, *, lean: bool = False) -> Iterator[Server]:
    """Run `mlflow server` as it comes, on SQLite and a local folder; lean: with one worker and no job runners, which starts faster."""
    with tempfile.TemporaryDirectory(prefix="mlflow-bench-") as name:
        folder = Path(name)
        port = free_port()
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database or folder / 'mlflow.db'}",
            "--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip
        environment = {"PYTHONWARNINGS": "ignore"}
        if lean:
            command += ["--workers", "1"]
            environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        with started(command, f"http://127.0.0.1:{port}", folder=folder, environment=environment) as server:
            yield server


@contextmanager
def empty() -> Iterator[Server]:
    """Run the server that does nothing: what MLflow's client reaches against it is what it can reach at all."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="empty-bench-") as name:
        command = [sys.executable, str(Path(__file__).with_name("empty.py")), str(port)]
        with started(command, f"http://127.0.0.1:{port}", folder=Path(name)) as server:
            yield server
