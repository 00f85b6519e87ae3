"""Computed columns of a view: SQL expressions over a row of its source, by DuckDB, the same over a table and over pushed rows.

An expression sees one row and nothing else: no other rows, no files, no clock and no chance, so that it says the same whenever it is
asked. Numbers go in as doubles or whole numbers of 64 bits, times as TIMESTAMP in UTC, what is missing (NaN too) as NULL. What cannot be
computed for a row is missing there. Of a few rows `compiled` says the same, sooner, where it can.
"""

import atexit
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from tidemill.core.clock import parse_moment, utc
from tidemill.core.codec import decode_any
from tidemill.core.errors import Invalid
from tidemill.features.compiled import Function, NotCovered, Uncertain, checked, compile_expression

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Items = tuple[tuple[str, str], ...]

FEW_ROWS = 100  # measured: of more, DuckDB is done sooner

_ALLOWED = frozenset({"BETWEEN", "CASE", "CAST", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "OPERATOR", "TYPE"})
_ARROW = {"BOOLEAN": "bool", "DOUBLE": "double", "VARCHAR": "string"}
_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_NUMBERS = ("DECIMAL", "DOUBLE", "FLOAT", *_WHOLE, *(f"U{kind}" for kind in _WHOLE))


class ExpressionRefused(Invalid):
    """An expression that is not one over the columns of a row."""

    def __init__(self, name: str, expression: str, reason: str) -> None:
        self.name, self.expression, self.reason = name, expression, reason
        super().__init__(f"computed column {name!r} is {expression!r}: {reason}; expected an SQL expression over columns of the row")


def columns_read(expressions: Mapping[str, str]) -> tuple[str, ...]:
    """Return the columns of the source that expressions read, each once. Raises ExpressionRefused."""
    read = dict.fromkeys(column for name in expressions for column in _read_by(name, expressions[name]))
    return tuple(column for column in read if column not in expressions)


def input_types(expressions: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return the SQL types of the columns that expressions read, of a source with these (name to Arrow type). Raises ExpressionRefused."""
    types = {}
    for name, expression in expressions.items():
        if name in columns:
            raise ExpressionRefused(name, expression, "there is a column of that name; name the computed one otherwise")
        for column in _read_by(name, expression):
            if column not in columns and column not in expressions:
                raise ExpressionRefused(name, expression, f"{column!r} is not a column (there are: {', '.join(sorted(columns))})")
            if column in columns:
                types[column] = _sql_type(name, expression, column, columns[column])
    return types


def computed_types(expressions: Mapping[str, str], types: Mapping[str, str]) -> dict[str, str]:
    """Return the Arrow types of computed columns, as text: double, bool or string. types: of the columns read. Raises ExpressionRefused."""
    return {name: _ARROW[kind] for name, kind in _planned(tuple(expressions.items()), tuple(sorted(types.items())))}


def with_computed(table: "pa.Table", expressions: Mapping[str, str]) -> "pa.Table":
    """Return a table of the source's columns with the computed ones added. Raises ExpressionRefused."""
    if not expressions:
        return table
    import pyarrow as pa

    types = input_types(expressions, {field.name: str(field.type) for field in table.schema})
    columns = {name: table.column(name) for name in types}
    for name, kind in types.items():
        if kind == "TIMESTAMP":
            columns[name] = columns[name].cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.timestamp("us"))
    if not types:  # expressions that read nothing still say something of each row
        columns[""] = pa.chunked_array([pa.nulls(table.num_rows, pa.bool_())])
    typed = ", ".join(f"CAST({_quoted(name)} AS {kind}) AS {_quoted(name)}" for name, kind in types.items()) or "NULL"
    query = _select(expressions, types, f"SELECT {typed} FROM asked")
    with _engine().cursor() as cursor:
        found: Any = cursor.from_arrow(pa.table(columns)).query("asked", query)
        made = found.to_arrow_table()
    for name in expressions:
        table = table.append_column(name, made.column(name))
    return table


