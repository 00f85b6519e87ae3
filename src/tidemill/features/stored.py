"""The stored form of an entity's events, and how new events join those that are there. Knows no store.

An entity's events are rows of 8-byte words in order, after one row that says what follows: it counts as an event before all times, so
that many entities' bytes can be laid end to end and read as one table. Event keys and text of latest values follow, packed.
"""

import struct
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill.core.codec import pack, unpack
from tidemill.core.errors import Corrupt, Invalid
from tidemill.features.views import FeatureView, aggregation_of
from tidemill.features.windows import Floats, Ints, canonical_order

WORD = 8
MICROSECOND = timedelta(microseconds=1)
Tail = tuple[bytes, list[str | None]]

_HEAD = struct.Struct("<IHBB")  # number of events, words in each, whether some event has two versions, form
_FORM = 0x82  # as the highest byte it makes the row's first word a moment before all others
_MANY = 1 << 48


class Events(NamedTuple):
    """Events of several entities. owners: the number of each one's entity; words: a row each; tails: its key and text, where stored."""

    owners: Ints
    words: Ints
    tails: list[Tail] | None

    def take(self, places: Ints | NDArray[np.bool_]) -> "Events":
        """Return some of them, or all in another order."""
        tails = self.tails
        if tails is not None:
            chosen = np.flatnonzero(places) if places.dtype == np.bool_ else places
            tails = [tails[place] for place in chosen.tolist()]
        return Events(self.owners[places], self.words[places], tails)


