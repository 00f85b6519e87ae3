"""Streams in a local log: an SQLite file a folder, for one machine and no server."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tidemill.core.clock import elapsed
from tidemill.core.errors import Conflict
from tidemill.store.streams import REFUSED, Message, Outcome, StreamUnavailable

LOG_FILE = "streams.db"
LOOK_S = 0.02
BUSY_S = 30.0
_TABLES = """
CREATE TABLE IF NOT EXISTS messages (topic TEXT, seq INTEGER, key TEXT, data BLOB, PRIMARY KEY (topic, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (topic TEXT, member TEXT, seq INTEGER, PRIMARY KEY (topic, member)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answered (topic TEXT, key TEXT, PRIMARY KEY (topic, key)) WITHOUT ROWID;
"""


class _Log:
    """The file of a folder, and what stands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(folder / LOG_FILE, isolation_level=None, timeout=BUSY_S)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")  # what was settled survives a power cut
            self.connection.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise StreamUnavailable(f"file:{folder}", str(error)) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Write all or nothing."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StreamUnavailable(f"file:{self.folder}", str(error)) from error

    def put(self, topic: str, items: Sequence[tuple[str, bytes]]) -> None:
        """Add messages behind all others, in the caller's transaction."""
        ((last,),) = self.connection.execute("SELECT coalesce(max(seq), 0) FROM messages WHERE topic = ?", [topic])
        rows = [(topic, last + number, key, data) for number, (key, data) in enumerate(items, 1)]
        self.connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", rows)

    def after(self, topic: str, place: int, most: int) -> list[Message]:
        """Return messages behind a place."""
        query = "SELECT seq, key, data FROM messages WHERE topic = ? AND seq > ? ORDER BY seq LIMIT ?"
        return [Message(id=str(seq), key=key, data=data) for seq, key, data in self.connection.execute(query, [topic, place, most])]


class LocalFlow:
    """One consumer a group: it holds a lock, which is gone with its process."""

    def __init__(self, folder: Path, source: str, target: str | None, *, group: str) -> None:
        self._log, self._source, self._target, self._group = _Log(folder), source, target, group
        self._lock = os.open(folder / f"{source}~{group}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise Conflict(
                f"another consumer of group {group!r} reads file:{folder}/{source}; stop it first, or name another --group"
            ) from None
        self._place = self._settled()

    def read(self, most: int, *, wait_s: float) -> list[Message]:
        deadline = elapsed() + wait_s
        while not (found := self._log.after(self._source, self._place, most)) and elapsed() < deadline:
            time.sleep(LOOK_S)
        if found:
            self._place = int(found[-1].id)
        return found

    def settle(self, outcomes: Sequence[Outcome]) -> int:
        fresh: list[tuple[str, bytes]] = []
        refused: list[tuple[str, bytes]] = []
        with self._log.writing() as tx:
            place = self._settled()
            for outcome in outcomes:
                if int(outcome.message.id) <= place:
                    continue
                if outcome.refused:
                    refused.append((outcome.key, outcome.data))
                elif (
                    self._target is not None
                    and tx.execute("INSERT OR IGNORE INTO answered VALUES (?, ?)", [self._target, outcome.key]).rowcount
                ):
                    fresh.append((outcome.key, outcome.data))
            if self._target is not None:
                self._log.put(self._target, fresh)
            self._log.put(self._source + REFUSED, refused)
            reached = max((int(outcome.message.id) for outcome in outcomes), default=place)
            row = [self._source, self._group, max(place, reached)]
            tx.execute("INSERT INTO places VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seq = excluded.seq", row)
        return len(fresh)

    def lag(self) -> int | None:
        query = "SELECT count(*) FROM messages WHERE topic = ? AND seq > ?"
        ((found,),) = self._log.connection.execute(query, [self._source, self._settled()])
        return int(found)

    def close(self) -> None:
        self._log.connection.close()
        os.close(self._lock)

    def _settled(self) -> int:
        query = "SELECT seq FROM places WHERE topic = ? AND member = ?"
        found = self._log.connection.execute(query, [self._source, self._group]).fetchone()
        return int(found[0]) if found else 0


class LocalTopic:
    """A topic of the log of a folder."""

    def __init__(self, folder: Path, topic: str) -> None:
        self._log, self._topic = _Log(folder), topic

    def append(self, messages: Sequence[tuple[str, bytes]]) -> None:
        with self._log.writing():
            self._log.put(self._topic, messages)

    def messages(self) -> list[Message]:
        return self._log.after(self._topic, 0, -1)

    def close(self) -> None:
        self._log.connection.close()


def open_flow(place: str, source: str, target: str | None, *, group: str, idle_s: float) -> LocalFlow:
    """Open `file:FOLDER`. idle_s has no meaning: a dead consumer is known to be dead."""
    return LocalFlow(_folder(place), source, target, group=group)


def open_topic(place: str, topic: str) -> LocalTopic:
    """Open a topic of `file:FOLDER`."""
    return LocalTopic(_folder(place), topic)


def _folder(place: str) -> Path:
    return Path(place.removeprefix("file:").removeprefix("//"))
