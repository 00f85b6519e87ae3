"""Feature values as of a moment from the online store, and pushing events into it. Knows no catalog: a plan carries all it needs.

For aggregations the store keeps, per entity, the raw events of the longest window, not running totals: so a read is exact at
its moment, a late or repeated event does no harm, and the arithmetic is the one of `history`, bit for bit. For latest values it
keeps the events that may still be the latest one. Where a view names a created timestamp, it keeps when each event was written, too.
Reads are exact at every moment from the `now` of the last push on; two cases excepted: when the latest event of an entity is corrected
to another time, its forerunner is gone until a newer event comes; and when a version of an event that lies ahead of when it was written
comes after a newer one that has long left all windows, it counts.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill.core.clock import micros
from tidemill.core.errors import Invalid
from tidemill.core.values import Value, field
from tidemill.features.incoming import Columns, Incoming, KeyKind, entity_keys, from_columns, plain
from tidemill.features.missing import filled, refuse_missing
from tidemill.features.on_demand import OnDemand
from tidemill.features.stored import MICROSECOND, Events, Form, longest
from tidemill.features.views import AggregateFunction, FeatureView, aggregation_of
from tidemill.features.windows import Floats, Ints, summarise
from tidemill.store.online import OnlineStore

Found = dict[str, NDArray[Any]]


class ViewPlan(Value, frozen=True, kw_only=True):
    """One version of a view as the data plane needs it: the definition, where its values lie, the types of its join keys.

    wanted: the features to read, in order; a push stores what all features need. types: SQL types of what computed columns read.
    """

    project: str = "default"
    view: FeatureView
    version: int
    namespace: str
    key_kinds: tuple[KeyKind, ...]
    event_key_kind: KeyKind | None = None
    types: dict[str, str] = field(default_factory=dict)
    wanted: tuple[str, ...]

    @property
    def reference(self) -> str:
        """The view and its version, such as `landed@2`."""
        return f"{self.view.name}@{self.version}"


class ReadPlan(Value, frozen=True, kw_only=True):
    """Feature services, compiled: what to look up for a row, and in which order the features come out.

    services: what it was compiled from, such as `delay@2`. on_demand: what each computes of what was looked up and of the request.
    required: features without which nothing is answered.
    """

    project: str
    services: tuple[str, ...]
    views: tuple[ViewPlan, ...]
    features: tuple[str, ...]
    on_demand: tuple[OnDemand, ...] = ()
    required: tuple[str, ...] = ()

    @property
    def entity(self) -> tuple[str, ...]:
        """All join keys that a row must bring, each once."""
        return tuple(dict.fromkeys(name for plan in self.views for name in plan.view.entity))

    def read(self, online: OnlineStore, keys: Columns, at: datetime) -> Found:
        """Return the features of rows as of a moment. To read again and again make one `FeatureReader`."""
        return FeatureReader(self, online).read(keys, at)


class Pushed(Value, frozen=True, kw_only=True):
    """Outcome of a push: events stored (also those that replaced an equal key), and rows without a time or a join key."""

    stored: int
    skipped: int


class FeatureReader:
    """Reads one plan's features from one store. Built once, then fast; safe from several threads."""

    def __init__(self, plan: ReadPlan, online: OnlineStore) -> None:
        self.plan = plan
        self._online = online
        self._entities = list(dict.fromkeys((view.view.entity, view.key_kinds) for view in plan.views))
        self._views = [(view, self._entities.index((view.view.entity, view.key_kinds))) for view in plan.views]
        self._latest = [(place, _LatestReader(view)) for place, view in enumerate(plan.views) if not view.view.windowed]
        windowed = [place for place, view in enumerate(plan.views) if view.view.windowed]
        self._windowed = windowed, _WindowReader([plan.views[place] for place in windowed])
        self._defaults = {
            name: default for view in plan.views for name in view.wanted if (default := view.view.feature(name).default) is not None
        }
        self._firsts = [next(view for view in plan.views if (view.view.entity, view.key_kinds) == each) for each in self._entities]

    def read(self, keys: Columns, at: datetime) -> Found:
        """Return each feature as an array of one value a row, in the plan's order, with defaults for those that are missing.

        keys: one column per join key and per column that features are computed from, of equal length; None in a join key means
        "nobody". Numbers come as float64 (NaN is missing), text as object arrays (None is missing). Raises Invalid for a missing or
        ill-typed column, FeaturesMissing for a required feature without a value.
        """
        found = self.stored(keys, at)
        if self.plan.required:
            refuse_missing(found, [name for name in self.plan.required if name in found])
        found = self.completed(keys, found)
        if self.plan.on_demand and self.plan.required:
            refuse_missing(found, self.plan.required)
        return found

    def completed(self, keys: Columns, found: Found) -> Found:
        """Return what `stored` found with defaults for what is missing, and with what is computed from it. Raises Invalid."""
        if self._defaults:
            found = found | {name: filled(found[name], default) for name, default in self._defaults.items()}
        for each in self.plan.on_demand:
            found = found | each.values({**keys, **found})
        return {name: found[name] for name in self.plan.features}

    def stored(self, keys: Columns, at: datetime) -> Found:
        """Return the features that are looked up, as they are stored: what is missing is missing. Raises Invalid."""
        moment = micros(at)
        blobs, places = self._fetch(keys)
        found: Found = {}
        for number, latest in self._latest:
            found |= latest.values(blobs[number], places[number], moment)
        windowed, reader = self._windowed
        if windowed:
            found |= reader.values([blobs[number] for number in windowed], [places[number] for number in windowed], moment)
        return found

    def newest(self, keys: Columns, at: datetime) -> dict[str, list[int | None]]:
        """Return by view when the newest event that counts for each row happened, in microseconds since 1970; None where none is stored.

        keys: as for `read`. Of aggregations events are stored as long as their longest window.
        """
        moment = micros(at)
        blobs, places = self._fetch(keys)
        found = {}
        for plan, mine, which in zip(self.plan.views, blobs, places, strict=True):
            form = Form(plan.view)
            events = form.decode(mine)
            seen = events.words[:, 0] <= moment
            if form.written is not None:
                seen &= form.as_of(events.words, events.owners, moment)
            times: list[int | None] = [None] * (len(mine) + 1)  # the last one is nobody's
            for owner, time in zip(events.owners[seen].tolist(), events.words[seen, 0].tolist(), strict=True):
                times[owner] = time
            found[plan.reference] = times[:-1] if which is None else [times[place] for place in which.tolist()]
        return found

    def _fetch(self, keys: Columns) -> tuple[list[list[bytes | None]], list[Ints | None]]:
        """Return the stored bytes of the distinct entities, by view, and for each view which of them is each row's."""
        entities = [_distinct_keys(view, keys) for view in self._firsts]
        blobs = self._online.get_all([(view.namespace, entities[which][0]) for view, which in self._views])
        return blobs, [entities[which][1] for _, which in self._views]


