"""What ends: days of predictions whose time is up go for good, here and in the object store, and their labels and failures with them.

    journal/labels/forget/ID.json  labels that are to go, and the segments that may still hold them

What labels are to go is written down before the predictions do: whoever is killed in between is followed by one who finishes it.
"""

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.core.clock import micros
from tidemill.core.codec import decode, encode, unpack
from tidemill.core.ids import new_id
from tidemill.core.values import Value, replace
from tidemill.serving.archive import expire, expired, opened
from tidemill.serving.config import write_atomic
from tidemill.serving.history import labels_about
from tidemill.serving.journal import MAGIC, LabelRecord, complete, failures_folder, framed, frames, labels_folder, segments
from tidemill.store.objects import ObjectStore


class Expiry(Value, frozen=True, kw_only=True):
    """What goes of an endpoint's journal: all days before one. Predictions are counted once, labels with those that were corrected."""

    before: date
    files: int
    predictions: int
    labels: int


class Forgotten(Value, frozen=True, kw_only=True):
    """Labels that are to go: by id, and of an endpoint by key and moment (microseconds). segments: those that may still hold them."""

    endpoint: str
    ids: tuple[str, ...]
    keyed: tuple[tuple[str, int], ...]
    segments: tuple[str, ...]


def plan_expiry(state: Path, endpoint: str, *, before: date, objects: ObjectStore) -> tuple[Expiry, Forgotten] | None:
    """Return what goes with the days before a day, None when there are none. Changes nothing."""
    files = expired(state, endpoint, before=before)
    if not files:
        return None
    tables = [pq.ParquetFile(opened(file, objects)).read(["id", "shadow"]) for file in files]
    table = pa.concat_tables(tables)
    ids = pc.unique(table.filter(pc.invert(table["shadow"]))["id"])
    start = micros(datetime(before.year, before.month, before.day, tzinfo=UTC))
    about = labels_about(state, endpoint, {str(unit) for unit in ids.to_pylist()}, before=start, objects=objects)
    forgotten = Forgotten(
        endpoint=endpoint,
        ids=tuple(sorted({unit for unit, at in about if at is None})),
        keyed=tuple(sorted({(key, at) for key, at in about if at is not None})),
        segments=tuple(path.name for path in segments(labels_folder(state))),
    )
    return Expiry(before=before, files=len(files), predictions=len(ids), labels=len(about)), forgotten


def carry_out(state: Path, plan: tuple[Expiry, Forgotten], *, objects: ObjectStore) -> None:
    """Remove what a plan names. Labels in a segment that is being written to go when it is complete, with `forget_labels`."""
    expiry, forgotten = plan
    if forgotten.ids or forgotten.keyed:
        write_atomic(_notes(state) / f"{new_id()}.json", encode(forgotten))
    expire(state, forgotten.endpoint, before=expiry.before, objects=objects)
    start = micros(datetime(expiry.before.year, expiry.before.month, expiry.before.day, tzinfo=UTC))
    for path in segments(failures_folder(state, forgotten.endpoint)):
        if complete(path) and not any(frame.at >= start for frame in frames(path.read_bytes())):
            path.unlink()
    forget_labels(state)


def forget_labels(state: Path) -> None:
    """Write label segments that nobody writes to any more anew, without the labels that are to go."""
    for note in sorted(_notes(state).glob("*.json")):
        forgotten = decode(note.read_bytes(), Forgotten, what=note.name)
        ids, keyed, left = set(forgotten.ids), set(forgotten.keyed), []
        for name in forgotten.segments:
            path = labels_folder(state) / name
            if path.exists() and not complete(path):
                left.append(name)
            elif path.exists():
                _rewrite(path, forgotten.endpoint, ids, keyed)
        if not left:
            note.unlink()
        elif len(left) < len(forgotten.segments):
            write_atomic(note, encode(replace(forgotten, segments=tuple(left))))


def _rewrite(path: Path, endpoint: str, ids: set[str], keyed: set[tuple[str, int]]) -> None:
    data = path.read_bytes()
    kept = [MAGIC]
    for frame in frames(data):
        if (payload := frame.payload()) is None:
            continue
        record = unpack(payload, LabelRecord)
        if record.endpoint is None:
            places = [place for place, unit in enumerate(record.ids) if unit not in ids]
        elif record.endpoint == endpoint:
            places = [place for place, told in enumerate(zip(record.ids, record.at, strict=True)) if told not in keyed]
        else:
            places = list(range(len(record.ids)))
        if places:
            lists = {name: [getattr(record, name)[place] for place in places] for name in ("ids", "values", "at")}
            kept.append(framed(replace(record, **lists), frame.at))
    if len(kept) == 1:
        path.unlink()
    elif (whole := b"".join(kept)) != data:
        write_atomic(path, whole)


def _notes(state: Path) -> Path:
    return labels_folder(state) / "forget"
