"""Files as tables: their columns and rows, and a Parquet form of those that are text. Knows no catalog."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.core.errors import Invalid

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
"""Kinds of files that are tables."""
_TIME = "timestamp["


class Shape(NamedTuple):
    """What a file is as a table."""

    schema: pa.Schema
    rows: int


def is_table(name: str) -> bool:
    """Return whether a file is a table, by its name."""
    return name.lower().endswith(SUFFIXES)


def is_text(name: str) -> bool:
    """Return whether a file is a table that needs a Parquet form to be read often."""
    return is_table(name) and not name.lower().endswith(".parquet")


def measure(path: Path) -> Shape:
    """Return the columns and rows of a Parquet file, from its end. Raises Invalid."""
    try:
        with pq.ParquetFile(path) as file:
            shape = Shape(file.schema_arrow.remove_metadata(), file.metadata.num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise Invalid(f"{path} could not be read as parquet: {error}; is it whole?") from error
    _check_names(path, shape.schema.names)
    return shape


def derive(path: Path, target: Path, *, form: str, types: pa.Schema | None = None) -> Shape:
    """Write the Parquet form of a text file; form: its suffix, types: those that its columns are to have. Raises Invalid."""
    try:
        table = read_text(path, form=form, types=types)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} could not be read as {form.lstrip('.')}: {str(error).splitlines()[0]}") from error
    _check_names(path, table.column_names)
    foreign = next((field.name for field in table.schema if pa.types.is_binary(field.type)), None)
    if foreign is not None:
        raise Invalid(f"{path} could not be read as {form.lstrip('.')}: column {foreign!r} is not text in UTF-8; convert the file to UTF-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}~")
    try:
        pq.write_table(table, scratch, compression="zstd", compression_level=1)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    return Shape(table.schema.remove_metadata(), table.num_rows)


def read_text(path: Path, *, form: str, types: pa.Schema | None = None) -> pa.Table:
    """Return the rows of a CSV, TSV or JSON-lines file. Raises pyarrow's errors."""
    if form.lower() in (".csv", ".tsv"):
        from pyarrow import csv  # (a third of a second, needed for text only)

        convert = csv.ConvertOptions(column_types=types) if types is not None else None
        return csv.read_csv(
            path, parse_options=csv.ParseOptions(delimiter="\t" if form.lower() == ".tsv" else ","), convert_options=convert
        )
    from pyarrow import json

    return json.read_json(path, parse_options=json.ParseOptions(explicit_schema=types))


def unified(shapes: Mapping[str, Shape]) -> pa.Schema:
    """Return one schema for files of the same columns, whose numbers may be of different types. Raises Invalid naming two that differ."""
    first, *others = shapes.items()
    for name, shape in others:
        if shape.schema.names != first[1].schema.names:
            raise Invalid(f"{name} has other columns than {first[0]}: {difference(columns_of(first[1].schema), columns_of(shape.schema))}")
    try:
        return pa.unify_schemas([shape.schema for shape in shapes.values()], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        for name, shape in others:
            if shape.schema != first[1].schema:
                differ = difference(columns_of(first[1].schema), columns_of(shape.schema))
                raise Invalid(f"{name} has other columns than {first[0]}: {differ}") from None
        raise


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Return the columns of a schema, name to type as text."""
    return {field.name: str(field.type) for field in schema}


def schema_of(columns: Mapping[str, str]) -> pa.Schema | None:
    """Return a schema of types told as text, None when one of them is not among those that text files have."""
    fields: list[Any] = []
    for name, told in columns.items():
        kind: Any
        if told.startswith(_TIME):
            unit, _, zone = told.removeprefix(_TIME).removesuffix("]").partition(", tz=")
            kind = pa.timestamp(cast(Any, unit), zone or None)
        else:
            try:
                kind = pa.type_for_alias(cast(Any, told))
            except ValueError:
                return None
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def difference(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Say in words how the columns of a table differ from those expected."""
    parts = [f"missing {name}" for name in expected if name not in found]
    parts += [f"unknown {name}" for name in found if name not in expected]
    parts += [f"{name} is {found[name]}, expected {kind}" for name, kind in expected.items() if name in found and found[name] != kind]
    return ", ".join(parts) or "their order differs"


def _check_names(path: Path, names: Sequence[str]) -> None:
    if not names:
        raise Invalid(f"{path} has no columns; expected a table with at least one")
    twice = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) != len(names) else []
    if twice:
        raise Invalid(f"{path} has column {', '.join(twice)} more than once; expected distinct names")