class Push:
    """Events of one view, held against its definition and ready to be stored: so several views take a push together or not at all."""

    def __init__(self, plan: ViewPlan, form: Form, incoming: Incoming, now: int) -> None:
        self.plan = plan
        self.outcome = Pushed(stored=incoming.events.owners.size, skipped=incoming.skipped)
        self._form, self._incoming, self._now = form, incoming, now

    def store(self, online: OnlineStore) -> Pushed:
        """Store the events in one atomic batch. Storing them again changes nothing where the view has an event key."""
        entities, events, _ = self._incoming
        if entities:
            online.update_many(self.plan.namespace, entities, merging(self._form, events, now=self._now))
        return self.outcome


def push(online: OnlineStore, plan: ViewPlan, rows: Columns, *, now: datetime) -> Pushed:
    """Store events of a view, as `prepare` takes them. Atomic per push. Raises Invalid for a missing or ill-typed column."""
    return prepare(plan, rows, now=now).store(online)


def prepare(plan: ViewPlan, rows: Columns, *, now: datetime) -> Push:
    """Hold events against a view: columns of equal length by name, as in the view's source; columns that it does not need may be there.

    Times are aware datetimes or RFC 3339 text. Rows without a time or a join key are skipped. What no read from `now` on could
    see is let go. With an event key the version written last counts for it and its entity, among those written at once, or where nothing
    tells when, the last row pushed. Raises Invalid for a missing or ill-typed column.
    """
    form = Form(plan.view)
    return Push(plan, form, from_columns(form, plan.key_kinds, plan.event_key_kind, rows, types=plan.types), micros(now))


