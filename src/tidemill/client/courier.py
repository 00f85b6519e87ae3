"""Takes records from a lane on disk to where they go, in order, for as long as it takes: whoever logs never waits for a server."""

import logging
import random
from collections import deque
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from threading import Condition, Event, Thread
from typing import NamedTuple

from tidemill.client.http import pause_s
from tidemill.client.spool import LaneReader, LaneWriter, Place
from tidemill.core.clock import elapsed
from tidemill.core.errors import NotPermitted, TidemillError, Unavailable

LOG = logging.getLogger("tidemill.run")
MEMORY_BYTES_MAX = 64 << 20
LONGEST_PAUSE_S = 15.0
# A server that says that it failed itself may do better the next time, or stumble over this record for ever.
FAILURES_MAX = 8
STALL_S = 30.0


class Progress(NamedTuple):
    """How far a lane has come. away: what the last attempt met when nobody took it; refusal: the first; lost: for want of any disk."""

    kept: int
    settled: int
    refused: int
    lost: int
    away: TidemillError | None
    refusal: TidemillError | None

    @property
    def waiting(self) -> int:
        return self.kept - self.settled


class Courier:
    """Keeps records in a lane and delivers them with some workers; one worker keeps their order. Safe from several threads.

    deliver takes one record to its end and raises Unavailable or NotPermitted when that must wait, another TidemillError when it
    can never be; such records are kept in the lane `refused` beside. Without deliver, records are kept only. While the disk
    refuses, up to MEMORY_BYTES_MAX wait in memory.
    """

    def __init__(self, folder: Path, deliver: Callable[[bytes], None] | None, *, workers: int = 1) -> None:
        """Raises OSError when the folder cannot be made."""
        self.folder = folder
        self._deliver, self._workers = deliver, workers
        self._lane, self._reader = LaneWriter(folder), LaneReader(folder)
        self._changed = Condition()
        self._nudge = Event()
        self._stopped = False
        self._threads: list[Thread] = []
        self._memory: deque[bytes] = deque()
        self._memory_bytes = 0
        self._under_way: dict[Place, bool] = {}  # in the order in which they were read; True: settled
        self._kept = self._settled = self._refused = self._lost = self._tries = 0
        self._away: TidemillError | None = None
        self._refusal: TidemillError | None = None

    def put(self, record: bytes) -> None:
        """Keep a record and have it delivered. Raises Invalid for one that is too large."""
        with self._changed:
            self._rescue()
            if self._memory:
                self._remember(record)
            else:
                try:
                    self._lane.append(record)
                except OSError as error:
                    LOG.warning("%s cannot be written (%s); what is logged waits in memory", self.folder, error.strerror)
                    self._remember(record)
            self._kept += 1
            self._changed.notify_all()
            missing = self._deliver is not None and len(self._threads) < self._workers and not self._stopped
        if missing:
            self._hire()

    def progress(self) -> Progress:
        """Return how far it has come."""
        with self._changed:
            return self._progress()

    def wait(self, timeout_s: float, *, while_away: bool = True) -> Progress:
        """Wait until all that was kept before this call has settled, or time is up; then return how far it has come.

        Without while_away it ends too when an attempt ended after this call with nobody there, or nothing has moved for a while.
        """
        self._nudge.set()
        with self._changed:
            target, tries, deadline = self._kept, self._tries, elapsed() + timeout_s
            seen, stalled = self._settled, elapsed() + STALL_S
            while self._settled < target and self._threads and (left := deadline - elapsed()) > 0:
                if self._settled > seen:
                    seen, stalled = self._settled, elapsed() + STALL_S
                if not while_away and ((self._away is not None and self._tries > tries) or elapsed() > stalled):
                    break
                self._changed.wait(min(left, 1.0))
            return self._progress()

    def stop(self) -> None:
        """Deliver nothing more; what is kept stays on disk."""
        with self._changed:
            self._rescue()
            self._stopped = True
            self._changed.notify_all()
        self._nudge.set()
        try:
            self._lane.close()
        except OSError as error:
            LOG.warning("%s may not outlive a power cut: %s", self.folder, error.strerror)

    def forget(self) -> None:
        """Let go of everything in a forked child, where neither the threads nor the files are its own."""
        self._lane.forget()
        self._reader.close()

    def _progress(self) -> Progress:
        return Progress(self._kept, self._settled, self._refused, self._lost, self._away, self._refusal)

    def _hire(self) -> None:
        with self._changed:
            while len(self._threads) < self._workers:
                thread = Thread(target=self._work, name="tidemill-courier", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is about to end: what is kept is sent another time
                    return
                self._threads.append(thread)

    def _work(self) -> None:
        while (claimed := self._claim()) is not None:
            self._carry(*claimed)

    def _claim(self) -> tuple[bytes, Place | None] | None:
        """Return a record nobody has taken yet, None at the end."""
        with self._changed:
            while not self._stopped:
                if (found := self._reader.next()) is not None:
                    self._under_way[found[1]] = False
                    return found
                if self._memory:
                    record = self._memory.popleft()
                    self._memory_bytes -= len(record)
                    return record, None
                self._changed.wait()
        return None

    def _carry(self, record: bytes, place: Place | None) -> None:
        """Deliver a record, however long it takes, or set it aside when it can never be."""
        attempt, failures = 0, 0
        while not self._stopped and self._deliver is not None:
            try:
                self._deliver(record)
            except (Unavailable, NotPermitted) as error:
                attempt += 1
                self._met(error)
            except TidemillError as error:
                failures += 1
                if type(error) is not TidemillError or failures >= FAILURES_MAX:
                    self._set_aside(record, error)
                    break
            except Exception as error:  # the edge of a thread: what nobody foresaw must not end it
                LOG.exception("a record of %s could not be sent", self.folder)
                self._set_aside(record, TidemillError(str(error)))
                break
            else:
                self._settle(place)
                return
            self._nudge.clear()
            self._nudge.wait(min(LONGEST_PAUSE_S, 8 * pause_s(attempt + failures, random.random())))
        else:
            return
        self._settle(place)

    def _settle(self, place: Place | None) -> None:
        with self._changed:
            self._settled += 1
            self._away = None
            if place is not None:
                self._under_way[place] = True
                arrived = list(takewhile(self._under_way.__getitem__, self._under_way))
                for each in arrived:
                    del self._under_way[each]
                if arrived:
                    self._note(arrived[-1])
            self._changed.notify_all()

    def _note(self, arrived: Place) -> None:
        try:
            self._reader.take(arrived)
        except OSError:  # a full disk: what has arrived is sent once more one day, which changes nothing
            LOG.debug("%s: what has arrived could not be noted", self.folder, exc_info=True)

    def _met(self, error: TidemillError) -> None:
        with self._changed:
            self._tries += 1
            first, self._away = self._away is None and self._tries == 1, error
            self._changed.notify_all()
        if first:
            LOG.warning("%s; what is logged lies in %s and goes there when it answers again", error, self.folder)

    def _set_aside(self, record: bytes, error: TidemillError) -> None:
        with self._changed:
            self._refused += 1
            first, self._refusal = self._refusal is None, self._refusal or error
            aside = LaneWriter(self.folder / "refused")
            try:
                aside.append(record)
            except OSError:
                self._lost += 1
            finally:
                aside.close()
        if first:
            LOG.warning("the server refused something that was logged: %s; it is kept in %s", error, aside.folder)

    def _remember(self, record: bytes) -> None:
        if self._memory_bytes + len(record) > MEMORY_BYTES_MAX:
            if not self._lost:
                LOG.error("%s cannot be written and nobody takes what is logged: from now on it is lost", self.folder)
            self._lost += 1
            self._settled += 1
            return
        self._memory.append(record)
        self._memory_bytes += len(record)

    def _rescue(self) -> None:
        """Bring to disk what had to wait in memory."""
        while self._memory:
            try:
                self._lane.append(self._memory[0])
            except OSError:
                return
            self._memory_bytes -= len(self._memory.popleft())
