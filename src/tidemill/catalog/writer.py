"""The writing connection of a process on SQLite: threads take turns, and those that wait for one another are committed together."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock
from typing import Any

from sqlalchemy import Connection, Engine

from tidemill.core.errors import Unavailable

GROUP_MAX = 64
GLANCE_S = 0.05


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
    """

    def __init__(self, engine: Engine, *, patiently: Callable[[Callable[[], object]], None], patience_s: float) -> None:
        """Write by way of an engine in autocommit mode: BEGIN and COMMIT are said here. patiently repeats what a busy file refuses."""
        self._engine, self._patiently, self._patience_s = engine, patiently, patience_s
        self._turn, self._counting = Lock(), Lock()
        self._waiting = 0
        self._connection: Connection | None = None
        self._driver: Any = None
        self._group: _Group | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield the connection for one turn; return when what was written in it is on disk."""
        self._take_turn()
        try:
            connection, group = self._join()
            later = group.size > 0
            try:
                if later:
                    self._driver.execute("SAVEPOINT turn")
                yield connection
                if later:
                    self._driver.execute("RELEASE turn")
                group.size += 1
            except BaseException as error:
                self._undo(group, error, later=later)
                raise
            finally:
                self._end_turn(group)
        finally:
            self._turn.release()
        self._await(group)

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
            self._connection = self._engine.connect()
            self._driver = self._connection.connection.driver_connection
        if self._group is None:
            self._patiently(lambda: self._driver.execute("BEGIN IMMEDIATE"))
            self._group = _Group()
        return self._connection, self._group

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