def computed_rows(rows: Mapping[str, Sequence[Any]], expressions: Mapping[str, str], types: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return the computed columns of pushed rows. types: as `input_types` gave them when the view was applied. Raises Invalid."""
    count = len(next(iter(rows.values()), ()))
    said = _without_duckdb(rows, count, expressions, types) if count <= FEW_ROWS else None
    return said if said is not None else _by_duckdb(rows, count, expressions, types)


def _by_duckdb(
    rows: Mapping[str, Sequence[Any]], count: int, expressions: Mapping[str, str], types: Mapping[str, str]
) -> dict[str, list[Any]]:  # fmt: skip
    import duckdb

    listed = [f"unnest(?::{kind}[]) AS {_quoted(name)}" for name, kind in types.items()] or ["unnest(range(?))"]
    values: list[Any] = [
        [_moment(each) for each in rows[name]] if kind == "TIMESTAMP" else list(rows[name]) for name, kind in types.items()
    ]
    query = _select(expressions, types, f"SELECT {', '.join(listed)}")
    try:
        with _engine().cursor() as cursor:
            found = cursor.execute(query, values or [count]).fetchall()
    except duckdb.Error as error:
        told = ", ".join(f"{name} {kind}" for name, kind in types.items())
        raise Invalid(
            f"{', '.join(expressions)} cannot be computed: {_said(error)}; expected the columns as the source has them: {told}"
        ) from error
    return {name: [row[place] for row in found] for place, name in enumerate(expressions)}


def _without_duckdb(
    rows: Mapping[str, Sequence[Any]], count: int, expressions: Mapping[str, str], types: Mapping[str, str]
) -> dict[str, list[Any]] | None:  # fmt: skip
    """Return the computed columns of rows, None where DuckDB has to say them."""
    functions = _functions(tuple(expressions.items()), tuple(sorted(types.items())))
    if functions is None:
        return None
    found: dict[str, list[Any]] = {name: [] for name in expressions}
    columns = [(name, kind, rows[name]) for name, kind in types.items()]
    try:
        for place in range(count):
            row = {name: checked(kind, column[place]) for name, kind, column in columns}
            for name, function in functions:
                row[name] = value = function(row)
                found[name].append(value)
    except (Uncertain, ArithmeticError, ValueError):
        return None
    return found


@cache
def _functions(expressions: Items, types: Items) -> tuple[tuple[str, Function], ...] | None:
    """Return computed columns as functions, in an order in which each finds what it reads, None where one is not covered."""
    named, known, functions = dict(expressions), dict(types), []
    if len({name.casefold() for name in (*named, *known)}) < len(named) + len(known):  # SQL does not tell them apart
        return None
    try:
        for name, kind in _planned(expressions, types):
            functions.append((name, compile_expression(_tree(name, named[name]), known)))
            known[name] = kind
    except (NotCovered, KeyError):  # (another DuckDB may write trees with other parts)
        return None
    return tuple(functions)


@cache
def _engine() -> "duckdb.DuckDBPyConnection":
    """Return DuckDB without files, network and threads of its own (nothing of it then stands still after a fork)."""
    import duckdb

    atexit.register(_engine.cache_clear)  # while there is an interpreter still; DuckDB complains of what lives longer
    return duckdb.connect(config={"threads": 1, "enable_external_access": False, "lock_configuration": True})


@cache
def _read_by(name: str, expression: str) -> tuple[str, ...]:
    """Return the columns that an expression reads. Raises ExpressionRefused for what is more than an expression over one row."""
    read = []
    with _engine().cursor() as cursor:
        for node in _nodes(_tree(name, expression)):
            if node["class"] not in _ALLOWED:
                raise ExpressionRefused(name, expression, f"{node['class'].lower()} is nothing that one row says")
            if node["class"] == "FUNCTION" and not _is_pure(cursor, node["function_name"]):
                raise ExpressionRefused(name, expression, f"{node['function_name']!r} is no function of one row's values alone")
            if node["class"] == "COLUMN_REF":
                read.append(".".join(node["column_names"]))
    return tuple(dict.fromkeys(read))


@cache
def _tree(name: str, expression: str) -> dict[str, Any]:
    """Return an expression as its syntax tree. Raises ExpressionRefused for what is not one."""
    with _engine().cursor() as cursor:
        told = cursor.execute("SELECT json_serialize_sql(?)", [f"SELECT ({expression}\n)"]).fetchone()
    tree = decode_any((told or ("",))[0])
    if tree["error"]:
        raise ExpressionRefused(name, expression, tree["error_message"])
    select = tree["statements"][0]["node"]
    if len(tree["statements"]) != 1 or len(select.get("select_list", ())) != 1 or select["from_table"]["type"] != "EMPTY":
        raise ExpressionRefused(name, expression, "it is more than one expression")
    (column,) = select["select_list"]
    return dict(column)


def _is_pure(cursor: "duckdb.DuckDBPyConnection", function: str) -> bool:
    query = "SELECT DISTINCT function_type, stability, macro_definition FROM duckdb_functions() WHERE function_name = ?"
    known = cursor.execute(query, [function.lower()]).fetchall()
    if [kind for kind, _, _ in known] == ["macro"]:  # a short name, such as nullif, for an expression of others
        told = cursor.execute("SELECT json_serialize_sql(?)", [f"SELECT ({known[0][2]})"]).fetchone()
        nodes = list(_nodes(decode_any((told or ("",))[0])))
        return all(each["class"] in _ALLOWED and (each["class"] != "FUNCTION" or _is_pure(cursor, each["function_name"])) for each in nodes)
    return bool(known) and all((kind, stability) == ("scalar", "CONSISTENT") for kind, stability, _ in known)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts of an expression, as json_serialize_sql tells them."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for each in tree:
            yield from _nodes(each)


@cache
def _planned(expressions: Items, types: Items) -> Items:
    """Return the computed columns in an order in which each finds what it reads, with their SQL types. Raises ExpressionRefused."""
    import duckdb

    named = dict(expressions)
    reads = {name: [column for column in _read_by(name, named[name]) if column in named] for name in named}
    try:
        order = list(TopologicalSorter(reads).static_order())
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        raise ExpressionRefused(circle[0], named[circle[0]], f"it reads itself ({' reads '.join(circle)})") from None
    known, planned = dict(types), []
    for name in order:
        row = ", ".join(f"NULL::{kind} AS {_quoted(column)}" for column, kind in known.items()) or "NULL"
        try:
            with _engine().cursor() as cursor:
                told = cursor.execute(f"DESCRIBE SELECT ({named[name]}\n) FROM (SELECT {row})").fetchall()[0][1]
                cursor.execute(f"SELECT TRY({named[name]}\n) FROM (SELECT {row})")  # what no row could compute fails here
        except duckdb.Error as error:
            raise ExpressionRefused(name, named[name], _said(error)) from error
        kind = "DOUBLE" if told.startswith(_NUMBERS) else told
        if kind not in _ARROW or told.endswith("]"):
            raise ExpressionRefused(name, named[name], f"it is of type {told}, not a number, a boolean or text")
        known[name] = kind
        planned.append((name, kind))
    return tuple(planned)


def _select(expressions: Mapping[str, str], types: Mapping[str, str], rows: str) -> str:
    """Return the query for computed columns over a query for the columns that they read."""
    numbers = [f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}" for name in _quoted_of(types, "DOUBLE")]
    rows = f"SELECT * REPLACE ({', '.join(numbers)}) FROM ({rows})" if numbers else rows
    for name, kind in _planned(tuple(expressions.items()), tuple(sorted(types.items()))):
        rows = f"SELECT *, TRY(CAST(({expressions[name]}\n) AS {kind})) AS {_quoted(name)} FROM ({rows})"
    return f"SELECT {', '.join(map(_quoted, expressions))} FROM ({rows})"


def _sql_type(name: str, expression: str, column: str, arrow_type: str) -> str:
    if arrow_type == "bool":
        return "BOOLEAN"
    if arrow_type == "uint64":
        return "UBIGINT"
    if arrow_type.startswith(("int", "uint")):
        return "BIGINT"
    if arrow_type in ("float", "double", "halffloat") or arrow_type.startswith("decimal"):
        return "DOUBLE"
    if arrow_type in ("string", "large_string", "string_view") or (arrow_type.startswith("dictionary<values=") and "string" in arrow_type):
        return "VARCHAR"
    if arrow_type.startswith("timestamp[") and "tz=" in arrow_type:
        return "TIMESTAMP"
    raise ExpressionRefused(
        name, expression, f"column {column!r} is of type {arrow_type}, not of numbers, booleans, text or times with a time zone"
    )


def _moment(value: Any) -> datetime | None:
    """Return a moment as TIMESTAMP has it: in UTC, and silent about that."""
    if value is None:
        return None
    moment = parse_moment(value) if isinstance(value, str) else value
    return utc(moment).replace(tzinfo=None)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted_of(types: Mapping[str, str], kind: str) -> list[str]:
    return [_quoted(name) for name in types if types[name] == kind]


def _said(error: Exception) -> str:
    return str(error).splitlines()[0]
