"""Rows in the forms that callers have them in, and as the data plane takes them: JSON records, or a tensor a column in raw bytes."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from tidemill.core.codec import encode
from tidemill.core.errors import Invalid

Row = Mapping[str, Any]
# From so many rows on a table is sent as tensors; below, JSON is as quick and any value can be said in it.
TENSOR_ROWS = 32
RECORDS_AT_ONCE, ROWS_AT_ONCE = 1000, 10_000
REQUEST_BYTES = 4 << 20
EXACT_WHOLE = 2**53  # up to here every whole number is a float64, too
FORMS = "a dict, a list of dicts, a NumPy array [n, k], or a table of pandas, Polars or Arrow"


class Records(NamedTuple):
    """Rows as dicts."""

    rows: Sequence[Row]

    @property
    def total(self) -> int:
        return len(self.rows)

    @property
    def at_once(self) -> int:
        return RECORDS_AT_ONCE

    def body(self, begin: int, end: int, ids: Sequence[str], at: datetime | None) -> tuple[bytes, dict[str, str]]:
        """Return a request about some rows, and the headers that it needs. Raises Invalid for what JSON cannot say."""
        request: dict[str, Any] = {"rows": self.rows[begin:end], "ids": ids}
        if at is not None:
            request["at"] = at
        try:
            data = encode(request)
        except TypeError:  # numbers of NumPy's, perhaps: looking at each value first would cost every call
            data = encode(request | {"rows": [_plain(row, place) for place, row in enumerate(self.rows[begin:end], begin)]})
        return data, {"Content-Type": "application/json"}


class Tensors(NamedTuple):
    """Rows as columns: name to datatype of the Open Inference Protocol and values, an array or a list of texts."""

    columns: Mapping[str, tuple[str, Any]]
    total: int
    row_bytes: int

    @property
    def at_once(self) -> int:
        return max(1, min(ROWS_AT_ONCE, REQUEST_BYTES // max(1, self.row_bytes)))

    def body(self, begin: int, end: int, ids: Sequence[str], at: datetime | None) -> tuple[bytes, dict[str, str]]:
        """Return a request about some rows, and the headers that it needs."""
        raw = [_raw(values[begin:end]) for _, values in self.columns.values()]
        parameters: dict[str, Any] = {"prediction_ids": ids, "binary_data_output": True, "variants": True}
        if at is not None:
            parameters["at"] = at
        inputs = [
            {"name": name, "datatype": datatype, "shape": [end - begin], "parameters": {"binary_data_size": len(data)}}
            for (name, (datatype, _)), data in zip(self.columns.items(), raw, strict=True)
        ]
        head = encode({"inputs": inputs, "parameters": parameters})
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return b"".join((head, *raw)), headers


def read_rows(rows: Any, names: Callable[[], Sequence[str]]) -> Records | Tensors:
    """Return rows as they are sent. names: asked for the columns of an array, in their order. Raises Invalid."""
    if isinstance(rows, Mapping):
        return Records([rows])
    if hasattr(rows, "__arrow_c_stream__"):
        return _of_table(rows)
    if hasattr(rows, "dtype") and hasattr(rows, "shape"):
        return _of_array(rows, names())
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise Invalid(f"rows of type {type(rows).__name__} were not understood; expected {FORMS}")
    return Records(rows)


def _of_array(array: Any, names: Sequence[str]) -> Records | Tensors:
    if len(array.shape) != 2 or array.shape[1] != len(names):
        raise Invalid(
            f"an array of shape {list(array.shape)} does not fit; expected [n, {len(names)}], with the columns {', '.join(names[:40])}"
        )
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8 or str(array.dtype) == "uint64":
        return Records([dict(zip(names, row, strict=True)) for row in array.tolist()])
    datatype, kind = _numeric(array.dtype)
    columns = {name: (datatype, array[:, place].astype(kind, copy=False)) for place, name in enumerate(names)}
    return Tensors(columns, len(array), sum(values.dtype.itemsize for _, values in columns.values()))


def _of_table(table: Any) -> Records | Tensors:
    import pyarrow as pa

    try:
        read: pa.Table = pa.table(table)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise Invalid(f"the table was not understood: {error}; expected one type a column") from error
    told = read.schema.pandas_metadata or {}
    read = read.drop_columns([name for name in told.get("index_columns", ()) if isinstance(name, str)])  # what pandas counts rows by
    tensors = {name: _tensor(column) for name, column in zip(read.column_names, read.columns, strict=True)}
    if read.num_rows < TENSOR_ROWS or None in tensors.values():
        return Records(read.to_pylist())
    columns = {name: found for name, found in tensors.items() if found is not None}
    return Tensors(columns, read.num_rows, read.nbytes // read.num_rows + 1)


def _tensor(column: Any) -> tuple[str, Any] | None:
    """Return the datatype and values of an Arrow column, None for what only JSON can say."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return None if column.null_count else ("BYTES", column.to_pylist())
    whole = pa.types.is_integer(kind)
    if kind != column.type or not (whole or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return None
    if column.null_count == 0 and kind != pa.uint64():
        values = column.to_numpy()
        datatype, dtype = _numeric(values.dtype)
        return datatype, values.astype(dtype, copy=False)
    if pa.types.is_boolean(kind):
        return None
    found = column.to_numpy()  # where one is missing: as floats, with NaN
    if whole and (found.dtype.kind != "f" or abs(found[found == found]).max(initial=0) > EXACT_WHOLE):
        return None
    return "FP64", found.astype("<f8", copy=False)


def _numeric(dtype: Any) -> tuple[str, str]:
    if dtype.kind == "f":
        return ("FP64", "<f8") if dtype.itemsize == 8 else ("FP32", "<f4")
    return ("BOOL", "?") if dtype.kind == "b" else ("INT64", "<i8")


def _raw(values: Any) -> bytes:
    """Return values as raw bytes; each text comes after its length."""
    if not isinstance(values, list):
        return bytes(values.tobytes())
    return b"".join(part for text in map(str.encode, values) for part in (len(text).to_bytes(4, "little"), text))


def _plain(row: Row, place: int) -> dict[str, Any]:
    """Return a row with NumPy's numbers as Python's. Raises Invalid naming the column that is none of JSON's."""
    found = {name: value.item() if hasattr(value, "dtype") and not value.shape else value for name, value in row.items()}
    for name, value in found.items():
        try:
            encode(value)
        except TypeError as error:
            raise Invalid(
                f"row {place}: column {name!r} holds a value of type {type(value).__name__}; expected a number, a text, true or false"
            ) from error
    return found
