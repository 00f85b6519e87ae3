"""Feature values as of a moment from the online store, and pushing events into it. Knows no catalog: a plan carries all it needs.

For aggregations the store keeps, per entity, the raw events of the longest window, not running totals: so a read is exact at
its moment, a late or repeated event does no harm, and the arithmetic is the one of `history`, bit for bit. For latest values it
keeps the events that may still be the latest one. Reads are exact at every moment from the `now` of the last push on; one case
excepted: when the latest event of an entity is corrected to another time, its forerunner is gone until a newer event comes.
"""

import hashlib
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tidemill.core.clock import micros, parse_moment
from tidemill.core.codec import pack, unpack
from tidemill.core.errors import Corrupt, Invalid
from tidemill.core.values import Value, field
from tidemill.features.computed import computed_rows
from tidemill.features.views import FeatureView, aggregation_of
from tidemill.features.windows import Floats, Ints, canonical_order, numbers_of_texts, summarise
from tidemill.store.online import KEY_BYTES, OnlineStore

KeyKind = Literal["string", "long"]
Column = Sequence[Any] | NDArray[Any]
Columns = Mapping[str, Column]

_HEADER = struct.Struct("<BBHI")  # form, 1 when events carry key hashes, number of columns, number of events
_FORM = 1
_MICROSECOND = timedelta(microseconds=1)


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

    services: what it was compiled from, such as `delay@2`.
    """

    project: str
    services: tuple[str, ...]
    views: tuple[ViewPlan, ...]
    features: tuple[str, ...]

    @property
    def entity(self) -> tuple[str, ...]:
        """All join keys that a row must bring, each once."""
        return tuple(dict.fromkeys(name for plan in self.views for name in plan.view.entity))

    def read(self, online: OnlineStore, keys: Columns, at: datetime) -> dict[str, NDArray[Any]]:
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
        self._views: list[_WindowReader | _LatestReader] = [
            _WindowReader(view) if view.view.windowed else _LatestReader(view) for view in plan.views
        ]

    def read(self, keys: Columns, at: datetime) -> dict[str, NDArray[Any]]:
        """Return each feature as an array of one value a row, in the plan's order.

        keys: one column per join key, of equal length; None in it means "nobody". Numbers come as float64 (NaN is missing), text
        as object arrays (None is missing). Raises Invalid for a missing or ill-typed join key.
        """
        moment = micros(at)
        found: dict[str, NDArray[Any]] = {}
        entities: dict[tuple[tuple[str, ...], tuple[KeyKind, ...]], tuple[list[bytes], Ints]] = {}
        for view in self._views:
            entity = (view.plan.view.entity, view.plan.key_kinds)
            if entity not in entities:
                entities[entity] = _distinct_keys(view.plan, keys)
            distinct, places = entities[entity]
            blobs = self._online.get_many(view.plan.namespace, distinct) if distinct else []
            # One more entity at the end, without events, stands for "nobody".
            for name, values in view.values([*blobs, None], moment).items():
                found[name] = values[places]
        return {name: found[name] for name in self.plan.features}


class Push:
    """Events of one view, held against its definition and ready to be stored: so several views take a push together or not at all."""

    def __init__(self, plan: ViewPlan, entities: list[bytes], merge: Callable[[int, bytes | None], bytes | None], outcome: Pushed) -> None:
        self.plan, self.outcome = plan, outcome
        self._entities, self._merge = entities, merge

    def store(self, online: OnlineStore) -> Pushed:
        """Store the events in one atomic batch. Storing them again changes nothing where the view has an event key."""
        if self._entities:
            online.update_many(self.plan.namespace, self._entities, lambda blobs: [self._merge(*each) for each in enumerate(blobs)])
        return self.outcome


def push(online: OnlineStore, plan: ViewPlan, rows: Columns, *, now: datetime) -> Pushed:
    """Store events of a view, as `prepare` takes them. Atomic per push. Raises Invalid for a missing or ill-typed column."""
    return prepare(plan, rows, now=now).store(online)


def prepare(plan: ViewPlan, rows: Columns, *, now: datetime) -> Push:
    """Hold events against a view: columns of equal length by name, as in the view's source; columns that it does not need may be there.

    Times are aware datetimes or RFC 3339 text. Rows without a time or a join key are skipped. What no read from `now` on could
    see is let go. With an event key, the last row pushed for it and its entity counts. Raises Invalid for a missing or ill-typed column.
    """
    view = plan.view
    needed = [*view.entity, view.event_timestamp, *view.inputs, *([view.event_key] if view.event_key else [])]
    missing = [name for name in needed if name not in rows]
    if missing:
        raise Invalid(f"rows pushed to feature view {view.name!r} have no column {', '.join(missing)} (they have: {', '.join(rows)})")
    if len({len(rows[name]) for name in needed}) > 1:
        raise Invalid(f"columns pushed to feature view {view.name!r} differ in length; expected one value a row in each")
    if view.computed:
        rows = {**rows, **computed_rows({name: _plain(rows[name]) for name in needed}, view.computed, plan.types)}
    times = [_moment(view, value) for value in _plain(rows[view.event_timestamp])]
    entities = [_entity_key(plan, parts) for parts in zip(*(_plain(rows[name]) for name in view.entity), strict=True)]
    groups: dict[bytes, list[int]] = {}
    for row, (entity, time) in enumerate(zip(entities, times, strict=True)):
        if entity is not None and time is not None:
            groups.setdefault(entity, []).append(row)
    stored = sum(map(len, groups.values()))
    merge = (_window_merge if view.windowed else _latest_merge)(plan, rows, times, micros(now))
    places = list(groups.values())
    outcome = Pushed(stored=stored, skipped=len(times) - stored)
    return Push(plan, list(groups), lambda number, blob: merge(blob, places[number]), outcome)


class _Events(Value, frozen=True, kw_only=True):
    """The stored form of latest values: events by time and key, each (time, event key, values)."""

    e: list[tuple[int, bytes, list[float | str | None]]]


class _LatestReader:
    """Reads a view of latest values."""

    def __init__(self, plan: ViewPlan) -> None:
        self.plan = plan
        columns = plan.view.columns
        features = [plan.view.feature(name) for name in plan.wanted]
        self._wanted = [(feature, columns.index(str(feature.reads))) for feature in features]
        self._ttl = plan.view.ttl // _MICROSECOND if plan.view.ttl is not None else None

    def values(self, blobs: Sequence[bytes | None], moment: int) -> dict[str, NDArray[Any]]:
        rows = [self._row(blob, moment) for blob in blobs]
        found: dict[str, NDArray[Any]] = {}
        for feature, place in self._wanted:
            if feature.kind == "double":
                found[feature.name] = np.array([np.nan if row is None or row[place] is None else row[place] for row in rows], np.float64)
            else:
                found[feature.name] = np.array([None if row is None else row[place] for row in rows], dtype=object)
        return found

    def _row(self, blob: bytes | None, moment: int) -> list[float | str | None] | None:
        if blob is None:
            return None
        for time, _, values in reversed(unpack(blob, _Events).e):
            if time <= moment:
                return values if self._ttl is None or time > moment - self._ttl else None
        return None


class _WindowReader:
    """Reads a view of aggregations."""

    def __init__(self, plan: ViewPlan) -> None:
        self.plan = plan
        self._columns = plan.view.columns
        self._longest = _longest(plan.view)
        wanted = [(name, aggregation_of(plan.view.feature(name))) for name in plan.wanted]
        # Longest first, so that spans of one entity come in ascending order of their starts.
        self._windows = np.array(sorted({each.window // _MICROSECOND for _, each in wanted}, reverse=True), dtype=np.int64)
        self._wanted = [
            (name, (each.function, each.column, each.quantile), int(np.flatnonzero(self._windows == each.window // _MICROSECOND)[0]))
            for name, each in wanted
        ]
        self._summaries = list(dict.fromkeys(summary for _, summary, _ in self._wanted))

    def values(self, blobs: Sequence[bytes | None], moment: int) -> dict[str, NDArray[Any]]:
        parts = [_decode(blob, len(self._columns)) if blob is not None else None for blob in blobs]
        sizes = np.array([part.times.size if part is not None else 0 for part in parts], dtype=np.int64)
        there = [part for part in parts if part is not None]
        times = np.concatenate([part.times for part in there]) if there else np.empty(0, dtype=np.int64)
        values = np.concatenate([part.values for part in there], axis=1) if there else np.empty((len(self._columns), 0))
        starts, ends = self._spans(times, sizes, moment)
        shape = (len(blobs), self._windows.size)
        summaries = {
            (function, column, quantile): summarise(
                function, values[self._columns.index(column)] if column is not None else None, starts, ends,
                quantile=quantile, times=times, moments=np.full(starts.size, moment),
            ).reshape(shape)
            for function, column, quantile in self._summaries
        }  # fmt: skip
        return {name: summaries[summary][:, window] for name, summary, window in self._wanted}

    def _spans(self, times: Ints, sizes: Ints, moment: int) -> tuple[Ints, Ints]:
        """Return where each window of each entity starts and ends among all events laid end to end."""
        # Times relative to the longest window's start, cut to it, so that entity and time fit one ascending integer.
        width = self._longest + 2
        offsets = np.arange(sizes.size, dtype=np.int64) * width
        keys = np.clip(times - (moment - self._longest), 0, self._longest + 1) + np.repeat(offsets, sizes)
        cuts = np.append(self._longest - self._windows, self._longest)
        places = np.searchsorted(keys, offsets[:, None] + cuts, side="right")
        ends = np.broadcast_to(places[:, -1:], places[:, :-1].shape)
        return places[:, :-1].ravel(), ends.ravel()


class _Packed:
    """The stored events of one entity in summing order, one row of words a field: times, hashes of event keys if any, values."""

    __slots__ = ("keyed", "words")

    def __init__(self, words: Ints, *, keyed: bool) -> None:
        self.words, self.keyed = words, keyed

    @property
    def times(self) -> Ints:
        times: Ints = self.words[0]
        return times

    @property
    def values(self) -> Floats:
        return self.words[1 + self.keyed :].view(np.float64)


def _decode(blob: bytes, columns: int) -> _Packed:
    form, keyed, width, count = _HEADER.unpack_from(blob)
    if form != _FORM or width != columns or len(blob) != _HEADER.size + 8 * count * (1 + width + keyed):
        raise Corrupt(f"a stored window of events is not what was stored: form {form}, {width} columns, {len(blob)} bytes")
    return _Packed(np.frombuffer(blob, dtype="<i8", offset=_HEADER.size).reshape(1 + keyed + width, count), keyed=bool(keyed))


def _encode(events: _Packed, columns: int) -> bytes:
    return _HEADER.pack(_FORM, events.keyed, columns, events.times.size) + events.words.tobytes()


def _window_merge(plan: ViewPlan, rows: Columns, times: list[int | None], now: int) -> Callable[[bytes | None, list[int]], bytes | None]:
    view = plan.view
    columns = [_numbers(view, name, rows[name]) for name in view.columns]
    moments = np.array([0 if time is None else time for time in times], dtype=np.int64)
    hashes = _hashes(plan, rows)
    fresh = np.stack([moments, *([] if hashes is None else [hashes]), *(column.view(np.int64) for column in columns)])
    cutoff = now - _longest(view)

    def merge(blob: bytes | None, places: list[int]) -> bytes | None:
        new = _Packed(fresh[:, places], keyed=hashes is not None)
        old = _decode(blob, len(columns)) if blob is not None else _Packed(new.words[:, :0], keyed=new.keyed)
        merged = _merged(old, new, cutoff)
        return _encode(merged, len(columns)) if merged.times.size else None

    return merge


def _merged(old: _Packed, new: _Packed, cutoff: int) -> _Packed:
    """Return old events, which are in order, with new ones among them; what is too old or was replaced is left out."""
    kept, added = old.words[:, np.searchsorted(old.times, cutoff, side="right") :], new.words
    if new.keyed:
        replaced = (kept[1][:, None] == added[1]).any(axis=1)
        if replaced.any():
            kept = kept[:, ~replaced]
        if added.shape[1] > 1:
            added = added[:, sorted({key: place for place, key in enumerate(added[1].tolist())}.values())]
    added = added[:, added[0] > cutoff]
    merged = _Packed(np.concatenate([kept, added], axis=1), keyed=new.keyed)
    if added.shape[1]:
        # Events come about in order: only the last few have to be sorted.
        first = int(np.searchsorted(kept[0], added[0].min()))
        tail = _Packed(merged.words[:, first:], keyed=new.keyed)
        # Equal events in order of their hashes, so that pushing them again writes the same bytes.
        ties = [*tail.values, *([tail.words[1]] if new.keyed else [])]
        merged.words[:, first:] = tail.words[:, canonical_order(tail.times, ties)]
    return merged


def _latest_merge(plan: ViewPlan, rows: Columns, times: list[int | None], now: int) -> Callable[[bytes | None, list[int]], bytes | None]:
    view = plan.view
    columns = [_latest_values(view, name, rows[name]) for name in view.columns]
    keys = _key_bytes(plan, rows)

    def merge(blob: bytes | None, places: list[int]) -> bytes | None:
        events = list(unpack(blob, _Events).e) if blob is not None else []
        for row in places:
            key = keys[row] if keys is not None else b""
            if keys is not None:
                events = [event for event in events if event[1] != key]
            events.append((times[row] or 0, key, [column[row] for column in columns]))
        events.sort(key=lambda event: event[:2])
        # Of those up to now only the last can still be the latest one; those after now will be in their turn.
        past = sum(event[0] <= now for event in events)
        return pack(_Events(e=events[max(0, past - 1) :]))

    return merge


def _distinct_keys(plan: ViewPlan, keys: Columns) -> tuple[list[bytes], Ints]:
    """Return the distinct entities of rows, and for each row the place of its own; the place after the last is nobody's."""
    absent = [name for name in plan.view.entity if name not in keys]
    if absent:
        raise Invalid(f"rows lack join key {', '.join(absent)}, which feature view {plan.view.name!r} needs (they have: {', '.join(keys)})")
    columns = [_plain(keys[name]) for name in plan.view.entity]
    if len({len(column) for column in columns}) > 1:
        raise Invalid(f"join keys of feature view {plan.view.name!r} differ in length; expected one value a row in each")
    known: dict[tuple[Any, ...], int] = {}
    rows = [known.setdefault(parts, len(known)) for parts in zip(*columns, strict=True)]
    found: list[bytes] = []
    places = np.empty(len(known) or 1, dtype=np.int64)
    for number, parts in enumerate(known):
        encoded = _entity_key(plan, parts)
        places[number] = -1 if encoded is None else len(found)
        if encoded is not None:
            found.append(encoded)
    return found, places[np.array(rows, dtype=np.int64)]