class Form:
    """How the events of a view are stored: which word of a row is what."""

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self.keyed = view.event_key is not None
        doubles = {feature.reads for feature in view.features if feature.kind == "double"}
        self.numbers = tuple(name for name in view.columns if name in doubles)
        self.texts = tuple(name for name in view.columns if name not in doubles)
        self.tailed = not view.windowed and (self.keyed or bool(self.texts))
        self.longest = longest(view) if view.windowed else None
        words = ["time"]
        if self.keyed:
            words.append("hash")
        if view.created_timestamp is not None:
            words.append("written")
            if self.keyed and view.windowed:
                words.append("hold")  # until when it is kept, relative to the window: others may come that it had replaced
        self.written = words.index("written") if "written" in words else None
        self._hold = words.index("hold") if "hold" in words else 0
        self.first = len(words)
        """Where the values begin."""
        self.width = self.first + len(self.numbers)
        self.stride = self.width * WORD
        self.base = int.from_bytes(_HEAD.pack(0, self.width, 0, _FORM), "little", signed=True)
        self._fill = bytes(self.stride - _HEAD.size)

    def table(self, times: Ints, written: Ints | None, hashes: Ints | None, values: Sequence[Floats]) -> Ints:
        """Return events as rows of words."""
        words = np.empty((times.size, self.width), dtype=np.int64)
        words[:, 0] = times
        if hashes is not None:
            words[:, 1] = hashes
        if self.written is not None and written is not None:
            words[:, self.written] = written
            if self._hold:
                words[:, self._hold] = np.maximum(times, written)
        doubles = words[:, self.first :].view(np.float64)
        for place, column in enumerate(values):
            doubles[:, place] = column
        return words

    def sizes(self, blobs: Sequence[bytes]) -> Ints:
        """Return how many rows the entities have, the one that says so among them; 0 for an empty blob. Raises Corrupt."""
        if self.tailed:
            return np.array([int.from_bytes(blob[:4], "little") + 1 if blob else 0 for blob in blobs], dtype=np.int64)
        lengths = np.array([len(blob) for blob in blobs], dtype=np.int64)
        sizes = lengths // self.stride
        if (sizes * self.stride != lengths).any():
            raise self._damaged(blobs[int(np.flatnonzero(sizes * self.stride != lengths)[0])])
        return sizes

    def rows(self, blobs: Sequence[bytes], sizes: Ints) -> tuple[Ints, Ints, bool]:
        """Return the rows of entities end to end, where each one begins, and whether some event has two versions. Raises Corrupt."""
        bodies = [blob[: size * self.stride] for blob, size in zip(blobs, sizes.tolist(), strict=True)] if self.tailed else blobs
        joined = b"".join(bodies)
        total = int(sizes.sum())
        begins = np.cumsum(sizes) - sizes
        if len(joined) != total * self.stride:
            raise self._damaged(next(body for body, size in zip(bodies, sizes.tolist(), strict=True) if len(body) != size * self.stride))
        words = np.frombuffer(joined, dtype="<i8").reshape(total, self.width)
        there = sizes > 0
        told = words[begins[there], 0] - (self.base + sizes[there] - 1)
        many = bool(told.any())
        if many and (told & ~_MANY).any():
            raise self._damaged(blobs[int(np.flatnonzero(there)[np.flatnonzero(told & ~_MANY)[0]])])
        return words, begins, many

    def counted(self, blobs: Sequence[bytes], moment: int) -> tuple[Ints, Ints]:
        """Return the rows of entities end to end, of events only those that count at a moment, and how many each has. Raises Corrupt."""
        sizes = self.sizes(blobs)
        words, begins, many = self.rows(blobs, sizes)
        if self.written is None or not (many or (words[:, self.written] > moment).any()):
            return words, sizes
        owners = np.repeat(np.arange(sizes.size), sizes)
        events = np.ones(len(words), dtype=np.bool_)
        events[begins[sizes > 0]] = False
        keep = ~events
        keep[events] = self.as_of(words[events], owners[events], moment)
        return words[keep], np.bincount(owners[keep], minlength=sizes.size)

    def alone(self, blob: bytes, moment: int) -> bytes | None:
        """Return an entity's bytes with the one event of a latest value that counts at a moment, None where none does. Raises Corrupt."""
        events = self.decode([blob])
        seen = events.words[:, 0] <= moment
        if self.written is not None:
            seen &= self.as_of(events.words, events.owners, moment)
        there = np.flatnonzero(seen)
        return self.encode(events.take(there[-1:]), 1)[0] if there.size else None

    def tails(self, blob: bytes) -> list[Tail]:
        """Return the keys and text of an entity's events. Raises Corrupt."""
        count = int.from_bytes(blob[:4], "little")
        try:
            return unpack(blob[(count + 1) * self.stride :], list[Tail])
        except Invalid as error:
            raise self._damaged(blob) from error

    def decode(self, blobs: Sequence[bytes | None]) -> Events:
        """Return the events of entities. Raises Corrupt."""
        there = [blob or b"" for blob in blobs]
        sizes = self.sizes(there)
        words, begins, _ = self.rows(there, sizes)
        events = np.ones(len(words), dtype=np.bool_)
        events[begins[sizes > 0]] = False
        tails = [tail for blob in there if blob for tail in self.tails(blob)] if self.tailed else None
        return Events(np.repeat(np.arange(sizes.size), sizes)[events], words[events], tails)

    def encode(self, events: Events, count: int) -> list[bytes | None]:
        """Return the bytes of each of so many entities, None for one without events. The events are in order of their entities."""
        sizes = np.bincount(events.owners, minlength=count).tolist()
        body, many, first = events.words.tobytes(), self._doubled(events), 0
        blobs: list[bytes | None] = []
        for owner, size in enumerate(sizes):
            if not size:
                blobs.append(None)
                continue
            last = first + size
            head = _HEAD.pack(size, self.width, owner in many, _FORM) + self._fill
            tail = pack(events.tails[first:last]) if events.tails is not None else b""
            blobs.append(head + body[first * self.stride : last * self.stride] + tail)
            first = last
        return blobs

    def joined(self, old: Events, new: Events, *, now: int, until: int | None = None) -> Events:
        """Return what is to be stored of old and new events of the same entities, in order: what no read from now on could see is let go.

        until: new events of a later time are not to be stored, though they replace others.
        """
        tails = [*old.tails, *new.tails] if old.tails is not None and new.tails is not None else None
        words = np.concatenate([old.words, new.words])
        events = Events(np.concatenate([old.owners, new.owners]), words, tails)
        keep = self._versions(events, now) if self.keyed else np.ones(len(words), dtype=np.bool_)
        if until is not None:
            keep[len(old.words) :] &= new.words[:, 0] <= until
        if self.longest is not None:
            keep &= words[:, self._hold] > now - self.longest
        if not keep.all():
            events = events.take(keep)
        events = events.take(self._order(events))
        return events if self.view.windowed else self._latest(events, now)

    def as_of(self, words: Ints, owners: Ints, moment: int) -> NDArray[np.bool_]:
        """Return which events had been written by a moment, and not replaced by others."""
        assert self.written is not None, "only asked where it is told"
        written = words[:, self.written]
        seen: NDArray[np.bool_] = written <= moment
        if self.keyed:
            those = np.flatnonzero(seen)
            order = those[np.lexsort((written[those], words[those, 1], owners[those]))]
            seen[order[:-1][_same(owners[order], words[order, 1])]] = False
        return seen

    def _versions(self, events: Events, now: int) -> NDArray[np.bool_]:
        """Return which events no other has replaced by now."""
        owners, words = events.owners, events.words
        keep = np.ones(owners.size, dtype=np.bool_)
        if self.written is None:
            order = np.lexsort((words[:, 1], owners))
            keep[order[:-1][_same(owners[order], words[order, 1])]] = False
            return keep
        written = words[:, self.written]
        order = np.lexsort((written, words[:, 1], owners))
        same = _same(owners[order], words[order, 1])
        if not same.any():
            return keep
        gone = same & ((written[order[1:]] <= now) | (written[order[1:]] == written[order[:-1]]))
        keep[order[:-1][gone]] = False
        if self._hold:
            runs = np.concatenate([[True], ~same])
            holds = np.maximum.reduceat(words[order, self._hold], np.flatnonzero(runs))
            words[order, self._hold] = holds[np.cumsum(runs) - 1]
        return keep

    def _order(self, events: Events) -> Ints:
        words, owners = events.words, events.owners
        if self.view.windowed:
            # Equal events in order of their hashes, so that pushing them again writes the same bytes.
            ties: list[Ints | Floats] = [*words[:, self.first :].view(np.float64).T, *([words[:, 1]] if self.keyed else [])]
            return canonical_order(owners, [words[:, 0], *ties])
        least: list[Ints] = [words[:, self.written]] if self.written is not None else []
        if self.keyed and events.tails is not None:
            ranks = {key: rank for rank, key in enumerate(sorted({key for key, _ in events.tails}))}
            least.append(np.array([ranks[key] for key, _ in events.tails], dtype=np.int64))
        return np.lexsort((*least, words[:, 0], owners))

    def _latest(self, events: Events, now: int) -> Events:
        """Leave out what lies before an event that has happened and that no other is known to replace."""
        owners, words = events.owners, events.words
        settled = words[:, 0] <= now
        if self.written is not None:
            settled &= words[:, self.written] <= now
            if self.keyed:
                order = np.lexsort((words[:, self.written], words[:, 1], owners))
                settled[order[:-1][_same(owners[order], words[order, 1])]] = False
        if not owners.size:
            return events
        begins = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
        last = np.maximum.reduceat(np.where(settled, np.arange(owners.size), 0), begins)
        keep = np.arange(owners.size) >= np.repeat(last, np.diff(np.append(begins, owners.size)))
        return events if keep.all() else events.take(keep)

    def _doubled(self, events: Events) -> set[int]:
        """Return the entities of which an event has two versions."""
        if not self.keyed or self.written is None:
            return set()
        order = np.lexsort((events.words[:, 1], events.owners))
        return set(events.owners[order[1:][_same(events.owners[order], events.words[order, 1])]].tolist())

    def _damaged(self, blob: bytes) -> Corrupt:
        name = self.view.name
        return Corrupt(
            f"{len(blob)} bytes of feature view {name!r} are not what was stored, or another version of Tidemill stored them; "
            f"fill it anew with: tidemill features materialize {name} --full"
        )


def longest(view: FeatureView) -> int:
    """Return the longest window of a view of aggregations, in microseconds."""
    return max(aggregation_of(feature).window for feature in view.features) // MICROSECOND


def window_of(view: FeatureView, feature: str) -> int:
    """Return the window of one feature of a view of aggregations, in microseconds."""
    return aggregation_of(view.feature(feature)).window // MICROSECOND


def _same(owners: Ints, hashes: Ints) -> NDArray[np.bool_]:
    """Return whether each event but the last is of the same entity and key as the next one."""
    same: NDArray[np.bool_] = (owners[1:] == owners[:-1]) & (hashes[1:] == hashes[:-1])
    return same