def merging(
    form: Form, events: Events, *, now: int, until: int | None = None, anew: bool = False
) -> Callable[[list[bytes | None]], list[bytes | None]]:  # fmt: skip
    """Return what makes entities' stored events those with new ones among them. anew: the new ones alone. now, until: see `Form.joined`."""

    def change(blobs: list[bytes | None]) -> list[bytes | None]:
        old = form.decode([None] * len(blobs) if anew else blobs)
        return form.encode(form.joined(old, events, now=now, until=until), len(blobs))

    return change


class _LatestReader:
    """Reads a view of latest values."""

    def __init__(self, plan: ViewPlan) -> None:
        self._form = Form(plan.view)
        numbers, texts = self._form.numbers, self._form.texts
        features = [(feature.name, str(feature.reads), feature.kind) for feature in map(plan.view.feature, plan.wanted)]
        self._numbers = [(name, numbers.index(column)) for name, column, kind in features if kind == "double"]
        self._texts = [(name, texts.index(column)) for name, column, kind in features if kind == "string"]
        self._ttl = plan.view.ttl // MICROSECOND if plan.view.ttl is not None else None
        self._size = 2 * self._form.stride
        self._one = self._form.base + 1
        never = np.zeros((2, self._form.width), dtype="<i8")
        never[:, 0] = self._one, 2**63 - 1
        self._nothing = never.tobytes()

    def values(self, blobs: Sequence[bytes | None], places: Ints | None, moment: int) -> Found:
        """Return the features of rows; places: which of the blobs is each row's, -1 for nobody's, None when they are as many."""
        form = self._form
        if places is not None:
            blobs = [*blobs, None]
        whole = [self._nothing if blob is None else blob for blob in blobs]
        rows = self._events(whole)
        if rows is None:
            whole = [self._single(blob, moment) for blob in whole]
            rows = self._events(whole)
            assert rows is not None, "each has one event now"
        unseen = rows[:, 0] > moment
        if form.written is not None:
            unseen |= rows[:, form.written] > moment
        if self._ttl is not None:
            unseen |= rows[:, 0] <= moment - self._ttl
        doubles: Floats = rows[:, form.first :].view(np.float64)
        if unseen.any():
            doubles = np.where(unseen[:, None], np.nan, doubles)
        columns = (doubles if places is None else doubles[places]).T.copy()
        found: Found = {name: columns[place] for name, place in self._numbers}
        if self._texts:
            told = [None if gone else form.tails(blob)[0][1] for blob, gone in zip(whole, unseen.tolist(), strict=True)]
            for name, place in self._texts:
                texts = np.array([None if row is None else row[place] for row in told], dtype=object)
                found[name] = texts if places is None else texts[places]
        return found

    def _events(self, blobs: Sequence[bytes]) -> Ints | None:
        """Return one row of words for each entity, None when some has not one event."""
        bodies = b"".join([blob[: self._size] for blob in blobs] if self._form.tailed else blobs)
        if len(bodies) != len(blobs) * self._size:
            return None
        rows = np.frombuffer(bodies, dtype="<i8").reshape(len(blobs), 2, self._form.width)
        return rows[:, 1] if (rows[:, 0, 0] == self._one).all() else None

    def _single(self, blob: bytes, moment: int) -> bytes:
        """Return an entity's bytes with that event alone which counts at a moment. Raises Corrupt."""
        if blob is self._nothing:
            return blob
        form = self._form
        events = form.decode([blob])
        seen = events.words[:, 0] <= moment
        if form.written is not None:
            seen &= form.as_of(events.words, events.owners, moment)
        there = np.flatnonzero(seen)
        return form.encode(events.take(there[-1:]), 1)[0] or self._nothing if there.size else self._nothing


