"""The column types that all tables share, and the metadata that collects the tables of every noun."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Connection, MetaData, Table
from sqlalchemy import Text as SqlText
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.types import TypeDecorator

from tidemill.core.clock import from_micros, micros
from tidemill.core.codec import canonical, decode

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)
Text = SqlText
T = TypeVar("T")


class Moment(TypeDecorator[datetime]):
    """An aware UTC datetime, stored as microseconds since 1970: equal and ordered alike on every engine."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        return None if value is None else micros(value)

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:
        return None if value is None else from_micros(value)


class JsonValue(TypeDecorator[T], Generic[T]):
    """A value stored as canonical JSON text and read back as its class."""

    impl = SqlText
    cache_ok = True

    def __init__(self, kind: Any = Any) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else canonical(value).decode()

    def process_result_value(self, value: str | None, dialect: Any) -> T | None:
        return None if value is None else decode(value, self.kind, what="a stored record")


def insert_new(tx: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> int:
    """Insert the rows whose keys are not there yet; return how many were new."""
    if not rows:
        return 0
    statement = _dialect_insert(tx)(table).values(list(rows)).on_conflict_do_nothing()
    result = tx.execute(statement, execution_options={"preserve_rowcount": True})
    return int(result.rowcount)


def upsert(tx: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, replacing those with the same primary key."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    statement = _dialect_insert(tx)(table)
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    tx.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))


def current(table: Table) -> ColumnElement[bool]:
    """Return the clause that picks the rows of a history table which hold now."""
    return table.c.valid_to.is_(None)


def as_of(table: Table, moment: datetime | None) -> ColumnElement[bool]:
    """Return the clause that picks the rows of a history table which held at moment (None: those that hold now)."""
    if moment is None:
        return current(table)
    return (table.c.valid_from <= moment) & (table.c.valid_to.is_(None) | (table.c.valid_to > moment))


def _dialect_insert(tx: Connection) -> Any:
    return postgres_insert if tx.dialect.name == "postgresql" else sqlite_insert
