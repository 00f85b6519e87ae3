"""The supervisor behind `tidemill up`: starts control plane, serving workers, controller and job workers, and starts each again if it dies.

It binds the ports itself and hands them down, so that a dead child's port stays open and waiting callers are answered by the next one.
"""

import errno
import fcntl
import ipaddress
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from tidemill.core.clock import elapsed, wait_until
from tidemill.core.codec import decode, encode
from tidemill.core.errors import Conflict, ExtraMissing, Invalid, NotPermitted, Unavailable
from tidemill.core.process import Revival, StopSignal, lives
from tidemill.core.settings import STATE_NAME, Loaded, Settings, as_environment, child_environment
from tidemill.core.values import Value

RUN_FILE = "up.json"
CLOSE_S = 2.0  # for a child that has drained to flush and leave


class Running(Value, frozen=True, kw_only=True):
    """What `tidemill up` runs at this moment, as written beside the workspace. grpc_address: HOST:PORT, None without gRPC."""

    pid: int
    url: str
    serve_url: str
    grpc_address: str | None = None
    children: dict[str, int]


class PortTaken(Conflict):
    """Another process listens there."""

    def __init__(self, host: str, port: int, option: str) -> None:
        self.host, self.port = host, port
        super().__init__(
            f"port {port} on {host} is in use by another process; stop that one, or choose another with: tidemill up {option} N"
        )


class AlreadyUp(Conflict):
    """This workspace is served already."""

    def __init__(self, home: Path, running: Running | None) -> None:
        self.running = running
        where = f" at {running.url} (process {running.pid})" if running else ""
        super().__init__(f"workspace {home} is up already{where}; stop it there first, or use it as it is")


class Child:
    """One process that is kept alive."""

    def __init__(self, name: str, command: list[str], *, log: Path, fds: tuple[int, ...], environment: dict[str, str]) -> None:
        self.name, self.command, self.log, self.fds, self.environment = name, command, log, fds, environment
        self.process: subprocess.Popen[bytes] | None = None
        self.revival, self.restarts = Revival(), -1

    def start(self) -> None:
        """Start the process, or start it again. Raises OSError."""
        self.revival.begin()
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                pass_fds=self.fds,
                env=self.environment,
                start_new_session=True,
            )
        self.restarts += 1

    def dead(self) -> bool:
        return self.process is None or self.process.poll() is not None


