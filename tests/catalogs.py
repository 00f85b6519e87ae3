"""Catalogs with the schema of today, migrated once and handed out again: as the bytes of a file, and as databases that are emptied."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text

from tidemill.catalog.catalog import Catalog
from tidemill.catalog.migrate import VERSION_TABLE, migrate

ENGINES = ("sqlite", "postgresql")
SHAPE = """
    SELECT md5(string_agg(format('%s %s %s', relation.oid::regclass, attname, atttypid), ' ' ORDER BY relation.oid, attnum))
    FROM pg_class AS relation JOIN pg_attribute ON attrelid = relation.oid WHERE relnamespace = 'public'::regnamespace
"""
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname"
LEAVE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
COUNT_AGAIN = "SELECT setval(format('%I', sequencename)::regclass, start_value, false) FROM pg_sequences WHERE last_value IS NOT NULL"


@cache
def migrated_file() -> bytes:
    """Return what is in an SQLite file that was migrated and has no rows yet."""
    with tempfile.TemporaryDirectory(prefix="tidemill-catalog-") as name:
        _migrate("sqlite:catalog.db", Path(name))
        return Path(name, "catalog.db").read_bytes()


class Databases:
    """The databases of one PostgreSQL server. Not for several threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._idle: list[str] = []
        self._shapes: dict[str, str] = {}

    def fresh(self) -> str:
        """Return the URL of a new, empty database."""
        name = f"t{secrets.token_hex(6)}"
        with _connection(self.url) as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(f"CREATE DATABASE {name}"))
        return f"{self.url.rpartition('/')[0]}/{name}"

    @contextmanager
    def migrated(self) -> Iterator[str]:
        """Yield the URL of a database with the schema of today and no rows, nobody else's for as long."""
        url = self._idle.pop() if self._idle else self._made()
        yield url
        self._give_back(url)

    def _made(self) -> str:
        url = self.fresh()
        _migrate(url, Path())
        with _connection(url) as connection:
            self._shapes[url] = connection.scalars(text(SHAPE)).one()
            assert _filled(connection) == []
        return url

    def _give_back(self, url: str) -> None:
        """Empty a database for the next who asks, unless its schema was changed."""
        with _connection(url) as connection:
            connection.execute(text(LEAVE))
            if connection.scalars(text(SHAPE)).one() != self._shapes[url]:
                return
            connection.execute(text("SET session_replication_role = replica"))  # whatever refers to what
            for table in _filled(connection):
                connection.execute(text(f'DELETE FROM "{table}"'))
            connection.execute(text(COUNT_AGAIN))
            connection.commit()
        self._idle.append(url)


@contextmanager
def without_rows(engine: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the URL of a catalog of a kind, for a fixture that makes a workspace on it by `world.workspace`."""
    if engine == "sqlite":
        yield "sqlite:catalog.db"
    else:
        with request.getfixturevalue("postgres_databases").migrated() as url:
            yield url


def _migrate(url: str, folder: Path) -> None:
    catalog = Catalog(url, folder=folder)
    migrate(catalog)
    catalog.close()


def _connection(url: str) -> Connection:
    return create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool).connect()


def _filled(connection: Connection) -> list[str]:
    """Return the tables that hold rows, but for the one that says the schema's version."""
    tables = connection.scalars(text(TABLES)).all()
    asked = [f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM \"{table}\")" for table in tables if table != VERSION_TABLE]
    return list(connection.scalars(text(" UNION ALL ".join(asked))))
