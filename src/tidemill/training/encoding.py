"""Columns of a table as one matrix of numbers, the same in Python and in ONNX: numbers as they are, categories as codes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.core.values import Value

Matrix = NDArray[np.float32]
UNKNOWN = -1.0


class Encoding(Value, frozen=True, kw_only=True):
    """How rows become a matrix: numeric columns first, NaN for missing; then categorical ones, each as its place among categories.

    A category that was not seen in fitting, or is missing, is -1.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if len(self.categorical) != len(self.categories):
            raise Invalid(f"{len(self.categorical)} categorical columns do not match {len(self.categories)} lists of categories")
        if not self.columns:
            raise Invalid("a model needs at least one column, got none")
        if len(set(self.columns)) != len(self.columns):
            raise Invalid(f"a column is named twice: {', '.join(self.columns)}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the matrix's columns, in order."""
        return self.numeric + self.categorical


def fit_encoding(table: pa.Table, *, numeric: Sequence[str], categorical: Sequence[str] = ()) -> Encoding:
    """Learn the categories of a table, in sorted order."""
    _check_there(table, (*numeric, *categorical))
    found = []
    for name in categorical:
        values = pc.unique(_texts(table.column(name), name)).drop_null().to_pylist()
        found.append(tuple(sorted(str(value) for value in values)))
    return Encoding(numeric=tuple(numeric), categorical=tuple(categorical), categories=tuple(found))


def encode(encoding: Encoding, table: pa.Table) -> Matrix:
    """Return the matrix (rows, columns) of a table. Raises Invalid for a missing or ill-typed column."""
    _check_there(table, encoding.columns)
    matrix = np.empty((table.num_rows, len(encoding.columns)), dtype=np.float32)
    for place, name in enumerate(encoding.numeric):
        matrix[:, place] = numbers(table, name)
    for place, (name, categories) in enumerate(zip(encoding.categorical, encoding.categories, strict=True), len(encoding.numeric)):
        known: Any = pa.array(categories, pa.string())
        matrix[:, place] = _filled(pc.index_in(_texts(table.column(name), name), known), UNKNOWN)
    return matrix


def numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a column of numbers or booleans as doubles; NaN is missing. Raises Invalid."""
    column = table.column(name)
    try:
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        return _filled(column.cast(pa.float64(), safe=False), math.nan)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Invalid(f"column {name!r} is of type {column.type}; expected numbers (text belongs among the categorical columns)") from error


def labels(table: pa.Table, name: str) -> NDArray[np.bool_]:
    """Return a column of outcomes as booleans. Raises Invalid when one is missing or neither 0 nor 1."""
    _check_there(table, (name,))
    values = numbers(table, name)
    if not np.isin(values, (0.0, 1.0)).all():
        raise Invalid(f"label column {name!r} holds what is neither 0 nor 1, or nothing; leave such rows out before training")
    return values.astype(np.bool_)


def texts(table: pa.Table, name: str) -> NDArray[np.object_]:
    """Return a column of text as an object array; "" is missing, as a request has it."""
    return _filled(_texts(table.column(name), name), "")


def _filled(column: Any, value: float | str) -> NDArray[Any]:
    found: NDArray[Any] = column.fill_null(value).to_numpy()
    return found


def _texts(column: "pa.ChunkedArray[Any]", name: str) -> "pa.ChunkedArray[Any]":
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise Invalid(f"column {name!r} is of type {column.type}; expected text for a categorical column")
    return column.cast(pa.string())


def _check_there(table: pa.Table, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise Invalid(f"the table has no column {', '.join(missing)} (it has: {', '.join(table.column_names)})")