class Supervisor:
    """Holds the ports, the lock and the children of one workspace."""

    def __init__(self, home: Path, loaded: Loaded, *, say: Callable[[str], None]) -> None:
        refuse_open_door(loaded.settings)
        self.home, self.loaded, self.settings, self.say = home, loaded, loaded.settings, say
        self.state = home / STATE_NAME
        self.run_folder = self.state / "run"
        self.stopping = StopSignal()
        self.lock: IO[bytes] | None = None
        self.sockets: list[socket.socket] = []
        self.children: list[Child] = []
        self.url = self.serve_url = ""
        self.grpc_address: str | None = None
        self.environment: dict[str, str] = {}
        self.orphans: list[int] = []

    def start(self) -> None:
        """Take the lock and the ports; start the control plane, which makes the workspace ready and publishes what is served.

        Raises AlreadyUp, PortTaken, Invalid, Unavailable.
        """
        asked = {"--port": self.settings.port, "--serve-port": self.settings.serve_port, "--grpc-port": self.settings.grpc_port}
        chosen = {option: port for option, port in asked.items() if port}
        for option, port in chosen.items():
            if same := [other for other in chosen if other != option and chosen[other] == port]:
                raise Invalid(f"{option} and {same[0]} are both {port}; expected two ports (0 picks a free one)")
        if self.settings.grpc_port is not None and find_spec("grpc") is None:
            raise ExtraMissing("grpcio", "grpc")
        try:
            self._start()
        except OSError as error:
            raise Unavailable(f"{self.state} cannot be used: {error.strerror}; make it writable, with free space, and try again") from error

    def _start(self) -> None:
        for folder in (self.run_folder, self.state / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self.orphans = _port_holders(self.run_folder)
        control, self.url = self._bind(self.settings.port, "--port")
        serve, self.serve_url = self._bind(self.settings.serve_port, "--serve-port")
        ports = {"TIDEMILL_PORT": str(control.getsockname()[1]), "TIDEMILL_SERVE_PORT": str(serve.getsockname()[1])}
        if self.settings.grpc_port is not None:
            ports["TIDEMILL_GRPC_PORT"] = str(self._hold(self.settings.grpc_port, "--grpc-port"))
        # Children read the same settings; what was given as an argument, and the ports that were picked, reach them by environment.
        self.environment = child_environment(
            {"OMP_WAIT_POLICY": "PASSIVE"}  # threads of numeric libraries that wait must not take the cores from who works
            | as_environment(self.loaded)
            | ports
        )
        self._add("control", "tidemill.server.process", "--prepare", "--fd", str(control.fileno()), fd=control)
        workers, fd = str(self.settings.serve_workers), str(serve.fileno())
        if self.settings.serve_workers == 1:
            self._add("serve-0", "tidemill.serving.worker", "--index", "0", "--fd", fd, fd=serve)
        else:  # several share what they can
            self._add("serve-nursery", "tidemill.serving.nursery", "--workers", workers, "--fd", fd, fd=serve)
        self._add("controller", "tidemill.automate.controller")
        for index in range(self.settings.job_workers):
            self._add(f"worker-{index}", "tidemill.automate.worker", "--index", str(index))
        self.children[0].start()
        self._write()

    def given_up(self) -> bool:
        """Return whether it was told to stop. Raises Unavailable, in the control plane's own words, if that has ended."""
        control = self.children[0]
        if control.dead() and not self.stopping.is_set():
            said = control.log.read_text("utf-8", "replace").strip().rpartition("\n")[2].removeprefix("tidemill: ")
            raise Unavailable(said or f"the control plane ended at once; see why in {control.log}")
        return self.stopping.is_set()

    def serve(self) -> Running:
        """Start what answers predictions. Raises Unavailable."""
        return self._start_children("serve-")

    def complete(self) -> Running:
        """Start the children that work in the background, once they no longer keep the others from the processor. Raises Unavailable."""
        return self._start_children("")

    def run(self) -> None:
        """Keep the children alive until told to stop, then let them finish what they have under way."""
        while not self.stopping.wait(0.05):
            for child in self.children:
                if child.dead() and child.revival.due():
                    self._revive(child)
        self._stop_children()

    def stop(self) -> None:
        """Ask `run` to end. Safe in a signal handler."""
        self.stopping.set()

    def close(self) -> None:
        """Give ports and lock back."""
        for child in self.children:
            if not child.dead() and child.process:
                child.process.kill()
                child.process.wait()
        for bound in self.sockets:
            bound.close()
        if self.lock is not None:
            (self.run_folder / RUN_FILE).unlink(missing_ok=True)
            self.lock.close()

    def _start_children(self, prefix: str) -> Running:
        try:
            for child in self.children:
                if child.process is None and child.name.startswith(prefix):
                    child.start()
            return self._write()
        except OSError as error:
            raise Unavailable(f"a process of {self.home} could not be started: {error.strerror}; free some memory or disk") from error

    def _revive(self, child: Child) -> None:
        ended = f"{child.name} ended ({_ending(child.process.returncode if child.process else None)})"
        try:
            child.start()
            self._write()
        except OSError as error:
            self.say(f"{ended} and could not be started again: {error.strerror}; trying once more")
            return
        self.say(f"{ended} and was started again; its log: {child.log}")

    def _stop_children(self) -> None:
        # Those that ask come first, those that are asked last: a job that ends can still say so.
        for child in reversed(self.children):
            if not child.dead() and child.process:
                child.process.send_signal(signal.SIGTERM)
        gone = wait_until(lambda: all(child.dead() for child in self.children), timeout_s=self.settings.drain_s + CLOSE_S)
        for child in self.children if not gone else ():
            if not child.dead() and child.process:
                self.say(f"{child.name} did not end within {self.settings.drain_s} s and was killed")

    def _add(self, name: str, module: str, *options: str, fd: socket.socket | None = None) -> None:
        command = [sys.executable, "-m", module, "--home", str(self.home), "--supervised", *options]
        fds = (fd.fileno(),) if fd else ()
        self.children.append(Child(name, command, log=self.state / "logs" / f"{name}.log", fds=fds, environment=self.environment))

    def _take_lock(self) -> None:
        self.lock = (self.run_folder / "up.lock").open("ab")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.lock.close()
            self.lock = None
            raise AlreadyUp(self.home, read_running(self.home)) from error

    def _bind(self, port: int, option: str) -> tuple[socket.socket, str]:
        host = self.settings.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            bound = _listening(family, host, port)
            # Children of a supervisor that was killed let go of its ports in a moment.
            deadline = elapsed() + self.settings.drain_s + CLOSE_S
            while bound is None and any(map(lives, self.orphans)) and elapsed() < deadline:
                self.stopping.wait(0.05)
                bound = _listening(family, host, port)
        except OSError as error:
            raise Unavailable(f"cannot listen on {host} port {port}: {error.strerror}; choose another with {option} or --host") from error
        if bound is None:
            raise PortTaken(host, port, option)
        self.sockets.append(bound)
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        return bound, f"http://{shown}:{bound.getsockname()[1]}"

    def _hold(self, port: int, option: str) -> int:
        """Keep a port for children that listen there for themselves, and share it: gRPC takes no socket from others.

        Bound and not listening, so that no caller ends up here. First it listened alone, since whoever else shares ports so would not be
        told from our own children.
        """
        alone, url = self._bind(port, option)
        found = int(url.rpartition(":")[2])
        self.sockets.remove(alone)
        alone.close()
        held = socket.socket(alone.family, socket.SOCK_STREAM)
        self.sockets.append(held)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((self.settings.host, found))
        self.grpc_address = url.removeprefix("http://")
        return found

    def _write(self) -> Running:
        pids = {child.name: child.process.pid for child in self.children if child.process}
        running = Running(pid=os.getpid(), url=self.url, serve_url=self.serve_url, grpc_address=self.grpc_address, children=pids)
        scratch = self.run_folder / f".{RUN_FILE}.{os.getpid()}"
        scratch.write_bytes(encode(running))
        scratch.replace(self.run_folder / RUN_FILE)
        return running


def read_running(home: Path) -> Running | None:
    """Return what serves a workspace, None when nothing does."""
    folder = home / STATE_NAME / "run"
    try:
        running = decode((folder / RUN_FILE).read_bytes(), Running, what=RUN_FILE)
    except (FileNotFoundError, Invalid):
        return None
    return running if lives(running.pid) else None


def _port_holders(folder: Path) -> list[int]:
    """Return the processes that a supervisor which was killed left with its ports."""
    try:
        before = decode((folder / RUN_FILE).read_bytes(), Running, what=RUN_FILE)
    except (FileNotFoundError, Invalid):
        return []
    return [pid for name, pid in before.children.items() if name == "control" or name.startswith("serve-")]


def _listening(family: socket.AddressFamily, host: str, port: int) -> socket.socket | None:
    """Return a listening socket, None when somebody else listens there."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(1024)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return bound


def refuse_open_door(settings: Settings) -> None:
    """Raises NotPermitted for an address that others can reach while nobody has to say who they are."""
    try:
        loopback = settings.host == "localhost" or ipaddress.ip_address(settings.host).is_loopback
    except ValueError as error:
        raise Invalid(f"host {settings.host!r} is not an address; expected an IP address such as 127.0.0.1") from error
    if not loopback and settings.authentication == "off":
        raise NotPermitted(
            f"binding to {settings.host} would open this workspace to everybody on the network without a key; "
            'turn keys on first (authentication = "keys" under [settings]), or stay on 127.0.0.1'
        )


def _ending(code: int | None) -> str:
    if code is None:
        return "unknown"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
