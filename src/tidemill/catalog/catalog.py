"""The catalog: one database behind two engines, opened by URL. Owns connections and transactions, no noun's SQL."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from tidemill.catalog.readers import Readers
from tidemill.catalog.writer import FILE_PATIENCE_MS, GroupWriter, WriterBusy
from tidemill.core.errors import ExtraMissing, Invalid, Unavailable
from tidemill.core.settings import mask

BUSY_S = 60.0
READERS = 8


class Catalog:
    """Transactions on one database. Safe from several threads and processes; open it anew in a forked child.

    On SQLite a process has one writing connection: threads queue for it, so that processes, not threads, contend for the file's
    lock, and those that queue are committed together.
    """

    def __init__(self, url: str, *, folder: Path) -> None:
        """Open the database that url names. Raises Invalid, Unavailable."""
        self.url = url
        kind, _, rest = url.partition(":")
        if kind == "sqlite" and rest:
            self.path: Path | None = (folder / rest).resolve()
            self._engine = _sqlite_engine(self.path)
            self._group: GroupWriter | None = GroupWriter(self._engine, patiently=_patiently, patience_s=BUSY_S)
            self._readers: Readers | None = Readers(self._engine, count=READERS, patiently=_patiently, patience_s=BUSY_S)
        elif kind in ("postgresql", "postgres"):
            self.path = None
            self._engine = _postgres_engine(url)
            self._group = self._readers = None  # the server gathers the commits of its connections itself
        else:
            raise Invalid(f"catalog {mask(url)!r} is not known; expected sqlite:FILE or postgresql://USER:PASSWORD@HOST/NAME")

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection whose writes all happen or none. Waits its turn; raises Unavailable when that never comes."""
        with _readable(self.url), self._group.transaction() if self._group else self._engine.begin() as connection:
            yield connection

    @property
    def commits_together(self) -> bool:
        """Whether `at_once` can be asked for: SQLite has one writer, PostgreSQL gathers the commits of its connections itself."""
        return self._group is not None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Commit all transactions that this thread makes within as one, at the end, and never wait for another writer.

        Each is still whole or undone alone. Raises WriterBusy, here or where a transaction begins; whatever the end raises means
        that none was kept. For an event loop; what is read within by `reading` does not see what is not committed yet.
        """
        if self._group is None:
            raise WriterBusy
        with _readable(self.url), self._group.at_once():
            yield

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that sees one consistent state and must not write."""
        with _readable(self.url), self._readers.reading() if self._readers else self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give all connections back."""
        for lent in (self._group, self._readers):
            if lent is not None:
                lent.close()
        self._engine.dispose()


def _sqlite_engine(path: Path) -> Engine:
    made = create_engine(
        f"sqlite:///{path}",
        isolation_level="AUTOCOMMIT",  # those who lend its connections begin and end transactions by themselves
        poolclass=NullPool,
        connect_args={"timeout": FILE_PATIENCE_MS / 1000, "check_same_thread": False, "isolation_level": None},
    )
    event.listen(made, "connect", _prepare_sqlite)
    return made


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "wal_autocheckpoint=4000",  # pages that are written over and over go to the file less often; a crash leaves 16 MB to go through
        "foreign_keys=ON",
        "cache_size=-16000",
        "temp_store=MEMORY",
        "case_sensitive_like=ON",
    ):
        _patiently(partial(cursor.execute, f"PRAGMA {pragma}"))
    cursor.close()


def _patiently(act: Callable[[], object]) -> None:
    """Do something that a busy database refuses before anything was done, until it no longer refuses."""
    try:
        act()  # mostly it goes at once
        return
    except (OperationalError, sqlite3.OperationalError) as error:
        if not _is_busy(error):
            raise
    for attempt in Retrying(
        retry=retry_if_exception(_is_busy), stop=stop_after_delay(BUSY_S), wait=wait_random_exponential(0.002, max=0.25), reraise=True
    ):
        with attempt:
            act()


def _is_busy(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, (OperationalError, sqlite3.OperationalError)) and ("locked" in text or "busy" in text)


def _postgres_engine(url: str) -> Engine:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise ExtraMissing("psycopg", "postgres") from error
    return create_engine("postgresql+psycopg://" + url.partition("://")[2], pool_size=READERS, max_overflow=READERS, pool_pre_ping=True)


@contextmanager
def _readable(url: str) -> Iterator[None]:
    """Turn the engine's word for an unreachable, full or read-only database into one sentence."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        reason = str(cause).strip().splitlines()[0]
        signs = {
            "unable to open database": "its folder is missing or not writable",
            "readonly database": "it is on a read-only disk or not owned by you; make the workspace folder writable",
            "disk is full": "the disk is full; free some space and try again, nothing was half-written",
            "disk I/O error": "the disk refused a read or write; check it and try again",
            "database is locked": "another process kept it locked for a minute; see who with: tidemill doctor",
            "not a database": "the file is damaged; put a copy of it from before in its place",
            "malformed": "the file is damaged; put a copy of it from before in its place",
            "connection failed": "the server cannot be reached",
            "server closed the connection": "the server went away",
        }
        for sign, meaning in signs.items():
            if sign in reason:
                raise Unavailable(f"catalog {mask(url)} could not be used: {meaning} ({reason})") from error
        raise
