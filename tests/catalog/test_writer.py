"""Threads that write at once on SQLite: each turn whole or not at all, on disk when it returns, and one commit for many."""

import sqlite3
from threading import Barrier, Thread

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, bindparam, insert

from tidemill.catalog.catalog import Catalog
from tidemill.catalog.prepared import Prepared

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
