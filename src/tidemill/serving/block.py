"""Columns of numbers as one matrix: how tensors, which most callers send, go through a worker without being taken apart."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Block(Mapping[str, NDArray[Any]]):
    """The columns of a matrix [rows, columns] of float32 or float64 by name. NaN means missing."""

    __slots__ = ("matrix", "names")

    def __init__(self, names: tuple[str, ...], matrix: NDArray[Any]) -> None:
        self.names, self.matrix = names, matrix

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self.matrix[:, self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def take(self, places: list[int]) -> "Block":
        """Return some of the rows."""
        return Block(self.names, self.matrix[places])


def finite(numbers: NDArray[Any]) -> bool:
    """Return whether all numbers are finite."""
    return 0 not in np.isfinite(numbers).tobytes()  # a third of the cost of `all`, which is more than that of the rest


class BlockCheck:
    """What every value of a block has to be: present where its column is required, finite, and within its column's range."""

    def __init__(self, low: NDArray[np.float64], high: NDArray[np.float64], optional: NDArray[np.bool_]) -> None:
        self._low = low if np.isfinite(low).any() else None
        self._high = high if np.isfinite(high).any() else None
        self._optional = optional if optional.any() else None

    def holds(self, matrix: NDArray[Any]) -> bool:
        """Return whether all is well. matrix: [rows, columns]."""
        if not finite(matrix) and (self._optional is None or not (np.isfinite(matrix) | (np.isnan(matrix) & self._optional)).all()):
            return False
        return not ((self._low is not None and (matrix < self._low).any()) or (self._high is not None and (matrix > self._high).any()))
