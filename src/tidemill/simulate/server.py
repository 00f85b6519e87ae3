"""A real server for a simulation: `tidemill up` as a process of its own, on free ports, living by a simulated clock."""

import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from tidemill.client.client import Client, connect
from tidemill.core.clock import SimulatedClock, wait_until
from tidemill.core.codec import decode
from tidemill.core.errors import TidemillError, Unavailable
from tidemill.core.settings import child_environment
from tidemill.core.values import Wire

CLOCK_FILE = "clock"
STOP_S = 30.0
SETTLE_S = 900.0


class Served(Wire, frozen=True, kw_only=True):
    """What `tidemill up --json` says once it is ready."""

    url: str
    serve_url: str


class SimulatedServer:
    """Starts the server on entry, stops it on exit; moves its clock in between."""

    def __init__(self, home: Path, start: datetime) -> None:
        self.home = home
        self.clock = SimulatedClock.create(home / ".tidemill" / CLOCK_FILE, start)
        self.process: subprocess.Popen[str] | None = None
        self.client: Client | None = None
        self.next_due: datetime | None = None

    @property
    def clock_setting(self) -> str:
        """The setting that makes a process live by this clock."""
        return f"simulated:{self.clock.path}"

    def start(self) -> Client:
        """Start all processes and return a client of them. Raises Unavailable with what the server said."""
        command = [sys.executable, "-m", "tidemill", "up", "--home", str(self.home), "--port", "0", "--serve-port", "0", "--supervised"]
        command += ["--clock", self.clock_setting, "--json"]
        log = self.home / ".tidemill" / "up.log"
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
        client = self.client = connect(self.served.url, serving_url=self.served.serve_url)
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

        if not wait_until(settled, timeout_s=SETTLE_S, every_s=0.002, slowest_s=0.05):
            raise Unavailable(f"the controller did not settle at {now} within {SETTLE_S:.0f} s; see {self.home / '.tidemill' / 'logs'}")

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