def _entity_key(plan: ViewPlan, parts: tuple[Any, ...]) -> bytes | None:
    """Return the stored key of an entity, None when a part of it is missing. Long ones are stored under their hash."""
    if None in parts:
        return None
    key = pack([_typed_key(plan.view, *each) for each in zip(plan.view.entity, plan.key_kinds, parts, strict=True)])
    return key if len(key) <= KEY_BYTES else b"\xff" + hashlib.blake2b(key).digest()


def _typed_key(view: FeatureView, name: str, kind: KeyKind, value: Any) -> str | int:
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "long" and isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    expected = "text" if kind == "string" else "a whole number"
    raise Invalid(f"key {name!r} of feature view {view.name!r} is {value!r}; expected {expected}")


def _key_bytes(plan: ViewPlan, rows: Columns) -> list[bytes] | None:
    """Return event keys as bytes that sort as the keys do."""
    name, kind = plan.view.event_key, plan.event_key_kind
    if name is None or kind is None:
        return None
    keys = [_typed_key(plan.view, name, kind, value) for value in _plain(rows[name])]
    return [key.encode() if isinstance(key, str) else (key + 2**63).to_bytes(8, "big") for key in keys]


def _hashes(plan: ViewPlan, rows: Columns) -> Ints | None:
    keys = _key_bytes(plan, rows)
    if keys is None:
        return None
    return np.frombuffer(b"".join(hashlib.blake2b(key, digest_size=8).digest() for key in keys), dtype="<i8")


