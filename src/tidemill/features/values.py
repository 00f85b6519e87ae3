"""Columns of a source as the numbers that features are made of."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tidemill.core.errors import Invalid
from tidemill.features.keys import is_text, texts_of
from tidemill.features.views import FeatureView
from tidemill.features.windows import Floats, numbers_of_texts

if TYPE_CHECKING:
    ArrowColumn = pa.ChunkedArray[Any]


def values_of(column: "ArrowColumn", name: str, view: FeatureView) -> Floats:
    """Return a column of a view's source as doubles: numbers as they are, text that is only counted by a number each. Raises Invalid."""
    if not (is_text(column.type) and view.counts_only(name)):
        return numbers_of(column, name)
    encoded = texts_of(column)
    numbers = numbers_of_texts(encoded.dictionary.to_pylist())
    places = encoded.indices.fill_null(numbers.size).to_numpy()
    found: Floats = np.append(numbers, np.nan)[places]
    return found


def numbers_of(column: "ArrowColumn", name: str) -> Floats:
    """Return a column of numbers or booleans as doubles; NaN is missing. Raises Invalid."""
    try:
        values = column.cast(pa.int8()).cast(pa.float64()) if pa.types.is_boolean(column.type) else column.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Invalid(f"column {name!r} is of type {column.type}; expected numbers or booleans") from error
    filled: Any = values.fill_null(pa.scalar(float("nan"))) if values.null_count else values
    doubles: Floats = filled.to_numpy()
    return doubles
