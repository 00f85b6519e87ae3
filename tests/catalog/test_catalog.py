"""Transactions on both engines, and many processes on one SQLite file."""

import multiprocessing
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from tidemill.catalog.catalog import Catalog
from tidemill.catalog.events import EVENTS, EventBody, append, verify_chain
from tidemill.catalog.migrate import migrate
from tidemill.core.clock import SystemClock
from tidemill.core.errors import Invalid, Unavailable

PROCESSES, WRITES = 16, 1000


class Noted(EventBody, frozen=True, kw_only=True, tag="noted"):
    number: int


def open_catalog(url: str, folder: Path) -> Catalog:
    catalog = Catalog(url, folder=folder)
    migrate(catalog)
    return catalog


def note(tx: object, number: int, *, project: str = "default", actor: str = "me") -> None:
    append(tx, Noted(number=number), project=project, actor=actor, at=SystemClock().now(), subject="test")  # type: ignore[arg-type]


def test_a_transaction_that_raises_leaves_nothing(catalog_url: str, tmp_path: Path) -> None:
    catalog = open_catalog(catalog_url, tmp_path)

    def half() -> None:
        with catalog.transaction() as tx:
            note(tx, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    with catalog.reading() as tx:
        assert tx.execute(select(func.count()).select_from(EVENTS)).scalar_one() == 0
        assert verify_chain(tx, "default").verified
    catalog.close()


def test_a_reader_sees_one_state_while_a_writer_goes_on(tmp_path: Path) -> None:
    catalog = open_catalog("sqlite:catalog.db", tmp_path)
    with catalog.reading() as before:
        assert before.execute(select(func.count()).select_from(EVENTS)).scalar_one() == 0
        with catalog.transaction() as tx:
            note(tx, 1)
        assert before.execute(select(func.count()).select_from(EVENTS)).scalar_one() == 0
    catalog.close()


def _write_many(folder: Path, url: str, name: str) -> None:
    catalog = Catalog(url, folder=folder)
    for number in range(WRITES):
        with catalog.transaction() as tx:
            note(tx, number, actor=name)
    catalog.close()


@pytest.mark.slow
def test_sixteen_processes_write_a_thousand_events_each_and_none_is_lost(tmp_path: Path) -> None:
    catalog = open_catalog("sqlite:catalog.db", tmp_path)
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_many, args=(tmp_path, "sqlite:catalog.db", f"p{n}")) for n in range(PROCESSES)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(110)
    assert [writer.exitcode for writer in writers] == [0] * PROCESSES
    with catalog.reading() as tx:
        counts = {row[0]: row[1] for row in tx.execute(select(EVENTS.c.actor, func.count()).group_by(EVENTS.c.actor))}
        report = verify_chain(tx, "default")
    assert counts == {f"p{n}": WRITES for n in range(PROCESSES)}
    assert report.verified
    assert report.events == PROCESSES * WRITES
    catalog.close()


@pytest.mark.slow
def test_eight_processes_on_postgresql_keep_one_chain(postgres_catalog: str, tmp_path: Path) -> None:
    catalog = Catalog(postgres_catalog, folder=tmp_path)
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_many, args=(tmp_path, postgres_catalog, f"p{n}")) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(110)
    with catalog.reading() as tx:
        report = verify_chain(tx, "default")
    assert report.verified, report.what
    assert report.events == 8 * WRITES
    catalog.close()


def test_an_unknown_engine_is_named_with_its_password_masked(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"catalog 'oracle://me:\*\*\*@host/db' is not known"):
        Catalog("oracle://me:secret@host/db", folder=tmp_path)


def test_an_unreachable_server_is_one_sentence(tmp_path: Path) -> None:
    catalog = Catalog("postgresql://me:secret@127.0.0.1:1/db", folder=tmp_path)
    with pytest.raises(Unavailable, match="the server cannot be reached") as refusal, catalog.reading():
        pass
    assert "secret" not in str(refusal.value)


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path) -> None:
    catalog = open_catalog("sqlite:catalog.db", tmp_path)
    with catalog.transaction() as tx:
        note(tx, 1)
        pages = tx.execute(text("PRAGMA page_count")).scalar_one()
        tx.execute(text(f"PRAGMA max_page_count={pages}"))

    def fill() -> None:
        for number in range(1000):
            with catalog.transaction() as tx:
                note(tx, number)

    with pytest.raises(Unavailable, match="the disk is full; free some space"):
        fill()
    with catalog.reading() as tx:
        assert verify_chain(tx, "default").verified
        assert tx.execute(select(func.count()).select_from(EVENTS)).scalar_one() >= 1
    catalog.close()


def test_a_file_that_is_no_database_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(Unavailable, match="the file is damaged; put a copy of it from before in its place"):
        open_catalog("sqlite:catalog.db", tmp_path)


def test_a_missing_folder_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="its folder is missing or not writable"), Catalog("sqlite:gone/c.db", folder=tmp_path).reading():
        pass
