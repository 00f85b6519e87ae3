"""The journal of an endpoint as rows: what it predicted in a span of time with what came true, or what a query makes of both."""

from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.core.window import Window
from tidemill.deploy.endpoints import read_endpoint
from tidemill.govern.workspace import Workspace
from tidemill.serving.config import endpoint_key
from tidemill.serving.history import read_labels, read_predictions

DEFAULT_QUERY = """
SELECT p.*, l.value AS label, l.text AS label_text, l.at AS label_at
FROM predictions p LEFT JOIN labels l USING (id) WHERE NOT shadow ORDER BY p.at DESC, p.id
"""


class JournalRows(Value, frozen=True, kw_only=True):
    """Rows of a journal, in lists along columns. more: whether there are further ones beyond the limit."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: bool


class JournalQueryRefused(Invalid):
    """A query over a journal does not run."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the query was refused: {reason}; write a SELECT of DuckDB over the tables predictions and labels")


def relation(
    connection: duckdb.DuckDBPyConnection, ws: Workspace, endpoint: str, window: Window | None = None, *, with_inputs: bool = True
) -> duckdb.DuckDBPyRelation:
    """Give a connection the tables predictions (of a window of event time) and labels (theirs); return the first.

    Raises EndpointNotFound.
    """
    read_endpoint(ws, endpoint)
    key = endpoint_key(ws.project, endpoint)
    predictions = read_predictions(ws.state, key, window, with_inputs=with_inputs, objects=ws.objects)
    labels = read_labels(ws.state, objects=ws.objects)
    connection.register("predictions", predictions)
    connection.register("labels", labels.filter(pc.is_in(labels["id"], value_set=predictions["id"].combine_chunks())))
    return connection.table("predictions")


def read_log(
    ws: Workspace, endpoint: str, *, since: datetime | None = None, until: datetime | None = None, sql: str | None = None, limit: int = 100
) -> JournalRows:
    """Return what an endpoint predicted with its labels, newest first, or what a SELECT over predictions and labels returns.

    since and until bound the time of predictions. The query sees these two tables and nothing else. Raises EndpointNotFound,
    JournalQueryRefused.
    """
    window = None
    if since is not None or until is not None:
        window = Window(start=since or datetime.min.replace(tzinfo=UTC), end=until or datetime.max.replace(tzinfo=UTC))
    with duckdb.connect() as connection:
        relation(connection, ws, endpoint, window)
        connection.execute("SET enable_external_access = false")
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET lock_configuration = true")
        try:
            statements = connection.extract_statements(sql or DEFAULT_QUERY)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise JournalQueryRefused("it is not one SELECT")
            found = connection.sql(statements[0]).to_arrow_reader(limit + 1)
            columns, rows = tuple(found.schema.names), _first(found, limit + 1)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise JournalQueryRefused(str(error).partition("\n")[0]) from error
    return JournalRows(columns=columns, rows=tuple(rows[:limit]), more=len(rows) > limit)


def _first(batches: pa.RecordBatchReader, limit: int) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for batch in batches:
        rows += zip(*(column.to_pylist() for column in batch.columns), strict=True)
        if len(rows) >= limit:
            break
    return rows[:limit]
