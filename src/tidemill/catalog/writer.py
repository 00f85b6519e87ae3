"""The writing connection of a process on SQLite: threads take turns, and those that wait for one another are committed together."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, get_ident
from typing import Any

from sqlalchemy import Connection, Engine

from tidemill.core.errors import Unavailable

GROUP_MAX = 64
GLANCE_S = 0.05
FILE_PATIENCE_MS = 250  # how long SQLite itself looks for a file's lock to come free


class WriterBusy(Unavailable):
    """Somebody else writes at this moment. Only those who asked not to wait are told."""

    def __init__(self) -> None:
        super().__init__("the catalog is written to by somebody else at this moment; wait for your turn")


class _Group:
    """Transactions that are committed as one."""

    def __init__(self) -> None:
        self.size = 0
        self.over = False
        self.ended: Event | None = None  # made when somebody has to wait: mostly nobody does
        self.error: BaseException | None = None


class GroupWriter:
    """One connection for all writing threads of a process.

    A thread that ends its turn while others wait leaves the commit to them: each waits until the disk has what it wrote, but
    the disk is asked once for all of them. One thread alone commits at once. A turn that fails is undone alone, behind a
    savepoint; only what the database itself undoes whole (a full disk) fails for all of a group.

    A thread that must not wait, an event loop, takes all of its turns `at_once`.
    """

    def __init__(self, engine: Engine, *, patiently: Callable[[Callable[[], object]], None], patience_s: float) -> None:
        """Write by way of an engine in autocommit mode: BEGIN and COMMIT are said here. patiently repeats what a busy file refuses."""
        self._engine, self._patiently, self._patience_s = engine, patiently, patience_s
        self._turn, self._counting = Lock(), Lock()
        self._waiting = 0
        self._connection: Connection | None = None
        self._driver: Any = None
        self._file_patience_ms = FILE_PATIENCE_MS
        self._group: _Group | None = None
        self._holder: int | None = None  # the thread that has all turns until it commits
        self._lost: BaseException | None = None  # why what it wrote in turns that went well was undone

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield the connection for one turn; return when what was written in it is on disk (within `at_once`: at its end)."""
        if self._holder == get_ident():
            connection, group = self._join()
            with self._part(group):
                yield connection
            return
        self._take_turn()
        try:
            connection, group = self._join()
            try:
                with self._part(group):
                    yield connection
            finally:
                self._end_turn(group)
        finally:
            self._turn.release()
        self._await(group)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Commit all transactions that this thread makes within as one, on the way out, and wait for nobody.

        Raises WriterBusy, here or where a transaction begins, when another thread or process writes: nothing of that transaction
        was done. What the commit raises means that none of them was kept.
        """
        if not self._turn.acquire(blocking=False):
            raise WriterBusy
        self._holder, self._lost = get_ident(), None
        try:
            yield
        finally:
            self._holder = None
            try:
                if self._group is not None:
                    self._end(self._group, "COMMIT")
            finally:
                self._turn.release()
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        """Give the connection back."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _take_turn(self) -> None:
        with self._counting:
            self._waiting += 1
        try:
            if not self._turn.acquire(timeout=self._patience_s):
                raise Unavailable(
                    f"the catalog was kept busy for {self._patience_s:g} s by another thread of this process; try again in a while"
                )
        finally:
            with self._counting:
                self._waiting -= 1

    def _join(self) -> tuple[Connection, _Group]:
        if self._connection is None:
            self._connection, self._file_patience_ms = self._engine.connect(), FILE_PATIENCE_MS
            self._driver = self._connection.connection.driver_connection
        if self._group is None:
            self._begin()
            self._group = _Group()
        return self._connection, self._group

    def _begin(self) -> None:
        if self._holder is None:
            self._look_for(FILE_PATIENCE_MS)
            self._patiently(lambda: self._driver.execute("BEGIN IMMEDIATE"))
            return
        self._look_for(0)
        try:
            self._driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            raise WriterBusy from error

    def _look_for(self, patience_ms: int) -> None:
        """Have SQLite look for the file's lock for so long."""
        if self._file_patience_ms != patience_ms:  # a statement more in each turn would be felt
            self._driver.execute(f"PRAGMA busy_timeout={patience_ms}")
            self._file_patience_ms = patience_ms

    @contextmanager
    def _part(self, group: _Group) -> Iterator[None]:
        """Do one turn's work in a group; undo it alone when it fails."""
        later = group.size > 0
        try:
            if later:
                self._driver.execute("SAVEPOINT turn")
            yield
            if later:
                self._driver.execute("RELEASE turn")
            group.size += 1
        except BaseException as error:
            self._undo(group, error, later=later)
            raise

    def _undo(self, group: _Group, error: BaseException, *, later: bool) -> None:
        if later and self._driver.in_transaction:
            self._driver.execute("ROLLBACK TO turn")
            self._driver.execute("RELEASE turn")
        else:
            self._end(group, "ROLLBACK", error)

    def _end_turn(self, group: _Group) -> None:
        if self._group is not group:
            return
        if self._waiting == 0 or group.size >= GROUP_MAX:
            self._end(group, "COMMIT")
        elif group.ended is None:
            group.ended = Event()

    def _end(self, group: _Group, how: str, error: BaseException | None = None) -> None:
        self._group = None
        group.error = error
        try:
            if self._driver.in_transaction:
                self._driver.execute(how)
        except sqlite3.Error as refused:
            group.error = error or refused
            if self._driver.in_transaction:
                self._driver.execute("ROLLBACK")
        finally:
            if group.size:
                self._lost = group.error
            group.over = True
            if group.ended is not None:
                group.ended.set()

    def _await(self, group: _Group) -> None:
        # Whoever waited when this turn ended commits; should it have given up meanwhile, this thread does.
        while not group.over and group.ended is not None and not group.ended.wait(GLANCE_S):
            if self._turn.acquire(blocking=False):
                try:
                    if self._group is group:
                        self._end(group, "COMMIT")
                finally:
                    self._turn.release()
        if group.error is not None:
            raise group.error
