"""Figures, tables and values as files: what each becomes, by the name that it is given."""

import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tidemill.core.digest import digest_bytes, digest_value
from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.values import Value

ROWS_AT_ONCE = 1 << 16


class Described(Value, frozen=True, kw_only=True):
    """Data that a run read, as far as it tells of itself. schema: column -> type; digest: of its content."""

    digest: str
    schema: dict[str, str]
    rows: int


def figure_file(figure: Any, name: str) -> tuple[str, bytes]:
    """Return the path and bytes of a figure of matplotlib, plotly or PIL, in the form that the name's ending says. Raises Invalid."""
    form = PurePosixPath(name).suffix.lstrip(".").lower()
    buffer = io.BytesIO()
    if hasattr(figure, "savefig"):
        form = form or "png"
        figure.savefig(buffer, format=form, bbox_inches="tight")
        return _named(name, form), buffer.getvalue()
    if hasattr(figure, "to_plotly_json"):
        form = form or "json"
        if form == "json":
            return _named(name, form), figure.to_json().encode()
        if form == "html":
            return _named(name, form), figure.to_html(include_plotlyjs=True, full_html=True).encode()
        return _named(name, form), figure.to_image(format=form)
    if hasattr(figure, "save") and hasattr(figure, "getbands"):
        form = form or "png"
        figure.save(buffer, format={"jpg": "jpeg"}.get(form, form))
        return _named(name, form), buffer.getvalue()
    raise Invalid(
        f"a {type(figure).__name__} is no figure that is understood; expected one of matplotlib, plotly or PIL; "
        "write others to a file and log that: run.file(path)"
    )


def table_file(table: Any, name: str, folder: Path) -> tuple[str, Path]:
    """Write a table into a folder; return the path that it is to have and the file: Parquet, or JSON rows without pyarrow.

    table: a frame of pandas, Polars, DuckDB or Arrow, a list of rows (mappings), or columns by name. Raises Invalid, ExtraMissing.
    """
    form, file = PurePosixPath(name).suffix.lstrip(".").lower(), folder / "table"
    if form not in ("", "parquet", "json", "csv"):
        raise Invalid(f"table {name!r} cannot be kept as .{form}; expected .parquet, .csv or .json")
    try:
        from pyarrow import csv, parquet
    except ImportError as error:
        if form not in ("", "json"):
            raise ExtraMissing("pyarrow", "ml") from error
        file.write_bytes(json_bytes(_rows_without_arrow(table)))
        return _named(name, "json"), file
    found = _as_arrow(table)
    if form == "json":
        file.write_bytes(json_bytes(found.to_pylist()))
    elif form == "csv":
        csv.write_csv(found, file)
    else:
        parquet.write_table(found, file, compression="zstd", compression_level=1)
    return _named(name, form or "parquet"), file


def describe(data: Any) -> Described:
    """Return digest, schema and length of a frame, of rows, or of an array of numpy. Raises Invalid, ExtraMissing.

    The digest is of the content: the same rows in the same order, the same columns and types have the same one.
    """
    if hasattr(data, "dtype") and hasattr(data, "tobytes") and hasattr(data, "shape"):
        content = digest_value([str(data.dtype), list(data.shape), digest_bytes(data.tobytes())])
        return Described(
            digest=content[:32], schema={"values": f"{data.dtype}{list(data.shape)}"}, rows=int(data.shape[0]) if data.shape else 1
        )
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ExtraMissing("pyarrow", "ml") from error
    table = _as_arrow(data)
    schema = {field.name: str(field.type) for field in table.schema}
    parts = []
    for batch in table.combine_chunks().to_batches(max_chunksize=ROWS_AT_ONCE):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema.remove_metadata()) as stream:
            stream.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=batch.schema.remove_metadata()))
        parts.append(digest_bytes(memoryview(sink.getvalue())))
    return Described(digest=digest_value([schema, parts])[:32], schema=schema, rows=table.num_rows)


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON. Arrays become lists, other things text, and what is no number, or infinite, null. Raises Invalid."""
    try:
        return json.dumps(_finite(value), indent=2, default=_plain, ensure_ascii=False).encode("utf-8", "replace")
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"a {type(value).__name__} cannot be written as JSON: {error}") from error


def _as_arrow(table: Any) -> Any:
    import pyarrow as pa

    if isinstance(table, pa.Table):
        return table
    try:
        if hasattr(table, "__arrow_c_stream__"):
            return pa.table(table)
        if isinstance(table, Mapping):
            return pa.table(dict(table))
        if isinstance(table, Iterable) and not isinstance(table, str | bytes | Path):
            return pa.Table.from_pylist([dict(row) for row in table])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise Invalid(f"a {type(table).__name__} could not be read as a table: {error}") from error
    raise Invalid(f"a {type(table).__name__} is no table; expected a frame of pandas, Polars, DuckDB or Arrow, rows, or columns by name")


def _rows_without_arrow(table: Any) -> Any:
    if hasattr(table, "to_dict") and hasattr(table, "columns"):
        return table.to_dict(orient="records")
    if isinstance(table, Mapping):
        return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    return [dict(row) for row in table]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else value


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


def _named(name: str, form: str) -> str:
    return name if PurePosixPath(name).suffix else f"{name}.{form}"
