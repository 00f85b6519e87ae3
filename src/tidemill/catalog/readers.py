"""The reading connections of a process on SQLite: a few, each lent to one thread at a time, and begun and ended without ceremony."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Semaphore
from typing import Any

from sqlalchemy import Connection, Engine

from tidemill.core.errors import Unavailable


class Readers:
    """Connections that see one consistent state for as long as they are lent. Safe from several threads."""

    def __init__(self, engine: Engine, *, count: int, patiently: Callable[[Callable[[], object]], None], patience_s: float) -> None:
        """Read by way of an engine in autocommit mode: BEGIN and its end are said here. patiently repeats what a busy file refuses."""
        self._engine, self._patiently, self._patience_s = engine, patiently, patience_s
        self._free = Semaphore(count)
        self._idle: deque[tuple[Connection, Any]] = deque()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that must not write. Raises Unavailable when none gets free."""
        if not self._free.acquire(timeout=self._patience_s):
            raise Unavailable(f"all connections to the catalog were busy for {self._patience_s:g} s; try again in a while")
        try:
            connection, driver = self._idle.pop() if self._idle else self._open()
            try:
                self._patiently(lambda: driver.execute("BEGIN"))
                yield connection
            finally:
                if driver.in_transaction:
                    driver.execute("ROLLBACK")  # it wrote nothing; this ends the view
                self._idle.append((connection, driver))
        finally:
            self._free.release()

    def close(self) -> None:
        """Give all connections back."""
        while self._idle:
            self._idle.pop()[0].close()

    def _open(self) -> tuple[Connection, Any]:
        connection = self._engine.connect()
        return connection, connection.connection.driver_connection
