"""The year as its callers lived it: quarter of an hour by quarter of an hour, who departs, who has landed, what the weather was."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.clock import from_micros
from tidemill.core.values import Value

QUARTER = timedelta(minutes=15)
_QUARTER_US = QUARTER // timedelta(microseconds=1)
Row = dict[str, Any]


class Slot(Value, frozen=True, kw_only=True):
    """What happens at one quarter of an hour: events known since the last one, and the departures of the next."""

    at: datetime
    landed: tuple[Row, ...]
    weather: tuple[Row, ...]
    departures: tuple[Row, ...]


class Year:
    """The flights and the weather between two moments, in slots that hold anything at all."""

    def __init__(self, flights: pa.Table, weather: pa.Table, *, start: datetime, end: datetime) -> None:
        self.start, self.end = start, end
        departing = _between(flights, "sched_dep", start, end)
        self._departures = _by_slot(departing, "sched_dep", known=False)
        self._landed = _by_slot(_between(flights, "landed_at", start, end), "landed_at", known=True)
        self._weather = _by_slot(_between(weather, "known_at", start, end), "known_at", known=True)
        self.departures = departing.num_rows

    def slots(self) -> Iterator[Slot]:
        """Yield slots in order of time."""
        for slot in sorted({*self._departures, *self._landed, *self._weather}):
            at = from_micros(slot * _QUARTER_US)
            if at >= self.end:  # known before the end, told after it
                return
            yield Slot(
                at=at,
                landed=tuple(self._landed.pop(slot, ())),
                weather=tuple(self._weather.pop(slot, ())),
                departures=tuple(self._departures.pop(slot, ())),
            )


def known_between(flights: pa.Table, start: datetime | None, end: datetime) -> pa.Table:
    """Return the flights whose outcome became known in (start, end]: landed then, or never landed and scheduled then."""
    known = pc.coalesce(flights["landed_at"], flights["sched_dep"])
    chosen = pc.less_equal(known, pa.scalar(end, known.type))
    if start is not None:
        chosen = pc.and_(chosen, pc.greater(known, pa.scalar(start, known.type)))
    return flights.filter(chosen)


def _between(table: pa.Table, column: str, start: datetime, end: datetime) -> pa.Table:
    moments = table[column]
    low, high = pa.scalar(start, moments.type), pa.scalar(end, moments.type)
    return table.filter(pc.and_(pc.greater_equal(moments, low), pc.less(moments, high)))


def _by_slot(table: pa.Table, column: str, *, known: bool) -> dict[int, list[Row]]:
    moments = table[column].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    # Something known at a moment is told at the next quarter; departures are scored at the quarter that they fall into.
    slots = -(-moments // _QUARTER_US) if known else moments // _QUARTER_US
    rows = table.to_pylist()
    grouped: dict[int, list[Row]] = defaultdict(list)
    for place in np.argsort(slots, kind="stable").tolist():
        grouped[int(slots[place])].append(rows[place])
    return dict(grouped)
