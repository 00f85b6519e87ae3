"""Threads that write at once on SQLite: each turn whole or not at all, on disk when it returns, and one commit for many."""

import sqlite3
from contextlib import suppress
from threading import Barrier, Thread

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, bindparam, insert

from tidemill.catalog.catalog import Catalog
from tidemill.catalog.prepared import Prepared
from tidemill.catalog.writer import WriterBusy
from tidemill.core.errors import Unavailable

METADATA = MetaData()
ITEMS = Table("items", METADATA, Column("thread", Integer, primary_key=True), Column("number", Integer, primary_key=True))
ADD = Prepared(insert(ITEMS).values(thread=bindparam("thread"), number=bindparam("number")))


@pytest.fixture
def catalog(tmp_path):
    opened = Catalog("sqlite:x.db", folder=tmp_path)
    with opened.transaction() as tx:
        METADATA.create_all(tx)
    yield opened
    opened.close()


def committed(catalog):
    """What another connection sees."""
    with sqlite3.connect(catalog.path) as other:
        found = set(other.execute("SELECT thread, number FROM items"))
    other.close()
    return found


def together(count, act):
    barrier = Barrier(count)

    def turn(thread):
        barrier.wait()
        act(thread)

    threads = [Thread(target=turn, args=(thread,)) for thread in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_what_a_turn_wrote_is_committed_when_it_returns(catalog):
    lost = []

    def act(thread):
        for number in range(30):
            with catalog.transaction() as tx:
                ADD.run(tx, {"thread": thread, "number": number})
            if (thread, number) not in committed(catalog):
                lost.append((thread, number))

    together(8, act)
    assert not lost
    assert len(committed(catalog)) == 240


def test_a_turn_that_fails_is_undone_alone(catalog):
    class Refused(Exception):
        pass

    def act(thread):
        for number in range(50):
            try:
                with catalog.transaction() as tx:
                    ADD.run(tx, {"thread": thread, "number": number})
                    if number % 3 == 0:
                        raise Refused
            except Refused:
                pass

    together(8, act)
    assert committed(catalog) == {(thread, number) for thread in range(8) for number in range(50) if number % 3}


def test_the_database_refusing_a_statement_undoes_that_turn_alone(catalog):
    refused = []

    def act(thread):
        for number in range(50):
            try:
                with catalog.transaction() as tx:
                    ADD.run(tx, {"thread": thread, "number": number})
                    ADD.run(tx, {"thread": 0 if thread % 2 else thread, "number": -1 - number})
            except sqlite3.IntegrityError:
                refused.append((thread, number))

    together(4, act)
    assert len(refused) == 50 * 2  # thread 0, 1 and 3 want the same keys; one of them got each
    assert len(committed(catalog)) == 2 * (50 * 4 - len(refused))


def test_threads_that_wait_for_one_another_are_committed_together(catalog):
    commits = []
    with catalog.transaction() as tx:
        driver = tx.connection.driver_connection
    driver.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)

    def act(thread):
        for number in range(100):
            with catalog.transaction() as tx:
                ADD.run(tx, {"thread": thread, "number": number})

    together(8, act)
    assert len(committed(catalog)) == 800
    assert len(commits) < 600


def add(catalog, thread, number):
    with catalog.transaction() as tx:
        ADD.run(tx, {"thread": thread, "number": number})


def test_what_is_written_at_once_is_one_commit_and_what_fails_in_it_is_undone_alone(catalog):
    with catalog.transaction() as tx:
        driver = tx.connection.driver_connection
    said = []
    driver.set_trace_callback(said.append)
    with catalog.at_once():
        for number in (0, 1, 1, 2, 0, 3):
            try:
                add(catalog, 7, number)
            except sqlite3.IntegrityError:
                said.append("refused")
        assert committed(catalog) == set()
    assert committed(catalog) == {(7, 0), (7, 1), (7, 2), (7, 3)}
    assert (said.count("COMMIT"), said.count("refused")) == (1, 2)


def test_the_first_of_those_at_once_may_fail(catalog):
    add(catalog, 1, 1)
    with catalog.at_once():
        with pytest.raises(sqlite3.IntegrityError):
            add(catalog, 1, 1)
        add(catalog, 1, 2)
    assert committed(catalog) == {(1, 1), (1, 2)}


def test_who_writes_at_once_waits_for_no_thread(catalog):
    told = []

    def act():
        try:
            with catalog.at_once():
                told.append("let in")
        except WriterBusy as busy:
            told.append(busy)

    with catalog.transaction() as tx:
        ADD.run(tx, {"thread": 1, "number": 1})
        thread = Thread(target=act)
        thread.start()
        thread.join()
    assert isinstance(told[0], WriterBusy)
    act()
    assert told[1] == "let in"


def test_who_writes_at_once_waits_for_no_process(catalog):
    with sqlite3.connect(catalog.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with catalog.at_once(), pytest.raises(WriterBusy, match="wait for your turn"):
            add(catalog, 1, 1)
        other.execute("ROLLBACK")
        with catalog.at_once():
            add(catalog, 1, 1)
    other.close()
    assert committed(catalog) == {(1, 1)}


def test_threads_wait_for_who_writes_at_once(catalog):
    with catalog.at_once():
        add(catalog, 0, 0)
        thread = Thread(target=add, args=(catalog, 1, 1))
        thread.start()
        add(catalog, 0, 1)
    thread.join()
    assert committed(catalog) == {(0, 0), (0, 1), (1, 1)}


def test_a_commit_that_is_refused_is_told_to_who_writes_at_once(catalog):
    add(catalog, 0, 0)
    with catalog.transaction() as tx:
        driver = tx.connection.driver_connection
    driver.execute("CREATE UNIQUE INDEX one ON items (thread)")
    driver.execute("CREATE TABLE held (n INTEGER REFERENCES items (thread) DEFERRABLE INITIALLY DEFERRED)")

    def act():
        with catalog.at_once():
            add(catalog, 1, 1)
            with catalog.transaction() as tx:
                tx.connection.driver_connection.execute("INSERT INTO held VALUES (99)")

    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        act()
    assert committed(catalog) == {(0, 0)}
    with catalog.at_once():
        add(catalog, 1, 1)
    assert committed(catalog) == {(0, 0), (1, 1)}


def test_a_full_disk_takes_all_that_was_written_at_once(catalog):
    with catalog.transaction() as tx:
        driver = tx.connection.driver_connection
    pages = driver.execute("PRAGMA page_count").fetchone()[0]
    driver.execute(f"PRAGMA max_page_count={pages + 1}")

    def act():
        with catalog.at_once():
            for number in range(2000):
                with suppress(Unavailable):
                    add(catalog, 1, number)
                if not driver.in_transaction:
                    break

    with pytest.raises(Unavailable, match="the disk is full"):
        act()
    assert committed(catalog) == set()
