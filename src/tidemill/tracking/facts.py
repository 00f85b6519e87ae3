"""What a run has under keys: params, written once; tags; the latest point of each metric. Owns their tables.

Each row names its experiment too, so that one index answers what a search asks: which runs of it have this value under this key.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    PrimaryKeyConstraint,
    Table,
    bindparam,
    delete,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import insert as insert_or  # what is used of it here reads the same on SQLite

from tidemill.catalog.prepared import Prepared, PreparedRows
from tidemill.catalog.schema import METADATA, Text
from tidemill.core import ids
from tidemill.core.errors import Conflict
from tidemill.core.ids import check_key, check_text

PARAM_MAX, TAG_MAX = ids.PARAM_MAX, ids.TAG_MAX
SHORT = 256  # letters of a text that an index holds whole; PostgreSQL takes at most a third of a page under one key


def short(value: Any) -> Any:
    """Return the clause that holds for the texts which the index of values has."""
    return func.length(value) <= literal_column(str(SHORT))


def long(value: Any) -> Any:
    """Return the clause that holds for all other texts."""
    return func.length(value) > literal_column(str(SHORT))


def _by_key(name: str, *columns: Any) -> tuple[Table, Any]:
    """A table of what a run has under a key. run: runs.no."""
    keys = (Column("run", BigInteger, nullable=False), Column("key", Text, nullable=False))
    of = Column("experiment_id", BigInteger, nullable=False)
    table = Table(name, METADATA, *keys, of, *columns, PrimaryKeyConstraint("run", "key"), sqlite_with_rowid=False)
    return table, table.c


def _texts(name: str) -> Table:
    table, has = _by_key(name, Column("value", Text, nullable=False))
    is_short, is_long = short(has.value), long(has.value)
    Index(f"ix_{name}_value", has.experiment_id, has.key, has.value, has.run, sqlite_where=is_short, postgresql_where=is_short)
    Index(f"ix_{name}_long", has.experiment_id, has.key, has.run, sqlite_where=is_long, postgresql_where=is_long)
    return table


PARAMS = _texts("run_params")
TAGS = _texts("run_tags")
# The latest point of each key: the one with the highest step, then time, then value. A NaN is NULL; at: microseconds since 1970.
METRICS, _metrics = _by_key(
    "run_metrics", Column("value", Float(53)), Column("step", BigInteger, nullable=False), Column("at", BigInteger, nullable=False)
)
Index("ix_run_metrics_value", _metrics.experiment_id, _metrics.key, _metrics.value, _metrics.run)


class ParamRewritten(Conflict):
    """A param is written once."""

    def __init__(self, run: str, key: str, before: str, after: str) -> None:
        self.run, self.key, self.before, self.after = run, key, before, after
        super().__init__(
            f"param {key!r} of run {run} is {before!r} already and cannot become {after!r}; log a value that changes as a metric or tag"
        )


def _told(table: Table) -> list[Any]:
    return [column for column in table.c if column.name != "experiment_id"]


def _of_run(table: Table) -> Prepared:
    return Prepared(select(*_told(table)).where(table.c.run == bindparam("run")).order_by(table.c.key))


def _upsert(table: Table) -> Any:
    statement = insert_or(table)
    changed = {name: statement.excluded[name] for name in ("value", "step", "at") if name in table.c}
    return statement.on_conflict_do_update(index_elements=["run", "key"], set_=changed, where=_newer(table, statement.excluded))


def _newer(table: Table, coming: Any) -> Any:
    if table is not METRICS:
        return None
    there = table.c
    later = (coming.step > there.step) | ((coming.step == there.step) & (coming.at > there.at))
    same = (coming.step == there.step) & (coming.at == there.at)
    return later | (same & (coming.value.is_not(None)) & (there.value.is_(None) | (coming.value >= there.value)))


_OF_RUN = {table.name: _of_run(table) for table in (PARAMS, TAGS, METRICS)}
_FIRST_METRICS = Prepared(
    select(METRICS.c.run, METRICS.c.key, METRICS.c.value, METRICS.c.step, METRICS.c.at)
    .where(METRICS.c.run == bindparam("run"))
    .order_by(METRICS.c.key)
    .limit(bindparam("some"))
)
_ADD_PARAMS = PreparedRows(insert_or(PARAMS).on_conflict_do_nothing(index_elements=["run", "key"]))
_PUT_TAGS = PreparedRows(_upsert(TAGS))
_PUT_METRICS = PreparedRows(_upsert(METRICS))


def write_params(tx: Connection, no: int, experiment: int, params: Mapping[str, Any], *, run: str) -> None:
    """Write params once. Raises ParamRewritten for another value under a key, Invalid: the caller's transaction is to be undone then."""
    if not params:
        return
    texts = {key: str(value) for key, value in params.items()}
    check_texts("param", texts, PARAM_MAX)
    if _ADD_PARAMS.run(tx, [(no, key, experiment, value) for key, value in texts.items()]) == len(texts):
        return
    there = read_texts(tx, PARAMS, [no])[no]
    for key, value in texts.items():
        if there[key] != value:
            raise ParamRewritten(run, key, there[key], value)


