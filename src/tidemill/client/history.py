"""The points of one metric, as columns and one by one."""

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Self, overload

from tidemill.client.call import Doc
from tidemill.core.clock import from_micros
from tidemill.core.errors import Corrupt

_COUNT = struct.Struct("<I")


class History(Sequence[Doc]):
    """All points of a metric in the order logged. values, steps and times (microseconds since 1970) are columns: give them to numpy.

    As a sequence it holds points: `{"value": …, "step": …, "at": …}`. NaN and infinities are what they were.
    """

    def __init__(self, values: "array[float]", steps: "array[int]", times: "array[int]") -> None:
        self.values, self.steps, self.times = values, steps, times

    @classmethod
    def read(cls, blocks: bytes) -> Self:
        """Read blocks of columns as the server sends them. Raises Corrupt for what ends in the middle of one."""
        columns: tuple[array[Any], array[Any], array[Any]] = array("d"), array("q"), array("q")
        at = 0
        while at < len(blocks):
            count = _COUNT.unpack_from(blocks, at)[0] if at + _COUNT.size <= len(blocks) else 1 << 32
            at += _COUNT.size
            if at + 24 * count > len(blocks):
                raise Corrupt(f"a history ended in the middle of a block, after {len(columns[0])} points; ask for it again")
            for column in columns:
                column.frombytes(blocks[at : at + 8 * count])
                at += 8 * count
        if sys.byteorder == "big":
            for column in columns:
                column.byteswap()
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        """Histories with the same points are equal, NaNs included."""
        if not isinstance(other, History):
            return NotImplemented
        return [column.tobytes() for column in self._columns()] == [column.tobytes() for column in other._columns()]

    __hash__ = None  # type: ignore[assignment]  # its columns may change

    def _columns(self) -> "tuple[array[float], array[int], array[int]]":
        return self.values, self.steps, self.times

    @overload
    def __getitem__(self, place: int) -> Doc: ...
    @overload
    def __getitem__(self, place: slice) -> Self: ...
    def __getitem__(self, place: int | slice) -> Doc | Self:
        if isinstance(place, slice):
            return type(self)(self.values[place], self.steps[place], self.times[place])
        return {"value": self.values[place], "step": self.steps[place], "at": from_micros(self.times[place])}

    def __iter__(self) -> Iterator[Doc]:
        return (self[place] for place in range(len(self)))

    def __repr__(self) -> str:
        return f"<history of {len(self)} points>"