class _Function(NamedTuple):
    """What is asked of columns. of_events: of the events themselves, not of a column."""

    name: AggregateFunction
    quantile: float | None
    of_events: bool


class _WindowReader:
    """Reads views of aggregations, all at once: the events of all of them lie end to end."""

    def __init__(self, plans: Sequence[ViewPlan]) -> None:
        self._forms = [Form(plan.view) for plan in plans]
        self._longest = max((longest(plan.view) for plan in plans), default=0)
        # Longest first, so that spans of one entity come in ascending order of their starts; where all of them end comes last.
        windows = [sorted({_window(plan, name) for name in plan.wanted}, reverse=True) for plan in plans]
        self._cuts = [np.array([self._longest - window for window in each] + [self._longest], dtype=np.int64) for each in windows]
        self._asked: dict[_Function, list[tuple[int, str]]] = {}
        self._wanted: list[tuple[str, _Function, int, int, int]] = []
        for number, plan in enumerate(plans):
            for name in plan.wanted:
                aggregation = aggregation_of(plan.view.feature(name))
                asked = _Function(aggregation.function, aggregation.quantile, aggregation.column is None)
                columns = self._asked.setdefault(asked, [])
                column = (number, aggregation.column or "")
                if column not in columns:
                    columns.append(column)
                self._wanted.append((name, asked, columns.index(column), number, windows[number].index(_window(plan, name))))

    def values(self, blobs: Sequence[Sequence[bytes | None]], places: Sequence[Ints | None], moment: int) -> Found:
        """Return the features of rows; blobs and places: of each view, as a view of latest values has them."""
        tables, sizes = [], []
        for form, mine, which in zip(self._forms, blobs, places, strict=True):
            table, size = _rows(form, [blob or b"" for blob in mine] + [b""] * (which is not None), moment)
            tables.append(table)
            sizes.append(size)
        starts, ends = self._spans(tables, sizes, moment)
        edges = list(accumulate((len(table) for table in tables), initial=0))
        answers = {
            function: self._summaries(function, columns, tables, starts, ends, edges, moment) for function, columns in self._asked.items()
        }
        found: Found = {}
        for name, asked, place, number, window in self._wanted:
            column = answers[asked][place][:, window]
            which = places[number]
            found[name] = column if which is None else column[which]
        return found

    def _summaries(
        self, function: "_Function", columns: Sequence[tuple[int, str]], tables: Sequence[Ints],
        starts: Sequence[Ints], ends: Sequence[Ints], edges: Sequence[int], moment: int,
    ) -> list[Floats]:  # fmt: skip
        """Return one function of some columns, each by entity and window: summarised in one go."""
        name, quantile, of_events = function
        if name == "count" and of_events:
            return [(ends[number] - starts[number]).astype(np.float64) for number, _ in columns]
        lengths = [len(tables[number]) for number, _ in columns]
        shifts = list(accumulate(lengths, initial=0))
        moved = [shift - edges[number] for (number, _), shift in zip(columns, shifts, strict=False)]
        begins = np.concatenate([(starts[number] + by).ravel() for (number, _), by in zip(columns, moved, strict=True)])
        finish = np.concatenate([(ends[number] + by).ravel() for (number, _), by in zip(columns, moved, strict=True)])
        values = times = moments = None
        if not of_events:
            values = np.concatenate([self._column(tables[number], number, column) for number, column in columns])
        if name == "time_since":
            times = np.concatenate([tables[number][:, 0] for number, _ in columns])
            moments = np.full(begins.size, moment)
        told = summarise(name, values, begins, finish, quantile=quantile, times=times, moments=moments)
        bounds = accumulate((starts[number].size for number, _ in columns), initial=0)
        return [told[a:b].reshape(starts[number].shape) for (number, _), (a, b) in zip(columns, pairwise(bounds), strict=True)]

    def _column(self, table: Ints, number: int, name: str) -> Floats:
        form = self._forms[number]
        column: Floats = table[:, form.first + form.numbers.index(name)].view(np.float64)
        return column

    def _spans(self, tables: Sequence[Ints], sizes: Sequence[Ints], moment: int) -> tuple[list[Ints], list[Ints]]:
        """Return where each window of each entity starts and ends among all events laid end to end, by view: (entities, windows)."""
        # Times relative to the longest window's start, cut to it, so that entity and time fit one ascending integer.
        width = self._longest + 2
        times = np.concatenate([table[:, 0] for table in tables])
        counts = np.concatenate(sizes)
        offsets = np.arange(counts.size, dtype=np.int64) * width
        keys = np.clip(times - (moment - self._longest), 0, self._longest + 1) + np.repeat(offsets, counts)
        firsts = list(accumulate((size.size for size in sizes), initial=0))
        asked = [(offsets[a:b, None] + cuts).ravel() for (a, b), cuts in zip(pairwise(firsts), self._cuts, strict=True)]
        places = np.searchsorted(keys, np.concatenate(asked), side="right")
        starts, ends = [], []
        for (a, b), size, cuts in zip(pairwise(accumulate(map(len, asked), initial=0)), sizes, self._cuts, strict=True):
            mine = places[a:b].reshape(size.size, cuts.size)
            starts.append(mine[:, :-1])
            ends.append(np.broadcast_to(mine[:, -1:], starts[-1].shape))
        return starts, ends


