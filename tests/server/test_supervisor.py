"""`tidemill up`, as the real command: it comes up, keeps its children alive, says what it will not do, and leaves nothing behind."""

import http.client
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from tests import world
from tests.services import free_port
from tidemill.core.clock import wait_until
from tidemill.core.settings import STATE_NAME
from tidemill.deploy.endpoints import create_endpoint
from tidemill.deploy.plans import blue_green_plan
from tidemill.deploy.rollouts import start_rollout
from tidemill.govern.workspace import open_workspace
from tidemill.server.supervisor import Running, read_running
from tidemill.serving.config import read_states

pytestmark = pytest.mark.slow


class Up:
    """`tidemill up` of one home, as a process."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        command = [sys.executable, "-m", "tidemill", "up", "--home", str(home), "--port", "0", "--serve-port", "0", "--json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read() if self.process.stderr else ""
        said = json.loads(line)
        self.control, self.serve = (int(said[name].rpartition(":")[2]) for name in ("url", "serve_url"))

    @property
    def running(self) -> Running:
        found = read_running(self.home)
        assert found is not None
        return found

    @property
    def workers(self) -> dict[int, int]:
        """The process of each serving worker."""
        return {index: state.pid for index, state in read_states(self.home / STATE_NAME).items()}

    def family(self) -> list[psutil.Process]:
        """All processes below the supervisor."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in (self.home / ".tidemill" / "logs").glob("*.log"))

    def kill(self, name: str) -> int:
        """Kill one child; return its process id."""
        pid = self.running.children[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    def back(self, name: str, killed: int) -> bool:
        return wait_until(lambda: self.running.children[name] != killed, timeout_s=20)

    def end(self) -> None:
        if self.process.poll() is None:
            family = self.family()
            self.process.kill()
            self.process.wait()
            for child in family:
                if child.is_running():
                    child.kill()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    """Make one request over a connection of its own, without trying again."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def predict(up: Up, x: float = 1.0) -> tuple[int, bytes]:
    return call(up.serve, "POST", "/predict/delay", {"rows": [{"x": x}]})


def workspace(home: Path) -> Path:
    """Make a workspace with two versions of a model, of which the first answers."""
    ws = world.init(home)
    world.model(ws)
    world.model(ws, slope=2.0)
    create_endpoint(ws, "delay", "delay@1")
    ws.close()
    return home


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    made = Up(workspace(tmp_path_factory.mktemp("up") / "home"))
    yield made
    made.end()


def test_it_is_ready_when_it_says_so(tmp_path: Path) -> None:
    up = Up(workspace(tmp_path / "home"))  # its own: others release the second version
    try:
        assert call(up.control, "GET", "/projects/default")[0] == 200
        assert call(up.control, "GET", "/readyz")[0] == 200
        status, body = predict(up)
        assert (status, json.loads(body)["version"]) == (200, 1)
        assert set(up.running.children) == {"control", "serve-0", "controller", "worker-0"}
        assert {child.pid for child in up.family()} >= set(up.running.children.values())
    finally:
        up.end()


def test_predictions_over_grpc_come_from_whichever_worker_lives(tmp_path: Path) -> None:
    up = Up(workspace(tmp_path / "home"), "--grpc-port", "0", "--serve-workers", "2")
    try:
        address = up.running.grpc_address
        assert address is not None
        status = [sys.executable, "-m", "tidemill", "status", "--home", str(up.home)]
        assert f"over gRPC at {address}" in subprocess.run(status, capture_output=True, text=True, check=True).stdout
        assert json.loads(call(up.control, "GET", "/api/v1/status")[1])["grpc_address"] == address
        for index in (0, 1):
            assert ready_over_grpc(address)
            killed = up.workers[index]
            os.kill(killed, signal.SIGKILL)
            assert ready_over_grpc(address)
            assert wait_until(lambda index=index, killed=killed: up.workers.get(index, killed) != killed, timeout_s=20), up.logs()
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(20) == 0
    finally:
        up.end()


def ready_over_grpc(address: str) -> bool:
    """Ask a worker on a connection of its own, which is made again if its worker has just been killed."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        answer = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=20, wait_for_ready=True)
    return answer == b"\x08\x01"


def test_a_grpc_port_that_others_share_is_taken(tmp_path: Path) -> None:
    home = workspace(tmp_path / "home")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as gRPC's own servers do: to bind there as well would work
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for option, said in ((str(port), f"port {port} on 127.0.0.1 is in use"), ("7701", "--serve-port and --grpc-port are both 7701")):
            command = [sys.executable, "-m", "tidemill", "up", "--home", str(home), "--port", "0", "--serve-port", "0"]
            command[-1] = "7701" if option == "7701" else "0"
            done = subprocess.run([*command, "--grpc-port", option], capture_output=True, text=True, check=False)
            assert (done.returncode, said in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("name", ["control", "serve-0"])
def test_a_killed_server_comes_back_and_callers_wait_for_it(up: Up, name: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        killed = up.kill(name)
        asked = [pool.submit(call, up.control, "GET", "/readyz") if name == "control" else pool.submit(predict, up) for _ in range(24)]
        assert up.back(name, killed), up.logs()
        assert [future.result()[0] for future in asked] == [200] * 24
    assert psutil.pid_exists(up.process.pid)
    assert call(up.control, "GET", "/projects/default")[0] == predict(up)[0] == 200


def test_a_killed_controller_comes_back_and_goes_on(up: Up) -> None:
    killed = up.kill("controller")
    ws = open_workspace(up.home)
    start_rollout(ws, "delay", "delay@2", plan=blue_green_plan(hold=timedelta(days=1)), reason="while the controller is gone")
    ws.close()
    assert up.back("controller", killed), up.logs()
    assert wait_until(lambda: json.loads(predict(up)[1])["version"] == 2, timeout_s=20), up.logs()


def test_a_child_that_is_killed_again_and_again_comes_back_again_and_again(up: Up) -> None:
    for _ in range(3):
        killed = up.kill("worker-0")
        assert up.back("worker-0", killed), up.logs()


def test_a_second_one_on_the_same_home_is_refused(up: Up) -> None:
    done = refused(up.home, "--port", "0", "--serve-port", "0")
    assert f"workspace {up.home} is up already at http://127.0.0.1:{up.control} (process {up.process.pid})" in done
    assert call(up.control, "GET", "/readyz")[0] == 200


def test_it_ends_cleanly_when_it_is_told_to_and_leaves_no_process(tmp_path: Path) -> None:
    up = Up(workspace(tmp_path / "home"), "--serve-workers", "2")
    try:
        assert wait_until(lambda: set(up.workers) == {0, 1}, timeout_s=20), up.logs()  # it is ready when one of them is
        family = up.family()
        assert predict(up)[0] == 200
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(30) == 0, up.logs()
        assert not [child for child in family if child.is_running()]
        assert read_running(up.home) is None
        for port in (up.control, up.serve):
            with pytest.raises(ConnectionRefusedError):
                call(port, "GET", "/readyz")
        again = Up(up.home)
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(30) == 0
        again.end()
    finally:
        up.end()


def test_when_it_is_killed_its_children_go_and_the_next_one_takes_the_same_ports(tmp_path: Path) -> None:
    up = Up(workspace(tmp_path / "home"))
    family = up.family()
    try:
        up.process.kill()
        up.process.wait()
        again = Up(up.home, "--port", str(up.control), "--serve-port", str(up.serve))
        try:
            assert predict(again)[0] == 200
            assert wait_until(lambda: not [child for child in family if child.is_running()], timeout_s=20)
        finally:
            again.end()
    finally:
        up.end()


def refused(home: Path, *options: str, code: int = 1) -> str:
    """Run a `tidemill up` that must not come up; return its one sentence."""
    command = [sys.executable, "-m", "tidemill", "up", "--home", str(home), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("tidemill: ")
    assert (done.stderr.count("\n"), "Traceback" in done.stderr) == (1, False), done.stderr
    return done.stderr


@pytest.mark.parametrize("option", ["--port", "--serve-port"])
def test_a_port_in_use_is_named_with_its_option(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = "--serve-port" if option == "--port" else "--port"
        said = refused(workspace(tmp_path), option, str(port), other, "0")
    assert f"port {port} on 127.0.0.1 is in use by another process; stop that one, or choose another with: tidemill up {option} N" in said


def test_one_port_for_both_is_refused(tmp_path: Path) -> None:
    port = str(free_port())
    said = refused(workspace(tmp_path), "--port", port, "--serve-port", port)
    assert f"--port and --serve-port are both {port}; expected two ports" in said


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_open_door_is_refused_without_keys(tmp_path: Path, host: str) -> None:
    said = refused(workspace(tmp_path), "--host", host)
    assert f"binding to {host} would open this workspace to everybody on the network without a key" in said
    assert 'authentication = "keys"' in said


def test_with_keys_the_door_may_be_open_and_asks_for_them(tmp_path: Path) -> None:
    home = workspace(tmp_path)
    (home / "tidemill.toml").write_text('[settings]\nauthentication = "keys"\n')
    up = Up(home, "--host", "0.0.0.0")
    try:
        assert predict(up)[0] == 401
        assert call(up.control, "GET", "/api/v1/projects/default/endpoints")[0] == 401
    finally:
        up.end()


def test_a_host_that_is_none_is_named(tmp_path: Path) -> None:
    assert "host 'the moon' is not an address; expected an IP address such as 127.0.0.1" in refused(
        workspace(tmp_path), "--host", "the moon"
    )
    said = refused(tmp_path, "--host", "127.0.0.1", "--port", "0", "--serve-port", "0", "--clock", "simulated:nothing")
    assert "does not exist" in said


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small file system in memory."""
    mount = shutil.which("mount")
    folder.mkdir()
    done = (
        subprocess.run([mount or "mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, check=False)
        if mount
        else None
    )
    if done is None or done.returncode:
        pytest.skip("no file system can be mounted here; as root on Linux it can")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_disk_is_one_sentence(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk:
        workspace(disk / "home")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        said = refused(disk / "home", "--port", "0", "--serve-port", "0")
    assert "Read-only file system" in said


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=512k") as disk:
        said = refused(disk / "home", "--port", "0", "--serve-port", "0")
        assert "full" in said or "No space left" in said


def test_a_file_that_may_not_grow_is_one_sentence(tmp_path: Path) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    command = [sys.executable, "-m", "tidemill", "init", str(tmp_path / "home")]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # else what it compiles is cut off, and kept for everybody
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, preexec_fn=small)
    assert done.returncode == 1
    assert (done.stderr.count("\n"), "Traceback" in done.stderr) == (1, False), done.stderr
