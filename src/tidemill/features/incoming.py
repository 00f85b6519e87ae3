"""Columns that a caller sent, as keys of entities and rows of words; what does not fit a view is refused. Needs no tables."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill.core.clock import micros, parse_moment
from tidemill.core.codec import pack
from tidemill.core.errors import Invalid
from tidemill.features.computed import computed_rows
from tidemill.features.stored import Events, Form, Tail
from tidemill.features.views import FeatureView
from tidemill.features.windows import Floats, Ints, numbers_of_texts
from tidemill.store.online import KEY_BYTES

KeyKind = Literal["string", "long"]
Column = Sequence[Any] | NDArray[Any]
Columns = Mapping[str, Column]

NEVER = -(2**63)
_TYPES: dict[KeyKind, type] = {"string": str, "long": int}


class Incoming(NamedTuple):
    """Events by their entities' keys, and how many rows were left out because they had no key or time."""

    entities: list[bytes]
    events: Events
    skipped: int


def from_columns(
    form: Form, kinds: Sequence[KeyKind], event_key: KeyKind | None, rows: Columns, *, types: Mapping[str, str]
) -> Incoming:  # fmt: skip
    """Hold columns of plain values, as a caller sent them, against a view. Raises Invalid for a missing or ill-typed one.

    types: SQL types of what computed columns read.
    """
    view = form.view
    missing = [name for name in view.needs if name not in rows]
    if missing:
        raise Invalid(f"rows pushed to feature view {view.name!r} have no column {', '.join(missing)} (they have: {', '.join(rows)})")
    if len({len(rows[name]) for name in view.needs}) > 1:
        raise Invalid(f"columns pushed to feature view {view.name!r} differ in length; expected one value a row in each")
    if view.computed:
        rows = {**rows, **computed_rows({name: plain(rows[name]) for name in view.needs}, view.computed, types)}
    times = _moments(view, view.event_timestamp, rows)
    written = _moments(view, view.created_timestamp, rows) if view.created_timestamp is not None else None
    keys = event_keys_of(view, event_key, rows)
    numbers = [_numbers(view, name, rows[name]) for name in form.numbers]
    texts = [_texts(view, name, rows[name]) for name in form.texts]
    known: dict[bytes, int] = {}
    encoded = entity_keys(view, kinds, list(zip(*(plain(rows[name]) for name in view.entity), strict=True)))
    happened = (times != NEVER).tolist()
    owners = np.array(
        [known.setdefault(key, len(known)) if key is not None and there else -1 for key, there in zip(encoded, happened, strict=True)],
        dtype=np.int64,
    )
    hashes = hashes_of(keys) if keys is not None else None
    tails = tails_of(keys, texts, times.size) if form.tailed else None
    return gathered(form, list(known), owners, times, written, hashes, numbers, tails)


def entity_keys(view: FeatureView, kinds: Sequence[KeyKind], entities: Collection[Sequence[Any]]) -> list[bytes | None]:
    """Return the stored key of each entity, None when a part of it is missing. Long ones are stored under their hash. Raises Invalid."""
    for place, kind in enumerate(kinds):
        parts = [parts[place] for parts in entities]
        if set(map(type, parts)) - {_TYPES[kind]} or (kind == "long" and parts and not -(2**63) <= min(parts) <= max(parts) < 2**63):
            return [_entity_key(view, kinds, parts) for parts in entities]
    keys = [pack(parts) for parts in entities]
    if keys and max(map(len, keys)) > KEY_BYTES:
        return [_entity_key(view, kinds, parts) for parts in entities]
    return [*keys]


def plain(column: Column) -> list[Any]:
    """Return a column as a list of plain values."""
    return column.tolist() if isinstance(column, np.ndarray) else list(column)


def gathered(
    form: Form, entities: list[bytes], owners: Ints, times: Ints, written: Ints | None, hashes: Ints | None, numbers: Sequence[Floats],
    tails: list[Tail] | None,
) -> Incoming:  # fmt: skip
    """Return events as they are to be stored; those of no entity, with the number -1, are left out."""
    if written is not None:
        written = np.where(written == NEVER, times, written)
    events = Events(owners, form.table(times, written, hashes, numbers), tails)
    there = owners >= 0
    if not there.all():
        events = events.take(there)
    return Incoming(entities, events, owners.size - events.owners.size)


def _entity_key(view: FeatureView, kinds: Sequence[KeyKind], parts: Sequence[Any]) -> bytes | None:
    if None in parts:
        return None
    key = pack([_typed_key(view, *each) for each in zip(view.entity, kinds, parts, strict=True)])
    return key if len(key) <= KEY_BYTES else b"\xff" + hashlib.blake2b(key).digest()


def _typed_key(view: FeatureView, name: str, kind: KeyKind, value: Any) -> str | int:
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "long" and isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    expected = "text" if kind == "string" else "a whole number"
    raise Invalid(f"key {name!r} of feature view {view.name!r} is {value!r}; expected {expected}")


def event_keys_of(view: FeatureView, kind: KeyKind | None, rows: Columns) -> list[bytes] | None:
    """Return event keys as bytes that sort as the keys do."""
    name = view.event_key
    if name is None or kind is None:
        return None
    keys = [_typed_key(view, name, kind, value) for value in plain(rows[name])]
    return [key.encode() if isinstance(key, str) else (key + 2**63).to_bytes(8, "big") for key in keys]


def hashes_of(keys: Sequence[bytes]) -> Ints:
    """Return a whole number for each event key, by which it is known."""
    return np.frombuffer(b"".join([hashlib.blake2b(key, digest_size=8).digest() for key in keys]), dtype="<i8")


def tails_of(keys: Sequence[bytes] | None, texts: Sequence[Sequence[str | None]], count: int) -> list[Tail]:
    """Return what is stored beside the words of so many events: their keys, and text by column."""
    told = [list(each) for each in zip(*texts, strict=True)] if texts else [[] for _ in range(count)]
    return list(zip(keys if keys is not None else [b""] * count, told, strict=True))


def _numbers(view: FeatureView, name: str, column: Column) -> Floats:
    if view.counts_only(name) and any(isinstance(value, str) for value in plain(column)):
        return numbers_of_texts(_texts(view, name, column))
    try:
        return np.array([np.nan if value is None else float(value) for value in plain(column)], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Invalid(f"column {name!r} pushed to feature view {view.name!r} holds what is not a number: {error}") from error


def _texts(view: FeatureView, name: str, column: Column) -> list[str | None]:
    values = plain(column)
    wrong = [value for value in values if value is not None and not isinstance(value, str)]
    if wrong:
        raise Invalid(f"column {name!r} pushed to feature view {view.name!r} holds {wrong[0]!r}; expected text")
    return values


def _moments(view: FeatureView, name: str, rows: Columns) -> Ints:
    return np.array([_moment(view, name, value) for value in plain(rows[name])], dtype=np.int64)


def _moment(view: FeatureView, name: str, value: Any) -> int:
    if value is None:
        return NEVER
    if isinstance(value, str):
        return micros(parse_moment(value))
    if isinstance(value, datetime):
        return micros(value)
    raise Invalid(f"{name!r} of feature view {view.name!r} is {value!r}; expected a moment such as 2013-06-01T12:00:00Z")
