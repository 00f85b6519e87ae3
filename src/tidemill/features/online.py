"""Feature values as of a moment from the online store, and pushing events into it. Knows no catalog: a plan carries all it needs.

For aggregations the store keeps, per entity, the raw events of the longest window, not running totals: so a read is exact at
its moment, a late or repeated event does no harm, and the arithmetic is the one of `history`, bit for bit. For latest values it
keeps the events that may still be the latest one. Where a view names a created timestamp, it keeps when each event was written, too.
Reads are exact at every moment from the `now` of the last push on; two cases excepted: when the latest event of an entity is corrected
to another time, its forerunner is gone until a newer event comes; and when a version of an event that lies ahead of when it was written
comes after a newer one that has long left all windows, it counts.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import numpy as np

from tidemill.core.clock import micros
from tidemill.core.errors import Invalid
from tidemill.core.values import Value, field
from tidemill.features.columnar import Found, LatestReader, WindowReader
from tidemill.features.incoming import Columns, Incoming, KeyKind, entity_keys, from_columns, plain
from tidemill.features.missing import filled, refuse_missing
from tidemill.features.on_demand import OnDemand
from tidemill.features.rowwise import RowKeys, RowReader
from tidemill.features.stored import Events, Form
from tidemill.features.views import FeatureView
from tidemill.features.windows import Ints
from tidemill.store.online import OnlineStore

FEW_ROWS, FEW_ROWS_OF_LATEST = 3, 12  # measured: with more, NumPy is done sooner

JsonKind = Literal["long", "bool"]


class ViewPlan(Value, frozen=True, kw_only=True):
    """One version of a view as the data plane needs it: the definition, where its values lie, the types of its join keys.

    wanted: the features to read, in order; a push stores what all features need. types: SQL types of what computed columns read.
    told: features whose columns are whole numbers or booleans, for callers whom JSON is to tell that.
    """

    project: str = "default"
    view: FeatureView
    version: int
    namespace: str
    key_kinds: tuple[KeyKind, ...]
    event_key_kind: KeyKind | None = None
    types: dict[str, str] = field(default_factory=dict)
    told: dict[str, JsonKind] = field(default_factory=dict)
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
        entities = list(dict.fromkeys((view.view.entity, view.key_kinds) for view in plan.views))
        self._views = [(view, entities.index((view.view.entity, view.key_kinds))) for view in plan.views]
        wanted = [(view.view, view.wanted) for view in plan.views]
        self._latest = [(place, LatestReader(*each)) for place, each in enumerate(wanted) if not each[0].windowed]
        windowed = [place for place, (view, _) in enumerate(wanted) if view.windowed]
        self._windowed = windowed, WindowReader([wanted[place] for place in windowed])
        self._firsts = [next(view for view in plan.views if (view.view.entity, view.key_kinds) == each) for each in entities]
        self._few = FEW_ROWS if windowed else FEW_ROWS_OF_LATEST
        self._rows = RowReader(wanted)
        self._join_keys = plan.entity
        self._row_keys = [
            (RowKeys(view.view, view.key_kinds).key, [plan.entity.index(name) for name in view.view.entity]) for view in self._firsts
        ]
        self._namespaces = [(view.namespace, which) for view, which in self._views]
        self._defaults = {
            name: default for view in plan.views for name in view.wanted if (default := view.view.feature(name).default) is not None
        }

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
        found = self._read_few(keys, moment)
        return found if found is not None else self._read_many(keys, moment)

    def _read_few(self, keys: Columns, moment: int) -> Found | None:
        """Return the looked-up features of a few rows, None for more rows, or where columns are missing or differ in length."""
        try:
            rows = list(zip(*[plain(keys[name]) for name in self._join_keys], strict=True))
        except (KeyError, ValueError):
            return None
        if not 0 < len(rows) <= self._few:
            return None
        entities = [[key([row[place] for place in places]) for row in rows] for key, places in self._row_keys]
        somebody = [[key for key in mine if key is not None] for mine in entities]
        told = self._online.get_all([(namespace, somebody[which]) for namespace, which in self._namespaces])
        if somebody != entities:
            for place, (_, which) in enumerate(self._namespaces):
                blobs = iter(told[place])
                told[place] = [None if key is None else next(blobs) for key in entities[which]]
        return self._rows.values(zip(*told, strict=True), moment)

    def _read_many(self, keys: Columns, moment: int) -> Found:
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
