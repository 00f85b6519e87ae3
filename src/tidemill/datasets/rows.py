"""Rows as they arrive, as rows of a dataset: JSON objects, or a table of nearly the right types. What does not fit is told, row by row."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.core.codec import decode_any, encode_text
from tidemill.core.errors import Invalid

_ZONED = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)")
TEXT_MAX = 4000
_HEAD_BYTES = 64
RowsForm = Literal["json", "parquet", "arrow", "csv", "tsv"]


class Misfit(NamedTuple):
    """A row that cannot be one of the dataset: its number, why, and its text as far as it is known."""

    row: int
    reason: str
    text: str


class Unread(NamedTuple):
    """What came in the place of a row, and cannot be read as one."""

    reason: str
    text: str


class Fitted(NamedTuple):
    """Rows of the dataset's types: the table, the number that each of its rows had among those that came, and those that do not fit."""

    table: pa.Table
    numbers: list[int]
    misfits: list[Misfit]


def read_record(data: bytes) -> Any:
    """Return what JSON says, or that it is none."""
    try:
        return decode_any(data, what="it")
    except Invalid as error:
        return Unread(str(error), data.decode("utf-8", errors="replace")[:TEXT_MAX])


def read_rows(path: Path, form: RowsForm | None = None) -> pa.Table | list[Any]:
    """Return the rows of a file: a table, or of JSON (a list of objects, or one a line) what it says. Raises Invalid.

    form: what it is; Parquet, an Arrow stream and JSON are told by their first bytes.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    told = form or ("parquet" if head.startswith(b"PAR1") else "arrow" if head.startswith(b"\xff\xff\xff\xff") else "json")
    try:
        if told == "parquet":
            return pq.read_table(path)
        if told == "arrow":
            with path.open("rb") as file, pa.ipc.open_stream(file) as stream:
                return stream.read_all()
        if told in ("csv", "tsv"):
            from pyarrow import csv  # (a third of a second, needed for text only)

            return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter="\t" if told == "tsv" else ","))
    except (pa.ArrowException, OSError) as error:
        raise Invalid(f"the rows could not be read as {told}: {error}") from error
    text = path.read_bytes()
    if head.lstrip().startswith(b"["):
        found = decode_any(text, what="the body")
    else:
        found = [decode_any(line, what=f"line {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not found:
        raise Invalid("there are no rows; expected at least one, as a list of JSON objects or one a line")
    return list(found)


def from_records(records: Sequence[Any], schema: pa.Schema | None, *, needed: Sequence[str] = ()) -> Fitted:
    """Read JSON objects as rows. schema: of the dataset; None for a new one, whose types the rows that have the needed columns decide.

    Each names the columns of the dataset, no more and no less; null is missing. Times are RFC 3339 with a zone.
    """
    schema = schema if schema is not None else schema_of(records, needed)
    names = set(schema.names)
    misfits: dict[int, str] = {}
    for number, record in enumerate(records):
        if isinstance(record, Unread):
            misfits[number] = record.reason
        elif not isinstance(record, dict):
            misfits[number] = f"it is {type(record).__name__}; expected an object of column names and values"
        elif record.keys() != names or not record:
            misfits[number] = _other_columns(names or set(needed), record) or "it is empty"
    kept = [number for number in range(len(records)) if number not in misfits]
    columns = [_column(field, [records[number][field.name] for number in kept], kept, misfits) for field in schema]
    table = pa.table(columns, schema=schema)
    if bad := [place for place, number in enumerate(kept) if number in misfits]:
        keep = np.ones(len(kept), dtype=np.bool_)
        keep[bad] = False
        table, kept = table.filter(pa.array(keep)), [number for number in kept if number not in misfits]
    return Fitted(table, kept, [Misfit(number, misfits[number], text_of(records[number])) for number in sorted(misfits)])


def from_table(table: pa.Table, schema: pa.Schema | None) -> Fitted:
    """Read rows of a file or a frame as rows of the dataset, whose columns they have, of its types or nearly."""
    if schema is None or table.schema.equals(schema):
        return Fitted(table, list(range(table.num_rows)), [])
    try:
        return Fitted(table.select(schema.names).cast(schema), list(range(table.num_rows)), [])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return from_records([jsonlike(row) for row in table.to_pylist()], schema)


def schema_of(records: Sequence[Any], needed: Sequence[str] = ()) -> pa.Schema:
    """Return the columns of the first object that has the needed ones, of the types of the values: times where the first text is one."""
    fitting = (record for record in records if isinstance(record, dict) and record.keys() >= set(needed))
    first: Mapping[str, Any] = next(fitting, {})
    alike = [record for record in records if isinstance(record, dict) and record.keys() == first.keys()]
    return pa.schema([pa.field(name, _kind([record[name] for record in alike])) for name in first])


def text_of(record: Any) -> str:
    """Return a row as text for people, its beginning if it is long."""
    if isinstance(record, Unread):
        return record.text
    return encode_text(record)[:TEXT_MAX]


def _kind(values: Sequence[Any]) -> pa.DataType:
    there = [value for value in values if value is not None]
    kinds = set(map(type, there))
    if kinds == {str}:
        return pa.timestamp("us", tz="UTC") if _ZONED.fullmatch(there[0]) else pa.string()
    if kinds and kinds <= {int, float}:
        return pa.int64() if kinds == {int} else pa.float64()
    try:
        found: pa.DataType = pa.array(there or [""]).type
    except pa.ArrowException:  # of several kinds: the first one's, and the others will not fit
        found = pa.array(there[:1]).type
    return found


def _column(field: Any, values: list[Any], numbers: Sequence[int], misfits: dict[int, str]) -> Any:
    """Return a column, null where a value is not of its type; those rows are added to the misfits."""
    try:
        return _array(field.type, values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        pass
    good: list[Any] = []
    for number, value in zip(numbers, values, strict=True):
        try:
            _array(field.type, [value])
            good.append(value)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            misfits.setdefault(number, f"column {field.name!r} is {text_of(value)[:100]}; expected {_expected(field.type)}")
            good.append(None)
    return _array(field.type, good)


def _array(kind: pa.DataType, values: list[Any]) -> Any:
    """Return values of JSON as an array. Raises what Arrow raises, and TypeError for those that it would take all the same."""
    told = set(map(type, values)) - {type(None)}
    if pa.types.is_integer(kind):
        if float in told and any(isinstance(value, float) and not value.is_integer() for value in values):
            raise TypeError  # Arrow would cut it off
        allowed: set[type] = {int, float}
    elif pa.types.is_floating(kind):
        allowed = {int, float}
    elif pa.types.is_temporal(kind):
        if told - {str}:
            raise TypeError
        return pa.array(values, pa.string()).cast(kind)
    else:
        return pa.array(values, kind)
    if told - allowed:
        raise TypeError
    return pa.array(values, kind)


def _expected(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return "a moment such as 2013-06-01T12:00:00Z, or null"
    return f"{kind}, or null"


def _other_columns(names: set[str], record: Mapping[str, Any]) -> str:
    missing, more = sorted(name for name in names if name not in record), [name for name in record if name not in names]
    lacks = f"it lacks {', '.join(missing)}" if missing else ""
    has = f"it has {', '.join(more)}, which the dataset has not" if more else ""
    return " and ".join(filter(None, (lacks, has)))


def jsonlike(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a table as it would be in JSON."""
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}
