"""Real servers for tests: each is started on a free port, answers before it is handed out, and is ended by its process id."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tidemill.core.clock import wait_until

START_S = 60


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Return whether something on loopback takes a connection."""
    with socket.socket() as caller:
        caller.settimeout(1)
        return caller.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(command: list[str], folder: Path, *, ready: "Ready") -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in folder until the block ends; its output goes to `server.log` there, shown when it does not start."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        if not wait_until(lambda: process.poll() is not None or ready(), timeout_s=START_S) or process.poll() is not None:
            pytest.fail(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], *, with_signal: int = signal.SIGTERM) -> None:
    """End a process that was started here, by its id, and wait for it."""
    if process.poll() is None:
        process.send_signal(with_signal)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


class Ready:
    """True once a port takes connections, or a URL answers."""

    def __init__(self, port: int, *, url: str | None = None) -> None:
        self.port, self.url = port, url

    def __call__(self) -> bool:
        if self.url is None:
            return accepts(self.port)
        try:
            with urllib.request.urlopen(self.url, timeout=1):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return True
        except OSError:
            return False


@contextmanager
def redis_server() -> Iterator[str]:
    """Run Redis without persistence; yield its URL."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed; on Debian: apt-get install redis-server")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tidemill-redis-") as folder:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        with running(command, Path(folder), ready=Ready(port)):
            yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def kafka_cluster() -> Iterator[str]:
    """Run librdkafka's mock cluster in this process; yield the URL of it."""
    kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    holder = kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = holder.list_topics(timeout=START_S).brokers.values()
    yield "kafka://" + ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    del holder


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's S3 service with an empty bucket; yield the URL of an object store in it."""
    pytest.importorskip("moto.server", reason="moto[s3,server] is not installed")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="tidemill-s3-") as folder:
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with running(command, Path(folder), ready=Ready(port, url=endpoint)):
            bucket = f"tide-{secrets.token_hex(4)}"
            request = urllib.request.Request(f"{endpoint}/{bucket}", method="PUT", headers={"Authorization": "AWS test:test"})
            with urllib.request.urlopen(request, timeout=10):
                pass
            yield f"s3://{bucket}/store?endpoint={endpoint}&region=us-east-1&access_key_id=test&secret_access_key=test"


def postgres_binaries() -> Path | None:
    """Return the folder of PostgreSQL's newest programs, as Debian and Homebrew install them, or of those on the path."""
    folders = [
        path for pattern in ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql@*/bin") for path in Path("/").glob(pattern[1:])
    ]
    found = [folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()]
    if found:
        return max(found, key=lambda folder: [int(part) for part in str(folder).replace("@", "/").split("/") if part.isdigit()])
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextmanager
def postgres_server() -> Iterator[str]:
    """Run a throwaway PostgreSQL cluster; yield a URL of its superuser. As root it is run by the user postgres, as it insists."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    run_as: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tidemill-pg-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL does not run as root and there is no user postgres; on Debian: apt-get install postgresql")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            run_as = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
            if shutil.which("setpriv") is None:
                pytest.skip("PostgreSQL does not run as root and setpriv is missing; on Debian: apt-get install util-linux")
        data, port = folder / "data", free_port()
        made = subprocess.run(
            [*run_as, str(binaries / "initdb"), "-D", str(data), "-U", "tidemill", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            cwd=folder, capture_output=True, check=False,
        )  # fmt: skip
        if made.returncode:
            pytest.fail(f"initdb failed: {made.stderr.decode(errors='replace')}")
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "fsync": "off", "max_connections": "200"}
        command = [*run_as, str(binaries / "postgres"), "-D", str(data), "-p", str(port)]
        command += [f"-c{key}={value}" for key, value in options.items()]
        with running(command, folder, ready=Ready(port)) as process:
            probe = [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
            if not wait_until(lambda: subprocess.run(probe, check=False).returncode == 0, timeout_s=START_S, every_s=0.05):
                pytest.fail("PostgreSQL takes connections but is not ready")
            yield f"postgresql://tidemill@127.0.0.1:{port}/postgres"
            end(process, with_signal=signal.SIGINT)  # "fast" shutdown: does not wait for clients that stayed
