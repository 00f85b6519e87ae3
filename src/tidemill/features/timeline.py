"""Events of one view in order of entity and time, and the point-in-time look-up in them. Arrow tables in, Arrow columns out."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.features.computed import with_computed
from tidemill.features.keys import NEVER, NOBODY, AskingRows, Line, moments_of, texts_of
from tidemill.features.missing import filled
from tidemill.features.on_demand import OnDemand
from tidemill.features.values import numbers_of, values_of
from tidemill.features.views import Aggregation, Feature, FeatureView, aggregation_of
from tidemill.features.windows import Floats, Ints, spread, summarise

if TYPE_CHECKING:
    ArrowArray = pa.Array[Any]
    ArrowColumn = pa.ChunkedArray[Any]
    Encoded = pa.DictionaryArray[Any, Any]

_EVER = 2**63 - 1


def join(
    entities: pa.Table,
    views: Sequence[FeatureView],
    events: Mapping[str, pa.Table],
    *,
    timestamp: str,
    wanted: Collection[str] | None = None,
) -> pa.Table:
    """Return entities with the columns of the wanted features of views added, of all unless told.

    Pure: events holds each view's source by name; timestamp names the column with the moment of each row. Raises Invalid.
    """
    asking = {entity: AskingRows(entities, entity, timestamp) for entity in dict.fromkeys(view.entity for view in views)}
    joined = entities
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # sorting and searching leave the interpreter to others
        answers = threads.map(lambda view: look_up(view, events[view.source], asking[view.entity], wanted=wanted), views)
        for view, found in zip(views, answers, strict=True):
            for name, column in found.items():
                if name in joined.column_names:
                    raise Invalid(f"feature {name!r} of view {view.name!r} would stand beside a column of that name; rename one of them")
                joined = joined.append_column(name, column)
    return joined


def look_up(
    view: FeatureView, events: pa.Table, rows: AskingRows, *, wanted: Collection[str] | None = None
) -> "dict[str, ArrowArray]":  # fmt: skip
    """Return the view's features (or those wanted) for each row, in the order in which the rows came, by feature name.

    events: the view's source. rows: those that ask, by the view's join keys. Raises Invalid for what does not fit the view.
    """
    missing = [name for name in view.needs if name not in events.column_names]
    if missing:
        raise Invalid(f"source {view.source!r} of feature view {view.name!r} has no column {', '.join(missing)}")
    if view.computed:
        events = with_computed(events.select(view.needs), view.computed)
    timeline = _Windows(view, events, rows) if view.windowed else _Latest(view, events, rows)
    asked = [feature for feature in view.features if wanted is None or feature.name in wanted]
    found = timeline.features(asked) if asked else {}
    for feature in asked:
        if feature.default is not None:
            found[feature.name] = _filled(found[feature.name], feature.default)
    return found


def complete(rows: pa.Table, asked: OnDemand) -> pa.Table:
    """Return rows with the features that are computed from their other columns. Raises Invalid for columns that do not fit."""
    if not asked.expressions:
        return rows
    if missing := [name for name in asked.types if name not in rows.column_names]:
        raise Invalid(f"the rows have no column {', '.join(missing)}, of which {', '.join(asked.expressions)} are computed")
    if beside := [name for name in asked.expressions if name in rows.column_names]:
        raise Invalid(f"feature {beside[0]!r} would stand beside a column of that name; rename one of them")
    told = {
        name: texts_of(rows.column(name)).dictionary_decode() if kind == "VARCHAR" else pa.array(numbers_of(rows.column(name), name))
        for name, kind in asked.types.items()
    }
    made = with_computed(pa.table({"": pa.nulls(rows.num_rows), **told}), asked.expressions)
    for name, kind in asked.kinds.items():
        rows = rows.append_column(name, made.column(name) if kind == "string" else pa.array(numbers_of(made.column(name), name)))
    return rows


class _Timeline:
    """The events that some row asks about, by entity and time once they are sorted.

    source: their places among the events. since: when each has both happened and been written; until: when another one took its place;
    both None where nothing tells.
    """

    def __init__(self, view: FeatureView, events: pa.Table, rows: AskingRows) -> None:
        self.view, self.events, self.asking = view, events, rows
        times = moments_of(events, view.event_timestamp, what=f"the events of {view.source}")
        groups = rows.number(events, view.source)
        self.source: Ints = np.flatnonzero((groups != NOBODY) & (times != NEVER))
        self.times, self.groups = times[self.source], groups[self.source]
        self.since: Ints | None = None
        self.until: Ints | None = None
        self.keys: Encoded | None = None
        self.written: Ints | None = None
        if view.created_timestamp is not None:
            told = moments_of(events, view.created_timestamp, what=f"the events of {view.source}")[self.source]
            self.written = np.where(told == NEVER, self.times, told)
            self.since = np.maximum(self.written, self.times)
        if view.event_key is not None and self.source.size:
            self._look_for_corrections(view.event_key)

    def _sort(self, ties: Callable[[Ints], Sequence[NDArray[Any]]]) -> None:
        """Put the events in order. ties: what orders events that share entity and time, for their places; the least important first."""
        self.line = Line(self.times, self.asking.count)
        places = self.line.place(self.groups, self.times)
        order = _in_order(places, ties)
        self._take(order)
        self.places = places[order]
        self.first: Ints = np.searchsorted(self.places, np.arange(self.asking.count + 1) * self.line.span)
        """Where the events of each entity begin; at the end, for nobody, where all events end."""

    def _take(self, places: Ints) -> None:
        self.source, self.times, self.groups = self.source[places], self.times[places], self.groups[places]
        self.written = self.written[places] if self.written is not None else None
        self.since = self.since[places] if self.since is not None else None
        self.until = self.until[places] if self.until is not None else None

    def _look_for_corrections(self, name: str) -> None:
        """Leave out events that others replace or, where one knows when each was written, note from when on they are replaced."""
        keys = _event_keys(self.events.column(name))
        if keys.null_count:
            raise Invalid(f"{keys.null_count} events of {self.view.source} have no {name!r}; an event key is needed in every row")
        self.keys = keys
        if len(keys.dictionary) == self.events.num_rows:
            return
        codes = self.groups * len(keys.dictionary) + keys.indices.to_numpy().astype(np.int64)[self.source]
        if self.written is None:
            _, from_the_end = np.unique(codes[::-1], return_index=True)
            self._take(np.sort(self.source.size - 1 - from_the_end))
            return
        order = np.lexsort((self.written, codes))
        replaced = np.flatnonzero(codes[order[1:]] == codes[order[:-1]])
        if replaced.size:
            self.until = np.full(self.source.size, _EVER)
            self.until[order[replaced]] = self.written[order[replaced + 1]]

    def _known(self) -> Ints:
        """Return for each row how many events, of lesser entities too, had happened and been written by its moment."""
        assert self.since is not None, "only asked where it is told"
        line = Line(self.since, self.asking.count)
        places = np.sort(line.place(self.groups, self.since))
        return np.searchsorted(places, line.place(self.asking.groups, self.asking.moments), side="right")

    def _before(self, moments: Ints) -> Ints:
        """Return for each row how many events, of lesser entities too, lie before or at a moment of its own; 0 for rows of nobody."""
        return np.searchsorted(self.places, self.line.place(self.asking.groups, moments), side="right")

    def _seen(self, events: Ints, moments: Ints) -> NDArray[np.bool_]:
        """Return whether events that have happened count at moments."""
        seen = np.ones(events.size, dtype=np.bool_) if self.since is None else self.since[events] <= moments
        return seen if self.until is None else seen & (moments < self.until[events])


class _Latest(_Timeline):
    """Latest values."""

    def __init__(self, view: FeatureView, events: pa.Table, rows: AskingRows) -> None:
        super().__init__(view, events, rows)
        self._sort(self._ties)

    def features(self, wanted: Sequence[Feature]) -> "dict[str, ArrowArray]":
        """Return the wanted features, a value a row."""
        found = self._last()
        rows = self.asking.back(np.where(found >= 0, self.source[found] if self.source.size else 0, NOBODY))
        there = rows != NOBODY
        return {feature.name: self._taken(feature, np.maximum(rows, 0), there) for feature in wanted}

    def _ties(self, tied: Ints) -> Sequence[NDArray[Any]]:
        ties: list[NDArray[Any]] = [self.written[tied]] if self.written is not None else []
        if self.keys is not None:
            ranks = np.argsort(pc.sort_indices(self.keys.dictionary).to_numpy())
            ties.append(ranks[self.keys.indices.to_numpy()[self.source[tied]]])
        return ties

    def _last(self) -> Ints:
        """Return for each row the place of the event that counts, -1 where there is none."""
        first = self.first[self.asking.groups]
        moments = self.asking.moments
        found = self._newest() if self.since is not None else self._before(moments) - 1
        found[found < first] = NOBODY
        if self.until is not None:
            # The newest one may have been replaced, by an event of another time: then the one before it counts.
            pending = np.flatnonzero((found >= 0) & ~self._seen(found, moments))
            while pending.size:
                found[pending] -= 1
                found[pending[found[pending] < first[pending]]] = NOBODY
                pending = pending[(found[pending] >= 0) & ~self._seen(found[pending], moments[pending])]
        if self.view.ttl is not None and self.times.size:
            found[self.times[found] <= _back(moments, self.view.ttl)] = NOBODY
        return found

    def _newest(self) -> Ints:
        """Return for each row the place of the last event that had been written by its moment."""
        assert self.since is not None, "only asked where it is told"
        line = Line(self.since, self.asking.count)
        places = line.place(self.groups, self.since)
        order = np.argsort(places)
        known = np.searchsorted(places[order], line.place(self.asking.groups, self.asking.moments), side="right")
        # Events lie by entity on both lines, so that the greatest place up to here is one of this entity.
        newest = np.maximum.accumulate(order) if order.size else np.array([NOBODY])
        return np.where(known > self.first[self.asking.groups], newest[np.maximum(known, 1) - 1], NOBODY)

    def _taken(self, feature: Feature, rows: Ints, there: NDArray[np.bool_]) -> "ArrowArray":
        if not self.events.num_rows:
            return pa.array(np.full(rows.size, np.nan)) if feature.kind == "double" else pa.nulls(rows.size, pa.string())
        name = str(feature.reads)
        if feature.kind == "double":
            values = numbers_of(self.events.column(name), name)[rows]
            values[~there] = np.nan
            return pa.array(values)
        places: Any = pa.array(rows, mask=~there)
        return texts_of(self.events.column(name)).take(places).dictionary_decode()


class _Windows(_Timeline):
    """Aggregations over windows."""

    def __init__(self, view: FeatureView, events: pa.Table, rows: AskingRows) -> None:
        super().__init__(view, events, rows)
        columns = {name: values_of(events.column(name), name, view) for name in view.columns}
        # By their values, so that a sum does not depend on the order in which events arrived.
        self._sort(lambda tied: [values[self.source[tied]] for values in reversed(columns.values())])
        self.columns: dict[str, Floats] = {name: values[self.source] for name, values in columns.items()}

    def features(self, wanted: Sequence[Feature]) -> "dict[str, ArrowArray]":
        """Return the wanted features, a value a row."""
        ends = self._before(self.asking.moments)
        windows = dict.fromkeys(aggregation_of(feature).window for feature in wanted)
        starts = {window: self._before(_back(self.asking.moments, window)) for window in windows}
        exact = self._by_event(starts[max(starts)], ends)
        found: dict[str, Floats] = {}
        for window in windows:
            these = {each.name: aggregation_of(each) for each in wanted if aggregation_of(each).window == window}
            for name, aggregation in these.items():
                found[name] = self._summary(aggregation, self._values(aggregation), self.times, starts[window], ends, self.asking.moments)
            if exact.size:
                self._correct(found, these, exact, starts[window][exact], ends[exact])
        return {feature.name: pa.array(self.asking.back(found[feature.name])) for feature in wanted}

    def _values(self, aggregation: Aggregation) -> Floats | None:
        return self.columns[aggregation.column] if aggregation.column is not None else None

    def _by_event(self, starts: Ints, ends: Ints) -> Ints:
        """Return the rows for which some event of the span may not count: it was written later, or replaced."""
        if self.since is None:
            return np.empty(0, dtype=np.int64)
        unsettled = ends > self._known()
        if self.until is not None:
            replaced = np.concatenate([[0], np.cumsum(self.until != _EVER)])
            unsettled |= replaced[ends] > replaced[starts]
        return np.flatnonzero(unsettled)

    def _correct(self, found: dict[str, Floats], wanted: dict[str, Aggregation], rows: Ints, starts: Ints, ends: Ints) -> None:
        """Summarise the spans of some rows anew, over the events that count."""
        for these, events, until in spread(starts, ends):
            moments = self.asking.moments[rows[these]]
            seen = self._seen(events, np.repeat(moments, np.diff(until, prepend=0)))
            counted = np.concatenate([[0], np.cumsum(seen)])
            last = counted[until]
            kept = events[seen]
            for name, aggregation in wanted.items():
                values = self._values(aggregation)
                values = values[kept] if values is not None else None
                found[name][rows[these]] = self._summary(
                    aggregation, values, self.times[kept], np.concatenate([[0], last[:-1]]), last, moments
                )

    @staticmethod
    def _summary(aggregation: Aggregation, values: Floats | None, times: Ints, starts: Ints, ends: Ints, moments: Ints) -> Floats:
        return summarise(aggregation.function, values, starts, ends, quantile=aggregation.quantile, times=times, moments=moments)


def _in_order(places: Ints, ties: Callable[[Ints], Sequence[NDArray[Any]]]) -> Ints:
    """Return the order of places, those that are equal in order of ties, else as they came; only those go through the longer sort."""
    order = np.argsort(places)  # half the time of a stable one
    in_order = places[order]
    tied = np.flatnonzero(in_order[1:] == in_order[:-1])
    if not tied.size:
        return order
    among = np.unique(np.concatenate([tied, tied + 1]))
    rows = order[among]
    order[among] = rows[np.lexsort((rows, *ties(rows), places[rows]))]
    return order


def _event_keys(column: "ArrowColumn") -> "Encoded":
    return column.combine_chunks().dictionary_encode() if pa.types.is_integer(column.type) else texts_of(column)


def _filled(column: Any, default: float | str) -> "ArrowArray":
    told: ArrowArray = column.fill_null(default) if isinstance(default, str) else pa.array(filled(column.to_numpy(), default))
    return told


def _back(moments: Ints, window: timedelta) -> Ints:
    return moments - window // timedelta(microseconds=1)
