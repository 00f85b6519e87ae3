"""Fill the online store with what a view's source holds, so that a look-up finds what history would.

What has been filled is remembered in the store itself, so that it is never believed of a store that has lost its values.
"""

import zlib
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidemill.catalog.events import EventBody
from tidemill.core.clock import micros, utc
from tidemill.core.codec import pack, unpack
from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.datasets.versions import paths, read_version
from tidemill.features.definitions import read_view, view_plan
from tidemill.features.history import MEMORY_MB
from tidemill.features.online import ViewPlan, merging
from tidemill.features.partitions import Streamed, stream_files
from tidemill.features.sourced import from_table
from tidemill.features.stored import MICROSECOND, Events, Form
from tidemill.features.views import FeatureView
from tidemill.govern.workspace import Workspace
from tidemill.store.online import OnlineStore
from tidemill.store.trees import read_tree

CHUNK_ENTITIES = 5_000
_FILLED = "features.materialized"
_EVENT_BYTES = 250  # what an event takes meanwhile, beside its words: measured, then rounded up


class Materialized(Value, frozen=True, kw_only=True):
    """Outcome of materialising a view: what was read and how many events went online."""

    view: str
    source: str
    until: datetime
    stored: int
    skipped: int


class ViewMaterialized(EventBody, frozen=True, kw_only=True, tag="view.materialized"):
    """A view's values went online."""

    view: str
    source: str
    until: datetime
    stored: int


class _Filled(Value, frozen=True, kw_only=True):
    """What of a view version's source is online: the digests of its files in their order, as far as until."""

    files: tuple[str, ...]
    until: datetime


def materialize(
    ws: Workspace, view: str, until: datetime | None = None, *, source: str | None = None, full: bool = False, memory_mb: int = MEMORY_MB,
    watch: Callable[[int, int], None] | None = None, reason: str = "",
) -> Materialized:  # fmt: skip
    """Put a view's events up to `until` (now unless told) online, from the newest version of its source or from `NAME@V`.

    Reads from `until` on then equal history's. Files of the source that are online already are not read again. A view with an event key
    adds to what is there, so that pushes meanwhile are not lost and doing it again changes nothing; one of aggregations without, and any
    view with `full`, starts from nothing: pushed events that the source does not have are gone. An entity's events are replaced at once,
    so that a reader finds the old ones or the new ones; what was killed half-way is done again.

    memory_mb: about how much it may take. watch: is told how many events of how many are done. Raises DefinitionNotFound, Invalid.
    """
    ws.require("features.write", view)
    if memory_mb < 1:
        raise Invalid(f"memory_mb is {memory_mb}; expected at least 1")
    found, end = read_view(ws, view), utc(until) if until is not None else ws.clock.now()
    definition, plan = found.definition, view_plan(ws.project, found)
    version = read_version(ws, source or definition.source)
    files, digests = paths(ws, version), tuple(str(entry.digest) for entry in read_tree(ws.objects, version.digest).entries)
    anew = full or (definition.windowed and definition.event_key is None)
    done = 0 if anew else _count_done(definition, _filled(ws.online, plan), digests, files)
    filling = _Filling(ws.online, plan, end, anew=anew)
    if files[done:]:
        filling.fill(stream_files(files[done:]), memory_mb << 20, watch)
    _remember(ws.online, plan, _Filled(files=digests, until=end))
    with ws.catalog.transaction() as tx:
        body = ViewMaterialized(view=f"{found.name}@{found.version}", source=version.node, until=end, stored=filling.stored)
        ws.record(tx, body, subject=f"view:{found.name}", reason=reason)
    return Materialized(
        view=f"{found.name}@{found.version}", source=version.node, until=end, stored=filling.stored, skipped=filling.skipped
    )  # fmt: skip


