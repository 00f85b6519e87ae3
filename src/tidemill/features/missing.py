"""What stands for a value that is missing: the default that a feature declares, or a refusal."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Invalid


class FeaturesMissing(Invalid):
    """Some features have no value, and the caller or the feature service said that they must."""

    def __init__(self, row: int, names: Sequence[str]) -> None:
        self.row, self.names = row, tuple(names)
        super().__init__(
            f"row {row} has no {', '.join(names)}; push or materialize events of it, or ask with missing 'none' to get what there is"
        )


def gone(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a feature's values are missing: NaN among numbers, None among text."""
    if column.dtype != object:
        missing: NDArray[np.bool_] = np.isnan(column)
        return missing
    return np.array([value is None for value in column], dtype=np.bool_)


def filled(column: NDArray[Any], default: float | str) -> NDArray[Any]:
    """Return a feature's values with its default in place of those that are missing."""
    missing = gone(column)
    return np.where(missing, default, column) if missing.any() else column


def refuse_missing(found: Mapping[str, NDArray[Any]], names: Collection[str]) -> None:
    """Raise FeaturesMissing for the first row for which one of the named features has no value."""
    lacking = {name: gone(found[name]) for name in names}
    rows = [int(np.argmax(missing)) for missing in lacking.values() if missing.any()]
    if rows:
        first = min(rows)
        raise FeaturesMissing(first + 1, [name for name, missing in lacking.items() if missing[first]])
