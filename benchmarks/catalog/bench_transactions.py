"""Catalog transactions of one hash-chained event each, beside bare commits of one row on the same engine."""

import multiprocessing
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, in_turns, options
from tests.services import postgres_server

from tidemill.catalog.catalog import Catalog
from tidemill.catalog.events import EventBody, append, last_seq, verify_chain
from tidemill.catalog.migrate import migrate

PROCESSES = 16
AT = datetime(2013, 6, 1, tzinfo=UTC)
BODY = '{"number":1,"words":"one row of about the size of an event"}'
ROW = ("bench", "0" * 32, "owner", "bench.written", "run:1", "because", BODY, "0" * 64)
TABLE = "CREATE TABLE bare (seq {key}, project TEXT, id TEXT, actor TEXT, kind TEXT, subject TEXT, reason TEXT, body TEXT, hash TEXT)"
COLUMNS = "project, id, actor, kind, subject, reason, body, hash"
Writer = Callable[[str, Path, int], None]


class Written(EventBody, frozen=True, kw_only=True, tag="bench.written"):
    """What the benchmark writes."""

    number: int
    words: str = "one row of about the size of an event"


def events(url: str, folder: Path, count: int) -> None:
    """Write events through the catalog, one a transaction."""
    catalog = Catalog(url, folder=folder)
    for number in range(count):
        with catalog.transaction() as tx:
            append(tx, Written(number=number), project="bench", actor="owner", at=AT, subject="run:1", reason="because")
    catalog.close()


def sqlite_rows(_url: str, folder: Path, count: int) -> None:
    """Commit rows by the standard library alone, as durably as the catalog does."""
    with closing(sqlite3.connect(folder / "bare.db", timeout=60, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        for _ in range(count):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"INSERT INTO bare ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ROW)
            connection.execute("COMMIT")


def postgres_rows(url: str, _folder: Path, count: int) -> None:
    """Commit rows by psycopg alone."""
    with closing(psycopg.connect(url)) as connection:
        for _ in range(count):
            connection.execute(f"INSERT INTO bare ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", ROW)
            connection.commit()


def obey(pipe: Any) -> None:
    """Write whatever one is told to, again and again: the life of a writing process."""
    pipe.send("here")
    while (order := pipe.recv()) is not None:
        write, url, folder, count = order
        write(url, folder, count)
        pipe.send("written")


class Crowd:
    """Writing processes that are there before the clock runs."""

    def __init__(self, size: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.members = []
        for _ in range(size):
            mine, theirs = spawn.Pipe()
            process = spawn.Process(target=obey, args=(theirs,))
            process.start()
            self.members.append((process, mine))
        for _, pipe in self.members:
            pipe.recv()

    def write(self, write: Writer, url: str, folder: Path, count: int) -> float:
        """Return seconds until each member has written count times."""
        start = perf_counter()
        for _, pipe in self.members:
            pipe.send((write, url, folder, count))
        for _, pipe in self.members:
            pipe.recv()
        return perf_counter() - start

    def close(self) -> None:
        for process, pipe in self.members:
            pipe.send(None)
            process.join()


@contextmanager
def prepared(url: str, folder: Path) -> Iterator[Callable[[], int]]:
    """Make the schema; yield what counts the events, after which the chain must hold."""
    catalog = Catalog(url, folder=folder)
    migrate(catalog)

    def written() -> int:
        with catalog.reading() as tx:
            assert verify_chain(tx, "bench").verified
            return last_seq(tx, "bench")

    yield written
    catalog.close()


def engine(report: Report, told: Options, crowd: Crowd, url: str, folder: Path, rows: Writer, name: str) -> None:
    """Measure one engine: one process, then many."""
    one, each, rounds = told.size(1000, 20), told.size(250, 3), told.rounds(3)
    many = len(crowd.members)

    def alone(write: Writer) -> float:
        start = perf_counter()
        write(url, folder, one)
        return one / (perf_counter() - start)

    with prepared(url, folder) as written:
        tasks = {
            f"{name}, 1 process, bare rows": lambda: alone(rows),
            f"{name}, 1 process, events": lambda: alone(events),
            f"{name}, {many} processes, bare rows": lambda: many * each / crowd.write(rows, url, folder, each),
            f"{name}, {many} processes, events": lambda: many * each / crowd.write(events, url, folder, each),
        }
        for what, values in in_turns(rounds, tasks).items():
            report.add(what, "commits/s", values, against=what.replace("events", "bare rows") if "events" in what else None)
        assert written() == rounds * (one + many * each), "an event was lost"


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    report = Report(
        "catalog",
        f"one event a transaction, 1 process × 1,000, {PROCESSES} processes × 250, all on one project's chain; "
        "bare: the same engine, one INSERT a commit",
        ("sqlalchemy", "psycopg"),
    )
    report.note(
        f"SQLite {sqlite3.sqlite_version}: WAL, synchronous=FULL on both sides; after each run nothing is lost and the chain verifies"
    )
    crowd = Crowd(told.size(PROCESSES, 2))
    try:
        with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
            folder = Path(name)
            with closing(sqlite3.connect(folder / "bare.db")) as connection:
                connection.execute(TABLE.format(key="INTEGER PRIMARY KEY"))
            engine(report, told, crowd, "sqlite:catalog.db", folder, sqlite_rows, "SQLite")
            with report.needed(postgres_server, "PostgreSQL") as url:
                if url is not None:
                    with psycopg.connect(url, autocommit=True) as connection:
                        connection.execute(TABLE.format(key="BIGSERIAL PRIMARY KEY"))
                        found = connection.execute("SELECT current_setting('server_version'), current_setting('fsync')").fetchone()
                    engine(report, told, crowd, url, folder, postgres_rows, "PostgreSQL")
                    report.note(
                        f"PostgreSQL {found[0]} on loopback, fsync {found[1]} (the tests' server), so not to be held against SQLite"
                    )
    finally:
        crowd.close()
    report.show(told)


if __name__ == "__main__":
    main()