class _Filling:
    """One run: what goes online, and how much it was."""

    def __init__(self, online: OnlineStore, plan: ViewPlan, end: datetime, *, anew: bool) -> None:
        self.stored = self.skipped = 0
        self._online, self._plan, self._end, self._anew = online, plan, micros(end), anew
        self._form = Form(plan.view)
        reach = plan.view.ttl // MICROSECOND if plan.view.ttl is not None else self._form.longest
        self._start = self._end - reach if reach is not None else None

    def fill(self, source: Streamed, memory_bytes: int, watch: Callable[[int, int], None] | None) -> None:
        """Store the events of files, of as many entities at once as fit into memory."""
        parts = max(1, -(-source.rows * (2 * self._form.stride + _EVENT_BYTES) // memory_bytes))
        for part in range(parts):
            keys, events = self._gathered(source, part, parts)
            for first in range(0, len(keys), CHUNK_ENTITIES):
                last = min(first + CHUNK_ENTITIES, len(keys))
                a, b = np.searchsorted(events.owners, [first, last]).tolist()
                tails = events.tails[a:b] if events.tails is not None else None
                mine = Events(events.owners[a:b] - first, events.words[a:b], tails)
                change = merging(self._form, mine, now=self._end, until=self._ahead, anew=self._anew)
                self._online.update_many(self._plan.namespace, keys[first:last], change)
                if watch is not None:
                    watch((part * len(keys) + last) * source.rows // (parts * len(keys)), source.rows)
            if self._anew:
                self._let_go(set(keys), part, parts)

    @property
    def _ahead(self) -> int | None:
        """The time behind which events are not stored yet: without a created time nothing tells that they are known already."""
        return self._end if self._form.written is None else None

    def _gathered(self, source: Streamed, part: int, parts: int) -> tuple[list[bytes], Events]:
        """Return the keys of the entities of one part in ascending order, as a store on disk likes it, and their events in that order."""
        view, plan = self._plan.view, self._plan
        known: dict[bytes, int] = {}
        found = []
        names = [name for name in view.needs if name in source.schema.names]
        tables = [source.table(names)] if parts == 1 else (pa.Table.from_batches([batch]) for batch in source.batches(names))
        for table in tables:
            incoming = from_table(self._form, plan.key_kinds, plan.event_key_kind, table)
            self.skipped += incoming.skipped if part == 0 else 0
            numbers = np.array(
                [known.setdefault(key, len(known)) if _part(key, parts) == part else -1 for key in incoming.entities],
                dtype=np.int64,
            )
            events = incoming.events._replace(owners=numbers[incoming.events.owners] if numbers.size else incoming.events.owners)
            keep = self._wanted(events)
            found.append(events if keep.all() else events.take(keep))
        tails = [tail for each in found for tail in each.tails or ()] if self._form.tailed else None
        events = Events(np.concatenate([each.owners for each in found]), np.concatenate([each.words for each in found]), tails)
        self.stored += int(self._counted(events).sum())
        keys = sorted(known)
        ranks = np.empty(len(keys), dtype=np.int64)
        ranks[[known[key] for key in keys]] = np.arange(len(keys))
        events = events._replace(owners=ranks[events.owners])
        return keys, events.take(np.argsort(events.owners, kind="stable"))

    def _wanted(self, events: Events) -> NDArray[np.bool_]:
        """Return which events matter: of this part's entities, known by the end and, where none replaces others, in reach."""
        mine: NDArray[np.bool_] = events.owners >= 0
        if self._form.written is not None:
            mine &= events.words[:, self._form.written] <= self._end
        return mine if self._form.keyed else mine & self._counted(events)

    def _counted(self, events: Events) -> NDArray[np.bool_]:
        """Return which events a read at the end or later may see."""
        times = events.words[:, 0]
        seen = np.ones(times.size, dtype=np.bool_) if self._ahead is None else times <= self._ahead
        return seen if self._start is None else seen & (times > self._start)

    def _let_go(self, kept: set[bytes], part: int, parts: int) -> None:
        """Delete entities of one part that the source does not have: part by part, so that no more keys than those of one are in memory."""
        namespace = self._plan.namespace
        gone = (key for key, _ in self._online.scan(namespace) if key not in kept and _part(key, parts) == part)
        while keys := list(dict.fromkeys(islice(gone, CHUNK_ENTITIES))):
            self._online.update_many(namespace, keys, lambda blobs: [None] * len(blobs))


def _part(key: bytes, parts: int) -> int:
    return zlib.crc32(key) % parts


def _filled(online: OnlineStore, plan: ViewPlan) -> _Filled | None:
    (told,) = online.get_many(_FILLED, [plan.namespace.encode()])
    return unpack(told, _Filled) if told is not None else None


def _remember(online: OnlineStore, plan: ViewPlan, filled: _Filled) -> None:
    online.put_many(_FILLED, [(plan.namespace.encode(), pack(filled))])


def _count_done(view: FeatureView, filled: _Filled | None, digests: Sequence[str], files: Sequence[Path]) -> int:
    """Return how many of the first files need not be read: they were, and all that is in them had happened and been written then."""
    done = 0
    if filled is not None:
        times = [name for name in (view.event_timestamp, view.created_timestamp) if name is not None]
        for before, digest, path in zip(filled.files, digests, files, strict=False):
            last = _last(path, times)
            if before != digest or last is None or last > filled.until:
                break
            done += 1
    return done


def _last(path: Path, names: Sequence[str]) -> datetime | None:
    """Return the latest moment in some columns of a Parquet file, None where the file does not say."""
    metadata = pq.read_metadata(path)
    places = {metadata.schema.column(place).path: place for place in range(metadata.num_columns)}
    latest: list[Any] = []
    for group in range(metadata.num_row_groups):
        for name in names:
            told = metadata.row_group(group).column(places[name]).statistics if name in places else None
            if told is not None and told.null_count == metadata.row_group(group).num_rows:
                continue  # never happened, or written when it did
            if told is None or not told.has_min_max or not isinstance(told.max, datetime) or told.max.tzinfo is None:
                return None
            latest.append(utc(told.max))
    return max(latest, default=None)
