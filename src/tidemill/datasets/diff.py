"""How two versions differ: their files, their columns, their rows with examples, and how far each column's distribution has moved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.datasets.versions import DatasetVersion, paths, read_version
from tidemill.govern.workspace import Workspace
from tidemill.stats.arrays import FloatArray
from tidemill.stats.drift import bin_counts, psi_of_counts, quantile_edges
from tidemill.store.trees import read_tree

EXAMPLES = 3
MEMORY_MB = 1024
_CATEGORIES = 100


class ColumnChange(Value, frozen=True, kw_only=True):
    """A column that one version lacks (none), or that has another type."""

    column: str
    before: str | None
    after: str | None


class ColumnMove(Value, frozen=True, kw_only=True):
    """How far a column's values have moved. psi: in nats, none where a version has no value; changed: rows of a key in which it differs."""

    column: str
    psi: float | None
    missing_before: float
    missing_after: float
    changed: int | None = None


class RowExample(Value, frozen=True, kw_only=True):
    """A row that is in one version only, or that differs: its values as text, of a changed one those that differ and the key."""

    change: str
    before: dict[str, str] | None
    after: dict[str, str] | None


class RowChanges(Value, frozen=True, kw_only=True):
    """How many rows only one version has; with a key also how many have one key and other values."""

    key: tuple[str, ...]
    added: int
    removed: int
    changed: int | None
    examples: tuple[RowExample, ...]


class DatasetDiff(Value, frozen=True, kw_only=True):
    """What has changed from one version to another. rows and moves: of tables."""

    before: str
    after: str
    rows_before: int
    rows_after: int
    files_added: tuple[str, ...]
    files_removed: tuple[str, ...]
    files_changed: tuple[str, ...]
    files_same: int
    columns: tuple[ColumnChange, ...]
    rows: RowChanges | None
    moves: tuple[ColumnMove, ...]

    @property
    def same(self) -> bool:
        return not (self.files_added or self.files_removed or self.files_changed)


def diff_versions(ws: Workspace, before: str, after: str, *, key: Sequence[str] = (), memory_mb: int = MEMORY_MB) -> DatasetDiff:
    """Compare two versions. key: columns that tell rows apart, so that a row can be the same one with other values; without it a row is
    what all its columns say. A column that one of them lacks does not make rows differ.

    Distances are population stability indices over ten bins of equal shares of the version before, of text over its most frequent values.
    memory_mb: about how much rows may take; more goes to the disk meanwhile. Raises DatasetNotFound, Invalid for a key that is no column or
    is not unique.
    """
    first, second = read_version(ws, before), read_version(ws, after)
    old = {entry.path: entry.digest for entry in read_tree(ws.objects, first.digest).entries}
    new = {entry.path: entry.digest for entry in read_tree(ws.objects, second.digest).entries}
    changed = tuple(path for path in new if path in old and new[path] != old[path])
    rows: RowChanges | None = None
    moves: tuple[ColumnMove, ...] = ()
    if first.columns and second.columns:
        rows, moves = _compare(ws, first, second, tuple(key), memory_mb)
    return DatasetDiff(
        before=first.node.removeprefix("dataset:"), after=second.node.removeprefix("dataset:"),
        rows_before=first.rows, rows_after=second.rows,
        files_added=tuple(path for path in new if path not in old), files_removed=tuple(path for path in old if path not in new),
        files_changed=changed, files_same=sum(path in old for path in new) - len(changed),
        columns=_column_changes(first, second), rows=rows, moves=moves,
    )  # fmt: skip


def _column_changes(first: DatasetVersion, second: DatasetVersion) -> tuple[ColumnChange, ...]:
    names = dict.fromkeys([*first.columns, *second.columns])
    changes = (ColumnChange(column=name, before=first.columns.get(name), after=second.columns.get(name)) for name in names)
    return tuple(change for change in changes if change.before != change.after)


def _compare(
    ws: Workspace, first: DatasetVersion, second: DatasetVersion, key: tuple[str, ...], memory_mb: int
) -> tuple[RowChanges, tuple[ColumnMove, ...]]:
    common = [name for name in first.columns if name in second.columns]
    for name in key:
        if name not in common:
            raise Invalid(f"key {name!r} is not a column of both versions (they share: {', '.join(common) or 'none'})")
    if not common:
        return RowChanges(key=key, added=second.rows, removed=first.rows, changed=None, examples=()), ()
    files = paths(ws, first), paths(ws, second)
    values = [name for name in common if name not in key]
    (ws.state / "tmp").mkdir(exist_ok=True)
    limits: dict[str, Any] = {"memory_limit": f"{memory_mb}MB", "temp_directory": str(ws.state / "tmp")}
    with duckdb.connect(config=limits) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, parts in zip(("old", "new"), files, strict=True):
            connection.from_parquet([str(part) for part in parts], union_by_name=True).create_view(name)
        if key:
            rows, counts = _by_key(connection, first, second, key, values)
        else:
            rows, counts = _by_content(connection, common), {}
    return rows, tuple(_move(files[0], files[1], name, changed=counts.get(name)) for name in common)


