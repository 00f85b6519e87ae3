"""A real server as processes of its own, on free ports, for as long as a block of code runs; and one that lives by a simulated clock."""

import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import TracebackType

from tidemill.client.client import Client, connect
from tidemill.core.clock import SimulatedClock, wait_until
from tidemill.core.codec import decode
from tidemill.core.errors import TidemillError, Unavailable
from tidemill.core.settings import STATE_NAME, child_environment
from tidemill.core.values import Wire
from tidemill.govern.workspace import init_workspace

CLOCK_FILE = "clock"
STOP_S = 30.0
SETTLE_S = 900.0


class Served(Wire, frozen=True, kw_only=True):
    """What `tidemill up --json` says once it is ready."""

    url: str
    serve_url: str


class LocalServer:
    """`tidemill up` for a workspace folder, made when it is new: `with local_server("work") as client: ...`."""

    def __init__(self, home: Path | str, *, clock: str = "system") -> None:
        self.home, self.clock_setting = Path(home).resolve(), clock
        self.process: subprocess.Popen[str] | None = None
        self.client: Client | None = None
        self.served = Served(url="", serve_url="")

    def __enter__(self) -> Client:
        try:
            return self.start()
        except BaseException:  # Ctrl-C too: processes that were started must not outlive a block that was never entered
            self.stop()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> Client:
        """Start all processes and return a client of them. Raises Unavailable with what the server said."""
        init_workspace(self.home, clock=self.clock_setting).close()
        command = [sys.executable, "-m", "tidemill", "up", "--home", str(self.home), "--port", "0", "--serve-port", "0", "--supervised"]
        command += ["--clock", self.clock_setting, "--json"]
        log = self.home / STATE_NAME / "up.log"
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=child_environment(),
                start_new_session=True,
            )
        with self.process.stdout as out:  # type: ignore[union-attr]  # a pipe was asked for
            line = out.readline()
        if not line.strip():
            raise Unavailable(f"the server did not start: {log.read_text('utf-8').strip() or 'it said nothing'}")
        self.served = decode(line, Served, what="the server's first line")
        self.client = connect(self.served.url, serving_url=self.served.serve_url)
        return self.client

    def stop(self) -> None:
        """Stop all processes cleanly."""
        if self.client is not None:
            self.client.close()
        if self.process is None:
            return
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class SimulatedServer(LocalServer):
    """A local server whose clock is moved by its driver, as far and as fast as the controller has done what was due."""

    def __init__(self, home: Path, start: datetime) -> None:
        self.clock = SimulatedClock.create(home.resolve() / STATE_NAME / CLOCK_FILE, start)
        super().__init__(home, clock=f"simulated:{self.clock.path}")
        self.next_due: datetime | None = None

    def start(self) -> Client:
        """Start all processes, wait until the controller has looked around, return a client."""
        client = super().start()
        self.settle()
        return client

    def advance(self, to: datetime) -> None:
        """Move the clock on to a moment, stopping wherever the controller has something to do, until it has done it."""
        while self.next_due is not None and self.next_due <= to:
            if self.next_due > self.clock.now():
                self.clock.advance_to(self.next_due)
            self.settle()
        self.clock.advance_to(to)

    def settle(self) -> None:
        """Wait until the controller has done all that is due at this moment, and note when it is due next. Raises Unavailable."""
        now, client = self.clock.now(), self.client
        if client is None:
            raise Unavailable("the server was not started")

        def settled() -> bool:
            try:
                state = client.controller()
            except TidemillError:  # the control plane may be gone for a moment: it is started again
                return False
            at, due = state["settled_at"], state["next_due"]
            self.next_due = datetime.fromisoformat(due) if due else None
            waiting = self.next_due is not None and self.next_due <= now
            return at is not None and not waiting and not state["behind"] and not state["open_jobs"]

        if not wait_until(settled, timeout_s=SETTLE_S, every_s=0.002, slowest_s=0.02):
            raise Unavailable(f"the controller did not settle at {now} within {SETTLE_S:.0f} s; see {self.home / STATE_NAME / 'logs'}")


def local_server(home: Path | str) -> LocalServer:
    """Serve a workspace folder while a block runs; what is bound is a client of it."""
    return LocalServer(home)