def _numbers(view: FeatureView, name: str, column: Column) -> Floats:
    if view.counts_only(name) and any(isinstance(value, str) for value in _plain(column)):
        return numbers_of_texts(_texts(view, name, column))
    try:
        return np.array([np.nan if value is None else float(value) for value in _plain(column)], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Invalid(f"column {name!r} pushed to feature view {view.name!r} holds what is not a number: {error}") from error


def _latest_values(view: FeatureView, name: str, column: Column) -> list[float | str | None]:
    if any(feature.kind == "double" for feature in view.features if feature.reads == name):
        return [None if math.isnan(value) else value for value in _numbers(view, name, column).tolist()]
    return [*_texts(view, name, column)]


def _texts(view: FeatureView, name: str, column: Column) -> list[str | None]:
    values = _plain(column)
    wrong = [value for value in values if value is not None and not isinstance(value, str)]
    if wrong:
        raise Invalid(f"column {name!r} pushed to feature view {view.name!r} holds {wrong[0]!r}; expected text")
    return values


def _moment(view: FeatureView, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):
        return micros(parse_moment(value))
    if isinstance(value, datetime):
        return micros(value)
    raise Invalid(f"{view.event_timestamp!r} of feature view {view.name!r} is {value!r}; expected a moment such as 2013-06-01T12:00:00Z")


def _plain(column: Column) -> list[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else list(column)


def _longest(view: FeatureView) -> int:
    return max(aggregation_of(feature).window for feature in view.features) // _MICROSECOND