def _by_key(
    connection: duckdb.DuckDBPyConnection, first: DatasetVersion, second: DatasetVersion, key: tuple[str, ...], values: Sequence[str]
) -> tuple[RowChanges, dict[str, int]]:
    names = ", ".join(map(_quoted, key))
    for table, version in (("old", first), ("new", second)):
        again = f"SELECT {_texts(table, key)} FROM {table} GROUP BY {names} HAVING count(*) > 1 LIMIT 1"
        twice = connection.execute(again).fetchone()
        if twice is not None:
            shown = ", ".join(f"{name} = {value}" for name, value in zip(key, twice, strict=True))
            raise Invalid(
                f"key {', '.join(key)} stands more than once in {version.name}@{version.version} ({shown}); "
                "expected columns that tell rows apart"
            )
    on = " AND ".join(f"old.{name} IS NOT DISTINCT FROM new.{name}" for name in map(_quoted, key))
    differ = {name: _differs(name, alike=first.columns[name] == second.columns[name]) for name in values}
    anything = " OR ".join(differ.values()) or "FALSE"
    counts = "".join(f", count(*) FILTER ({each})" for each in differ.values())
    both = connection.execute(f"SELECT count(*), count(*) FILTER ({anything}){counts} FROM old JOIN new ON {on}").fetchone()
    assert both is not None, "a query without GROUP BY has one row"
    matched, changed, *by_column = both
    examples = []
    for change, mine, other in (("added", "new", "old"), ("removed", "old", "new")):
        columns = list((second if mine == "new" else first).columns)
        only = f"SELECT {_texts(mine, columns)} FROM {mine} ANTI JOIN {other} ON {on} LIMIT {EXAMPLES}"
        examples += [_only(change, _told(columns, row)) for row in connection.execute(only).fetchall()]
    wanted = [*key, *values]
    pairs = f"{_texts('old', wanted)}, {_texts('new', wanted)}"
    for row in connection.execute(f"SELECT {pairs} FROM old JOIN new ON {on} WHERE {anything} LIMIT {EXAMPLES}").fetchall():
        was, now = _told(wanted, row[: len(wanted)]), _told(wanted, row[len(wanted) :])
        keep = [name for name in wanted if name in key or was[name] != now[name]]
        examples.append(RowExample(change="changed", before={name: was[name] for name in keep}, after={name: now[name] for name in keep}))
    counted = RowChanges(
        key=key, added=second.rows - matched, removed=first.rows - matched, changed=changed, examples=tuple(examples)
    )  # fmt: skip
    return counted, dict(zip(differ, by_column, strict=True))


def _by_content(connection: duckdb.DuckDBPyConnection, common: Sequence[str]) -> RowChanges:
    columns, examples, counts = ", ".join(map(_quoted, common)), [], []
    for change, mine, other in (("added", "new", "old"), ("removed", "old", "new")):
        only = f"(SELECT {columns} FROM {mine} EXCEPT ALL SELECT {columns} FROM {other})"
        counted = connection.execute(f"SELECT count(*) FROM {only}").fetchone()
        counts.append(int((counted or (0,))[0]))
        for row in connection.execute(f"SELECT {_texts('differing', common)} FROM {only} AS differing LIMIT {EXAMPLES}").fetchall():
            told = _told(common, row)
            examples.append(_only(change, told))
    return RowChanges(key=(), added=counts[0], removed=counts[1], changed=None, examples=tuple(examples))


def _move(before: Sequence[Path], after: Sequence[Path], name: str, *, changed: int | None) -> ColumnMove:
    old, new = (_column(parts, name) for parts in (before, after))
    missing = [column.null_count / max(1, len(column)) for column in (old, new)]
    return ColumnMove(column=name, psi=_distance(old, new), missing_before=missing[0], missing_after=missing[1], changed=changed)


def _column(parts: Sequence[Path], name: str) -> Any:
    tables = [pq.read_table(part, columns=[name]) for part in parts]
    return pa.concat_tables(tables, promote_options="permissive").column(0)


def _distance(old: Any, new: Any) -> float | None:
    """Return how far the values of a column have moved, None where that cannot be told."""
    reference, current = _numbers(old), _numbers(new)
    if reference is not None and current is not None:
        if not reference.size or not current.size:
            return None
        edges = quantile_edges(reference)
        return psi_of_counts(bin_counts(reference, edges), bin_counts(current, edges))
    was, now = _frequencies(old), _frequencies(new)
    if not was or not now:
        return None
    often = sorted(was, key=lambda value: -was[value])[:_CATEGORIES]
    told = [[found.get(value, 0) for value in often] for found in (was, now)]
    rest = [sum(found.values()) - sum(some) for found, some in zip((was, now), told, strict=True)]
    return psi_of_counts([*told[0], rest[0]], [*told[1], rest[1]])


def _numbers(column: Any) -> FloatArray | None:
    """Return the finite values of a column of numbers or moments, None for any other."""
    kind = column.type
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        column, kind = column.cast(width), width
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return None
    values: FloatArray = column.drop_null().cast(pa.float64(), safe=False).to_numpy()
    finite: FloatArray = values[np.isfinite(values)]
    return finite


def _frequencies(column: Any) -> dict[str, int] | None:
    """Return how often each value of a column stands, None for values that are not compared (lists, structs)."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_boolean(kind)):
        return None
    found: Any = pc.value_counts(column.drop_null())
    return {str(value): int(count) for value, count in zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True)}


def _differs(name: str, *, alike: bool) -> str:
    old, new = f"old.{_quoted(name)}", f"new.{_quoted(name)}"
    if not alike:  # of another type: as people read it
        old, new = f"CAST({old} AS VARCHAR)", f"CAST({new} AS VARCHAR)"
    return f"({old} IS DISTINCT FROM {new})"


def _texts(table: str, names: Sequence[str]) -> str:
    """Return columns as text in SQL: to fetch moments with a zone as such, DuckDB wants a library of time zones."""
    return ", ".join(f"CAST({table}.{_quoted(name)} AS VARCHAR)" for name in names)


def _only(change: str, told: dict[str, str]) -> RowExample:
    return RowExample(change=change, before=told if change == "removed" else None, after=told if change == "added" else None)


def _told(names: Sequence[str], row: Sequence[Any]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in zip(names, row, strict=True)}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
