"""Every time stamp of Tidemill. What happened to data and models reads a `Clock`; how long machines take reads `elapsed`."""

import mmap
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from tidemill.core.errors import Invalid, NotFound

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CELL_BYTES = 8


class Clock(Protocol):
    """Tells the time of the world: aware, UTC, never running backwards by itself. Safe from several threads."""

    @property
    def simulated(self) -> bool:
        """True when a driver advances this clock, so that nobody waits for real time to pass."""
        ...

    def now(self) -> datetime: ...

    def micros(self) -> int:
        """Return the same as microseconds since 1970, which is cheaper."""
        ...


class SystemClock:
    """The machine's clock."""

    simulated = False

    def now(self) -> datetime:
        return datetime.now(UTC)

    def micros(self) -> int:
        return time.time_ns() // 1000


class ManualClock:
    """A clock inside one process that moves when told. For tests."""

    simulated = True

    def __init__(self, start: datetime) -> None:
        self._now = utc(start)

    def now(self) -> datetime:
        return self._now

    def micros(self) -> int:
        return micros(self._now)

    def advance(self, by: timedelta) -> datetime:
        """Move forward. Raises Invalid for a negative span."""
        if by < timedelta(0):
            raise Invalid(f"a clock moves forward only, asked to move by {by}")
        self._now += by
        return self._now


class SimulatedClock:
    """A clock that all processes of a workspace share: eight bytes in a mapped file, advanced by its driver."""

    simulated = True

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise NotFound(f"simulated clock {path} does not exist; create it with SimulatedClock.create")
        self.path = path
        if path.stat().st_size != _CELL_BYTES:
            raise Invalid(f"{path} is not a simulated clock: it has {path.stat().st_size} bytes, expected {_CELL_BYTES}; create it anew")
        with path.open("r+b") as file:
            # One aligned word, moved whole. Not struct.pack_into: it fills with zeros first, and for a moment it was 1970.
            self._cell = memoryview(mmap.mmap(file.fileno(), _CELL_BYTES)).cast("q")

    @classmethod
    def create(cls, path: Path, start: datetime) -> "SimulatedClock":
        """Make the file, standing at start."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.name}.{os.getpid()}")
        scratch.write_bytes(micros(start).to_bytes(_CELL_BYTES, sys.byteorder, signed=True))
        scratch.replace(path)
        return cls(path)

    def now(self) -> datetime:
        return from_micros(self._cell[0])

    def micros(self) -> int:
        return int(self._cell[0])

    def advance_to(self, moment: datetime) -> None:
        """Move forward to moment. Raises Invalid when it lies in the past."""
        target = micros(moment)
        if target < self._cell[0]:
            raise Invalid(f"a clock moves forward only: it stands at {self.now()}, asked to go to {moment}")
        self._cell[0] = target


def open_clock(source: str, *, base: Path) -> Clock:
    """Return the clock that a setting names: `system`, or `simulated:FILE`, below base when relative. Raises Invalid, NotFound."""
    kind, _, rest = source.partition(":")
    if kind == "system" and not rest:
        return SystemClock()
    if kind == "simulated" and rest:
        return SimulatedClock(base / rest)
    raise Invalid(f"clock {source!r} is not known; expected 'system' or 'simulated:FILE'")


def utc(moment: datetime) -> datetime:
    """Return moment in UTC. Raises Invalid for a naive one."""
    if moment.tzinfo is None:
        raise Invalid(f"time {moment.isoformat()} has no time zone; write it as {moment.isoformat()}Z")
    return moment.astimezone(UTC)


def micros(moment: datetime) -> int:
    """Return microseconds since 1970 of an aware moment: the form in which times are stored. Raises Invalid for a naive one."""
    if moment.tzinfo is None:
        utc(moment)  # says what is wrong
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_micros(value: int) -> datetime:
    """Return the moment of microseconds since 1970."""
    return EPOCH + timedelta(microseconds=value)


def parse_moment(text: str) -> datetime:
    """Read an RFC 3339 time or an ISO date (midnight UTC). Raises Invalid."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid(f"time {text!r} was not understood; expected a form like 2013-06-01T12:00:00Z") from error
    return utc(moment.replace(tzinfo=UTC) if len(text) == 10 else moment)


def wall() -> float:
    """Return real seconds since 1970: for leases and heartbeats of machines, which no simulation may stretch."""
    return time.time()


def wall_micros() -> int:
    """Return real microseconds since 1970: the time of a point that a running program logs."""
    return time.time_ns() // 1000


# Seconds of a monotonic timer: differences of it are latencies. The function itself, for it is called several times a prediction.
elapsed = time.perf_counter


def wait_until(ready: Callable[[], bool], *, timeout_s: float, every_s: float = 0.01, slowest_s: float | None = None) -> bool:
    """Poll ready until it is true or real time runs out; return whether it came true.

    With slowest_s the pauses grow from every_s up to it, so that a long wait costs little.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if ready():
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(every_s, left))
        if slowest_s is not None:
            every_s = min(slowest_s, every_s * 1.5)
