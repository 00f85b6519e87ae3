"""Entities as small whole numbers, and time with them: the rows that ask are numbered and sorted once, events are held against them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.features.windows import Ints

if TYPE_CHECKING:
    ArrowColumn = pa.ChunkedArray[Any]
    Encoded = pa.DictionaryArray[Any, Any]

NOBODY = -1
NEVER = -(2**63)
_ROOM = 2**62
_MOMENT = pa.timestamp("us", tz="UTC")


class AskingRows:
    """Rows that ask for features by one tuple of join keys, in order of entity and moment.

    groups, moments: number of the entity (NOBODY where a part of its key is missing) and microseconds since 1970, in that order.
    """

    def __init__(self, rows: pa.Table, entity: Sequence[str], timestamp: str) -> None:
        """Raises Invalid for a missing or ill-typed join key or time."""
        self.entity = tuple(entity)
        missing = [name for name in self.entity if name not in rows.column_names]
        if missing:
            raise Invalid(f"the entity rows have no join key {', '.join(map(repr, missing))} (they have: {', '.join(rows.column_names)})")
        moments = moments_of(rows, timestamp, what="the entity rows", required=True)
        parts = [_comparable(name, rows.column(name), "the entity rows").combine_chunks().dictionary_encode() for name in self.entity]
        self._known = [part.dictionary for part in parts]
        groups = self._joined([_filled(part.indices, NOBODY).astype(np.int64) for part in parts])
        self._pairs: Ints | None = None
        self.count = len(self._known[0])
        if len(parts) > 1:
            self._pairs = np.unique(groups[groups != NOBODY])
            self.count = self._pairs.size
            groups = self._narrowed(groups)
        self.order: Ints = np.argsort(Line(moments, self.count).place(groups, moments))
        self.groups, self.moments = groups[self.order], moments[self.order]

    def number(self, events: pa.Table, source: str) -> Ints:
        """Return the number of each event's entity, NOBODY for one that no row asks for. Raises Invalid for keys of other types."""
        parts = []
        for name, known in zip(self.entity, self._known, strict=True):
            column = _comparable(name, events.column(name), f"source {source}")
            if column.type != known.type and len(known) and len(column) > column.null_count:
                raise Invalid(
                    f"join key {name!r} is of type {events.column(name).type} in source {source} and of type {known.type} in the entity "
                    "rows; expected text, or whole numbers, on both sides"
                )
            found = pc.index_in(column.cast(known.type), value_set=known)
            parts.append(_filled(found, NOBODY).astype(np.int64))
        return self._narrowed(self._joined(parts))

    def back(self, found: NDArray[Any]) -> NDArray[Any]:
        """Return what was found for the rows in order of entity and moment in the order in which they came."""
        told = np.empty_like(found)
        told[self.order] = found
        return told

    def _joined(self, parts: list[Ints]) -> Ints:
        numbers = parts[0].copy()
        for part, known in zip(parts[1:], self._known[1:], strict=True):
            nobody = (numbers == NOBODY) | (part == NOBODY)
            numbers = np.where(nobody, NOBODY, numbers * max(1, len(known)) + part)
        return numbers

    def _narrowed(self, numbers: Ints) -> Ints:
        """Return numbers of pairs as numbers without gaps, NOBODY for a pair that no row has."""
        if self._pairs is None:
            return numbers
        if not self._pairs.size:
            return np.full_like(numbers, NOBODY)
        places = np.minimum(np.searchsorted(self._pairs, numbers), self._pairs.size - 1)
        return np.where(self._pairs[places] == numbers, places, NOBODY)


class Line:
    """Entity and moment as one whole number, ascending with both."""

    def __init__(self, moments: Ints, groups: int) -> None:
        """moments: those that are to be told apart; all before the first one, and all between two of them, may fall together."""
        self._first = int(moments.min()) if moments.size else 0
        self.span = int(moments.max()) - self._first + 2 if moments.size else 1  # room for "before the first" as 0
        self._steps = None
        if (groups + 1) * self.span >= _ROOM:
            self._steps = np.unique(moments)
            self.span = self._steps.size + 1

    def place(self, groups: Ints, moments: Ints) -> Ints:
        """Return the numbers of entities at moments."""
        if self._steps is not None:
            return groups * self.span + np.searchsorted(self._steps, moments, side="right")
        places: Ints = groups * self.span + (np.clip(moments, self._first - 1, self._first + self.span - 2) - (self._first - 1))
        return places


def moments_of(table: pa.Table, name: str, *, what: str, required: bool = False) -> Ints:
    """Return a time column as microseconds since 1970; NEVER stands for a missing one. Raises Invalid."""
    if name not in table.column_names:
        raise Invalid(f"{what} have no time column {name!r} (they have: {', '.join(table.column_names)})")
    column = table.column(name)
    if not (pa.types.is_timestamp(column.type) and column.type.tz):
        raise Invalid(f"time column {name!r} of {what} is of type {column.type}; expected timestamps with a time zone, such as UTC")
    if required and column.null_count:
        raise Invalid(f"{column.null_count} of {what} have no {name!r}; expected a moment in every row")
    # Casting by hand: Arrow refuses to round nanoseconds away, and an event is not lost over less than a microsecond.
    return _filled(pc.cast(column, _MOMENT, safe=False).cast(pa.int64()), NEVER)


def texts_of(column: "ArrowColumn") -> "Encoded":
    """Return a column as dictionary-encoded text in one piece."""
    return plain_of(column).cast(pa.string()).combine_chunks().dictionary_encode()


def plain_of(column: "ArrowColumn") -> "ArrowColumn":
    """Return a column without its dictionary, if it has one."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def is_text(kind: pa.DataType) -> bool:
    """Return whether columns of a type hold text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _comparable(name: str, column: "ArrowColumn", what: str) -> "ArrowColumn":
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64())
    if is_text(column.type) or pa.types.is_null(column.type):
        return plain_of(column).cast(pa.string())
    raise Invalid(f"join key {name!r} is of type {column.type} in {what}; expected text, or whole numbers, on both sides")


def _filled(column: Any, value: int) -> Ints:
    found: Ints = column.fill_null(value).to_numpy()
    return found
