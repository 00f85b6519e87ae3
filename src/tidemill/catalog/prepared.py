"""Statements for hot paths: compiled once an engine, then handed to the driver as they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.expression import ClauseElement

# Both drivers take named parameters in these styles.
_DIALECTS: Mapping[str, Any] = {
    "sqlite": sqlite.dialect(paramstyle="named"),
    "postgresql": postgresql.dialect(paramstyle="pyformat"),  # type: ignore[no-untyped-call]
}


class Prepared:
    """A Core statement without literals, about ten times cheaper to run than by way of SQLAlchemy's result objects.

    Values go to the driver as they are: microseconds, not datetimes; JSON text, not values. Rows come back as plain tuples.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self._texts = {name: str(statement.compile(dialect=dialect)) for name, dialect in _DIALECTS.items()}

    def run(self, tx: Connection, values: Mapping[str, Any]) -> Any:
        """Run it; return the driver's cursor."""
        return _driver(tx).execute(self._texts[tx.dialect.name], values)

    def run_many(self, tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it once a row."""
        if rows:
            _driver(tx).cursor().executemany(self._texts[tx.dialect.name], rows)


def _driver(tx: Connection) -> Any:
    return tx.connection.driver_connection
