"""Takes connections from a socket that several workers share, so that each has about as many as the next.

Left to themselves they do not: whoever wakes first empties the queue, and one core answers everybody while the others rest. Here a
worker that has more connections than another one that lives leaves the next to that one, for a moment: should the other be busy, it
takes it after all, so nobody waits for long. Sockets of their own on one port (SO_REUSEPORT) would spread callers by chance instead,
and lose those in the queue of a worker that was killed.
"""

import asyncio
import logging
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path

from tidemill.core.process import lives
from tidemill.serving.http import HttpServer

LOG = logging.getLogger(__name__)
SLOTS = 256
LEAVE_S = 0.002  # for the others to take what is left to them
FULL_S = 0.5  # after no connection could be taken, for lack of descriptors or memory


class Tally:
    """How many connections each worker has: one page of memory that all map, a process id and a count a worker, 8 bytes each."""

    def __init__(self, path: Path, index: int) -> None:
        """index: the worker's own, below SLOTS. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(descriptor, SLOTS * 16)
            self._page = mmap.mmap(descriptor, SLOTS * 16)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._page).cast("q")
        self._index, self._pid = index, os.getpid()
        self.set(0)
        self._words[index * 2] = self._pid

    def set(self, count: int) -> None:
        """Tell the others how many connections this worker has."""
        self._words[self._index * 2 + 1] = count

    def least(self) -> int | None:
        """Return the fewest connections that another living worker has, None when there is no other."""
        pids, counts = self._words[::2].tolist(), self._words[1::2].tolist()
        others = [(count, pid) for pid, count in zip(pids, counts, strict=True) if pid and pid != self._pid]
        return next((count for count, pid in sorted(others) if lives(pid)), None)

    def close(self) -> None:
        """Count no more."""
        if self._words[self._index * 2] == self._pid:
            self._words[self._index * 2] = 0
        self._words.release()
        self._page.close()


class Acceptor:
    """Takes the connections of one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, http: HttpServer, tally: Tally) -> None:
        """listener: non-blocking, listening, and shared; it is closed with the acceptor, in this process."""
        self._loop, self._listener, self._http, self._tally = loop, listener, http, tally
        self._coming: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None
        self._listen()

    def tell(self) -> None:
        """Tell the other workers how many connections there are; call it now and then, since some end."""
        self._tally.set(self._count())

    def close(self) -> None:
        """Take no more connections."""
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self._tally.close()

    def _count(self) -> int:
        return len(self._http.connections) + len(self._coming)

    def _listen(self) -> None:
        self._later = None
        self._loop.add_reader(self._listener, self._ready)

    def _ready(self) -> None:
        least = self._tally.least()
        if least is not None and least < self._count():
            self._pause(LEAVE_S, self._take_after_all)
        else:
            self._take()

    def _take_after_all(self) -> None:
        self._listen()
        self._take()

    def _pause(self, for_s: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._later = self._loop.call_later(for_s, then)

    def _take(self) -> None:
        try:
            taken, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was quicker, or the caller thought better of it
        except OSError as error:
            LOG.error("no connection can be taken: %s; more open files may help (ulimit -n)", error)
            self._pause(FULL_S, self._listen)
            return
        taken.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._http.connect, taken))
        self._coming.add(task)
        task.add_done_callback(self._came)
        self.tell()

    def _came(self, task: asyncio.Task[object]) -> None:
        self._coming.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            LOG.warning("a connection ended before it began: %s", error)