def write_tags(tx: Connection, no: int, experiment: int, tags: Mapping[str, str]) -> None:
    """Write tags, replacing those of the same key. Raises Invalid."""
    check_texts("tag", tags, TAG_MAX)
    _PUT_TAGS.run(tx, [(no, key, experiment, value) for key, value in tags.items()])


def remove_tag(tx: Connection, no: int, key: str) -> bool:
    """Remove a tag; return whether there was one."""
    return tx.execute(delete(TAGS).where(TAGS.c.run == no, TAGS.c.key == key)).rowcount > 0


def write_latest(tx: Connection, no: int, experiment: int, points: Iterable[tuple[str, float, int, int]]) -> None:
    """Take points (key, value, step, microseconds) into account, each of which may be the latest of its key."""
    latest: dict[str, tuple[int, int, float]] = {}
    for key, value, step, at in points:
        rank = (step, at, value if value == value else -math.inf)
        if key not in latest or rank >= latest[key]:
            latest[key] = rank if value == value else (step, at, math.nan)
    rows = [(no, key, experiment, value if value == value else None, step, at) for key, (step, at, value) in latest.items()]
    _PUT_METRICS.run(tx, rows)


def read_texts(tx: Connection, table: Table, numbers: Sequence[int]) -> dict[int, dict[str, str]]:
    """Return no -> key -> value of many runs."""
    found: dict[int, dict[str, str]] = {}
    for run, key, value in _rows_of(tx, table, numbers):
        found.setdefault(run, {})[key] = value
    return found


def read_latest(tx: Connection, numbers: Sequence[int], *, at_most: int | None = None) -> dict[int, list[tuple[str, float, int, int]]]:
    """Return no -> (key, value, step, microseconds) of many runs, by key. at_most: of each run only so many, the first ones."""
    found: dict[int, list[tuple[str, float, int, int]]] = {}
    if at_most is None:
        rows = _rows_of(tx, METRICS, numbers)
    else:
        rows = [row for number in numbers for row in _FIRST_METRICS.run(tx, {"run": number, "some": at_most}).fetchall()]
    for run, key, value, step, at in rows:
        found.setdefault(run, []).append((key, math.nan if value is None else value, step, at))
    return found


def check_texts(kind: str, texts: Mapping[str, str], longest: int) -> None:
    """Raises Invalid for a key that is not usable or a value that is too long."""
    for key, value in texts.items():
        check_text(kind, check_key(kind, key), value, longest)


def _rows_of(tx: Connection, table: Table, numbers: Sequence[int]) -> Any:
    if not numbers:
        return ()
    if len(numbers) == 1:  # what it is for most: a text that the driver knows
        return _OF_RUN[table.name].run(tx, {"run": numbers[0]}).fetchall()
    columns = ", ".join(column.name for column in _told(table))
    wanted = ",".join(map(str, map(int, numbers)))  # whole numbers of our own: nothing to escape, and one text for any count
    driver: Any = tx.connection.driver_connection
    return driver.execute(f"SELECT {columns} FROM {table.name} WHERE run IN ({wanted}) ORDER BY run, key").fetchall()
