"""Events of one view in order of entity and time, and the point-in-time look-up in them. Arrow tables in, Arrow columns out."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.features.views import Feature, FeatureView, aggregation_of
from tidemill.features.windows import Floats, Ints, canonical_order, summarise

if TYPE_CHECKING:
    ArrowArray = pa.Array[Any]
    ArrowColumn = pa.ChunkedArray[Any]
    Encoded = pa.DictionaryArray[Any, Any]

_NOBODY = -1
_MOMENT = pa.timestamp("us", tz="UTC")


def look_up(view: FeatureView, events: pa.Table, entities: pa.Table, *, timestamp: str) -> "dict[str, ArrowArray]":
    """Return the view's features for each row of entities as of its timestamp, by feature name.

    events: the view's source. entities: has the join keys and timestamp, an aware moment in each row. The rows' order is kept.
    """
    moments = moments_of(entities, timestamp, what="the entity rows", required=True)
    timeline = _Timeline(view, events, entities)
    return timeline.aggregations(moments) if view.windowed else timeline.latest(moments)


def moments_of(table: pa.Table, name: str, *, what: str, required: bool = False) -> Ints:
    """Return a time column as microseconds since 1970; the least integer stands for a missing one. Raises Invalid."""
    if name not in table.column_names:
        raise Invalid(f"{what} have no time column {name!r} (they have: {', '.join(table.column_names)})")
    column = table.column(name)
    if not (pa.types.is_timestamp(column.type) and column.type.tz):
        raise Invalid(f"time column {name!r} of {what} is of type {column.type}; expected timestamps with a time zone, such as UTC")
    if required and column.null_count:
        raise Invalid(f"{column.null_count} of {what} have no {name!r}; expected a moment in every row")
    # Casting by hand: Arrow refuses to round nanoseconds away, and an event is not lost over less than a microsecond.
    micros = pc.cast(column, _MOMENT, safe=False).cast(pa.int64())
    filled: Ints = _filled(micros, NEVER)
    return filled


NEVER = -(2**63)


class _Timeline:
    """Events sorted by entity and time under one integer key, so that one binary search finds both."""

    def __init__(self, view: FeatureView, events: pa.Table, entities: pa.Table) -> None:
        self.view = view
        missing = [name for name in (*view.entity, view.event_timestamp, *view.columns) if name not in events.column_names]
        if missing:
            raise Invalid(f"source {view.source!r} of feature view {view.name!r} has no column {', '.join(missing)}")
        times = moments_of(events, view.event_timestamp, what=f"the events of {view.source}")
        groups, self.groups = _key_codes(view, events, entities)
        kept = np.flatnonzero((groups != _NOBODY) & (times != NEVER))
        kept = kept[_last_of_each_key(view, events, groups, kept)]
        times, groups = times[kept], groups[kept]
        self.first = int(times.min()) if times.size else 0
        self.span = int(times.max()) - self.first + 2 if times.size else 1  # room for "before the first" as 0
        if int(self.groups.max(initial=0)) + 1 >= 2**62 // self.span:
            raise Invalid(
                f"feature view {view.name!r} has too many entities over too long a time to join in one piece; join parts of the rows"
            )
        self.columns: dict[str, Floats] = {}
        if view.windowed:
            self.columns = {name: numbers_of(events.column(name), name)[kept] for name in view.columns}
            order = self._order_of_sums(groups, times)
            self.columns = {name: values[order] for name, values in self.columns.items()}
        else:
            order = _order_of_latest(view, events, kept, groups * self.span + (times - self.first))
        self.rows = kept[order]
        self.events = events
        self.keys = groups[order] * self.span + (times[order] - self.first + 1)

    def _order_of_sums(self, groups: Ints, times: Ints) -> Ints:
        keys = groups * self.span + (times - self.first)
        order = np.argsort(keys, kind="stable")
        sorted_keys = keys[order]
        tied = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
        if tied.size and self.columns:
            # Only events that share entity and time need the longer sort.
            in_tie = np.unique(np.concatenate([tied, tied + 1]))
            rows = order[in_tie]
            order[in_tie] = rows[canonical_order(keys[rows], [values[rows] for values in self.columns.values()])]
        return order

    def latest(self, moments: Ints) -> "dict[str, ArrowArray]":
        """Return each feature's value in the last event that is not after the moment nor older than the TTL."""
        ends = self._position(moments)
        starts = (
            self._position(_back(moments, self.view.ttl)) if self.view.ttl is not None else self._position(np.full_like(moments, NEVER))
        )
        found = ends > starts
        if not self.rows.size:
            return {feature.name: _nothing(feature, moments.size) for feature in self.view.features}
        rows = self.rows[np.where(found, ends - 1, 0)]
        return {feature.name: self._taken(feature, rows, found) for feature in self.view.features}

    def _taken(self, feature: Feature, rows: Ints, found: NDArray[np.bool_]) -> "ArrowArray":
        name = str(feature.reads)
        if feature.kind == "double":
            return pa.array(np.where(found, numbers_of(self.events.column(name), name)[rows], np.nan))
        places: Any = pa.array(rows, mask=~found)
        return texts_of(self.events.column(name)).take(places).dictionary_decode()

    def aggregations(self, moments: Ints) -> "dict[str, ArrowArray]":
        """Return each feature's summary of the events of its window."""
        ends = self._position(moments)
        starts: dict[timedelta, Ints] = {}
        found: dict[str, ArrowArray] = {}
        for feature in self.view.features:
            aggregation = aggregation_of(feature)
            if aggregation.window not in starts:
                starts[aggregation.window] = self._position(_back(moments, aggregation.window))
            values = self.columns[aggregation.column] if aggregation.column is not None else None
            found[feature.name] = pa.array(summarise(aggregation.function, values, starts[aggregation.window], ends))
        return found

    def _position(self, moments: Ints) -> Ints:
        """Return how many sorted events lie before or at each row's entity and moment; 0 for rows of nobody."""
        offsets = np.clip(moments, self.first - 1, self.first + self.span - 2) - self.first + 1
        places: Ints = np.searchsorted(self.keys, self.groups * self.span + offsets, side="right")
        return np.where(self.groups == _NOBODY, 0, places)


