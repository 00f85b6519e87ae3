"""Rows that a fitted model is tried on: named columns of numbers and text, from whatever frame its author has."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Invalid

Floats = NDArray[np.float64]


class Sample:
    """Columns by name, equally long: float64 (NaN: missing) or objects (text, None: missing)."""

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Raises Invalid when there is no column, or no row."""
        self.columns = dict(columns)
        self.names = tuple(self.columns)
        self.texts = tuple(name for name, column in self.columns.items() if column.dtype == object)
        self.rows = len(next(iter(self.columns.values()), ()))
        if not self.rows:
            raise Invalid("a model is tried on rows of a sample, and it has none; give some rows as they will be asked for")

    def matrix(self) -> Floats:
        """Return all columns as one matrix. Raises Invalid when some are text."""
        if self.texts:
            raise Invalid(f"columns {', '.join(self.texts)} are text; this model takes numbers only")
        return np.column_stack([self.columns[name] for name in self.names])


def read_sample(rows: Any, columns: Sequence[str] | None = None) -> Sample:
    """Read a frame (pandas, Polars, Arrow), a dict of columns or an array [rows, columns]; columns name those of an array.

    Raises Invalid for dates and whatever else is neither number nor text.
    """
    found: dict[str, Any]
    if isinstance(rows, np.ndarray):
        if rows.ndim != 2:
            raise Invalid(f"the sample is an array of shape {rows.shape}; expected [rows, columns]")
        names = tuple(columns) if columns is not None else tuple(f"x{place}" for place in range(rows.shape[1]))
        if len(names) != rows.shape[1]:
            raise Invalid(f"the sample has {rows.shape[1]} columns, {len(names)} names were given")
        found = {name: rows[:, place] for place, name in enumerate(names)}
    else:
        named = getattr(rows, "column_names", getattr(rows, "columns", rows))  # pyarrow's own; pandas and Polars; a dict
        found = {str(name): rows[name] for name in named}
        if columns is not None:
            found = {name: found[name] for name in columns}
    return Sample({name: _column(name, column) for name, column in found.items()})


def _column(name: str, column: Any) -> NDArray[Any]:
    values = column.tolist() if isinstance(column, np.ndarray) else list(column.to_pylist() if hasattr(column, "to_pylist") else column)
    missing = [value is None or value != value for value in values]
    if any(isinstance(value, str) for value in values):
        if strange := [value for value, gone in zip(values, missing, strict=True) if not gone and not isinstance(value, str)]:
            raise Invalid(f"column {name!r} of the sample holds text and {strange[0]!r}; expected one of both")
        text = np.empty(len(values), dtype=object)
        text[:] = [None if gone else value for value, gone in zip(values, missing, strict=True)]
        return text
    try:
        return np.array([np.nan if gone else float(value) for value, gone in zip(values, missing, strict=True)], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Invalid(f"column {name!r} of the sample is neither numbers nor text: {error}") from error