def _rows(form: Form, blobs: Sequence[bytes], moment: int) -> tuple[Ints, Ints]:
    """Return the rows of entities end to end, only those that count at a moment, and how many each has. Raises Corrupt."""
    sizes = form.sizes(blobs)
    words, begins, many = form.rows(blobs, sizes)
    if form.written is None or not (many or (words[:, form.written] > moment).any()):
        return words, sizes
    owners = np.repeat(np.arange(sizes.size), sizes)
    events = np.ones(len(words), dtype=np.bool_)
    events[begins[sizes > 0]] = False
    keep = ~events
    keep[events] = form.as_of(words[events], owners[events], moment)
    return words[keep], np.bincount(owners[keep], minlength=sizes.size)


def _window(plan: ViewPlan, feature: str) -> int:
    return aggregation_of(plan.view.feature(feature)).window // MICROSECOND


def _distinct_keys(plan: ViewPlan, keys: Columns) -> tuple[list[bytes], Ints | None]:
    """Return the distinct entities of rows, and for each row the place of its own, -1 for nobody's; None when each row has its own."""
    view = plan.view
    absent = [name for name in view.entity if name not in keys]
    if absent:
        raise Invalid(f"rows lack join key {', '.join(absent)}, which feature view {view.name!r} needs (they have: {', '.join(keys)})")
    columns = [plain(keys[name]) for name in view.entity]
    if len(columns) > 1 and len({len(column) for column in columns}) > 1:
        raise Invalid(f"join keys of feature view {view.name!r} differ in length; expected one value a row in each")
    rows = list(zip(*columns, strict=True))
    known = dict.fromkeys(rows)
    encoded = entity_keys(view, plan.key_kinds, known)
    if len(known) == len(rows) and None not in encoded:
        return [key for key in encoded if key is not None], None
    found: list[bytes] = []
    number: dict[tuple[Any, ...], int] = {}
    for parts, key in zip(known, encoded, strict=True):
        number[parts] = -1 if key is None else len(found)
        if key is not None:
            found.append(key)
    return found, np.array([number[parts] for parts in rows], dtype=np.int64)