def numbers_of(column: "ArrowColumn", name: str) -> Floats:
    """Return a column of numbers or booleans as doubles; NaN is missing. Raises Invalid."""
    try:
        values = column.cast(pa.int8()).cast(pa.float64()) if pa.types.is_boolean(column.type) else column.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Invalid(f"column {name!r} is of type {column.type}; expected numbers or booleans") from error
    doubles: Floats = _filled(values, float("nan"))
    return doubles


def texts_of(column: "ArrowColumn") -> "Encoded":
    """Return a column as dictionary-encoded text in one piece."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string()).combine_chunks().dictionary_encode()


def _key_codes(view: FeatureView, events: pa.Table, entities: pa.Table) -> tuple[Ints, Ints]:
    """Return one small integer per distinct join key for events and entity rows; -1 where a part of the key is missing."""
    codes = np.zeros(events.num_rows + entities.num_rows, dtype=np.int64)
    nobody = np.zeros(codes.size, dtype=np.bool_)
    for name in view.entity:
        if name not in entities.column_names:
            raise Invalid(f"the entity rows have no join key {name!r}, which feature view {view.name!r} needs")
        encoded = _encode_together(name, events.column(name), entities.column(name))
        part = _filled(encoded.indices, _NOBODY).astype(np.int64)
        nobody |= part == _NOBODY
        codes = codes * max(1, len(encoded.dictionary)) + part
    if len(view.entity) > 1:
        codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    codes[nobody] = _NOBODY
    return codes[: events.num_rows], codes[events.num_rows :]


def _encode_together(name: str, events: "ArrowColumn", entities: "ArrowColumn") -> "Encoded":
    if pa.types.is_integer(events.type) and pa.types.is_integer(entities.type):
        chunks = [*events.cast(pa.int64()).chunks, *entities.cast(pa.int64()).chunks]
        return pa.chunked_array(chunks, pa.int64()).combine_chunks().dictionary_encode()
    for column, what in ((events, "the source"), (entities, "the entity rows")):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)):
            raise Invalid(f"join key {name!r} is of type {column.type} in {what}; expected text, or whole numbers, on both sides")
    plain = [column.cast(pa.string()) for column in (events, entities)]
    return texts_of(pa.chunked_array([chunk for column in plain for chunk in column.chunks], pa.string()))


def _last_of_each_key(view: FeatureView, events: pa.Table, groups: Ints, kept: Ints) -> Ints:
    """Return the places in kept of the rows that count: for each entity and event key the last one of the source."""
    everything = np.arange(kept.size)
    if view.event_key is None or kept.size == 0:
        return everything
    if view.event_key not in events.column_names:
        raise Invalid(f"source {view.source!r} of feature view {view.name!r} has no column {view.event_key}")
    keys = _event_keys(events.column(view.event_key))
    if keys.null_count:
        raise Invalid(f"{keys.null_count} events of {view.source} have no {view.event_key!r}; an event key is needed in every row")
    if len(keys.dictionary) == events.num_rows:
        return everything
    codes = groups[kept] * len(keys.dictionary) + keys.indices.to_numpy().astype(np.int64)[kept]
    _, from_the_end = np.unique(codes[::-1], return_index=True)
    return np.sort(kept.size - 1 - from_the_end)


def _event_keys(column: "ArrowColumn") -> "Encoded":
    if pa.types.is_integer(column.type):
        return column.combine_chunks().dictionary_encode()
    return texts_of(column)


def _order_of_latest(view: FeatureView, events: pa.Table, kept: Ints, keys: Ints) -> Ints:
    """Return the order by entity and time; in ties by event key, else as in the source."""
    order = np.argsort(keys, kind="stable")
    if view.event_key is None:
        return order
    sorted_keys = keys[order]
    tied = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
    if not tied.size:
        return order
    in_tie = np.unique(np.concatenate([tied, tied + 1]))
    rows = order[in_tie]
    names = _event_keys(events.column(view.event_key))
    ranks = np.argsort(pc.sort_indices(names.dictionary).to_numpy())
    order[in_tie] = rows[np.lexsort((ranks[names.indices.to_numpy()[kept[rows]]], keys[rows]))]
    return order


def _filled(column: Any, value: float) -> NDArray[Any]:
    found: NDArray[Any] = column.fill_null(value).to_numpy()
    return found


def _back(moments: Ints, window: timedelta) -> Ints:
    return moments - window // timedelta(microseconds=1)


def _nothing(feature: Feature, size: int) -> "ArrowArray":
    return pa.array(np.full(size, np.nan)) if feature.kind == "double" else pa.nulls(size, pa.string())
