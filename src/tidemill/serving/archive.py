"""The journal for the long run: complete segments become Parquet by day, many files few, closed days objects of the store; old ones go.

    predictions/ENDPOINT/parquet/day=DATE/SEGMENT.parquet  one segment's rows of a day
    predictions/ENDPOINT/parquet/day=DATE/merged-ID.parquet  those of many; counts only once the ledger names it
    predictions/ENDPOINT/ledger.json                        which files were merged, which are objects, which are on their way out

Every step writes what is new, then the ledger in one rename, then removes what is old. Killed at any point, the next call goes on from
the ledger; readers pass over what it calls gone and over merged files that it does not name.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.core.clock import micros
from tidemill.core.codec import decode, encode
from tidemill.core.errors import Unavailable
from tidemill.core.ids import Digest, new_id
from tidemill.core.values import Value, replace
from tidemill.core.window import Window
from tidemill.serving.config import write_atomic
from tidemill.serving.journal import complete, endpoints_journaled, predictions_folder, segments, sync_directory
from tidemill.serving.tables import full, once, segment_table, whole
from tidemill.store.objects import ObjectStore

LEDGER = "ledger.json"
MERGED = "merged-"
ROW_GROUP = 2048  # finding one id reads one: 17 ms with 8192, 10 ms with this; reading all takes a quarter more
PART_ROWS = 1 << 20
PART_BYTES = 64 << 20
MERGE_AT = 8
_LAST = "\U0010ffff"


class Part(Value, frozen=True, kw_only=True):
    """A file of one day. ids and at: the least and the greatest in it, at in microseconds. digest: of its object, None for a local file."""

    day: date
    name: str
    rows: int
    size_bytes: int
    ids: tuple[str, str]
    at: tuple[int, int]
    digest: Digest | None = None

    @property
    def place(self) -> str:
        """Where it lies, or lay, below the folder of files."""
        return f"day={self.day}/{self.name}"


class Ledger(Value, frozen=True, kw_only=True):
    """What became of files. parts: merged ones and those in the object store. gone and dropped: files and objects still to be removed."""

    parts: tuple[Part, ...] = ()
    gone: tuple[str, ...] = ()
    dropped: tuple[Digest, ...] = ()


class File(Value, frozen=True, kw_only=True):
    """One file of compacted predictions. part: what the ledger says of it, None of a file that came of one segment."""

    day: date
    path: Path
    size_bytes: int
    part: Part | None = None

    @property
    def place(self) -> str:
        """Where it lies below the folder of files."""
        return f"day={self.day}/{self.path.name}"

    @property
    def digest(self) -> Digest | None:
        """The digest of its object, None for a local file."""
        return self.part.digest if self.part is not None else None

    def holds(self, window: Window) -> bool:
        """Return whether it may hold rows of a window."""
        if self.part is not None:
            return self.part.at[0] < micros(window.end) and micros(window.start) <= self.part.at[1]
        return window.start.astimezone(UTC).date() <= self.day <= window.end.astimezone(UTC).date()


class Archived(Unavailable):
    """Days lie in the object store, and who reads has none."""

    def __init__(self, day: date) -> None:
        self.day = day
        super().__init__(f"predictions of {day} lie in the object store; read them with the workspace's objects")


class CompactReport(Value, frozen=True, kw_only=True):
    """What a compaction did: segments taken away, rows and files written, files merged into fewer, files moved to the object store."""

    segments: int = 0
    rows: int = 0
    files: int = 0
    merged: int = 0
    archived: int = 0


def compact(
    state: Path, endpoint: str, *, objects: ObjectStore | None = None, closed_before: date | None = None, archive_before: date | None = None
) -> CompactReport:  # fmt: skip
    """Turn an endpoint's segments that nobody writes to any more into Parquet files by day of event time, and many files into few.

    closed_before: days for which nothing more is expected become as few files as their size allows; on others files are merged by the
    dozen. archive_before: days whose files move into the object store. May be killed and called again at any point: nothing is lost.
    """
    folder = predictions_folder(state, endpoint)
    if not folder.is_dir():
        return CompactReport()
    with _alone(folder):
        _settle(folder, objects)
        report = _compact_segments(folder)
        merged = _merge(folder, objects, closed_before)
        moved = _archive(folder, objects, archive_before) if objects is not None and archive_before is not None else 0
        return replace(report, merged=merged, archived=moved)


def expire(state: Path, endpoint: str, *, before: date, objects: ObjectStore) -> int:
    """Remove all files of the days before a day for good, here and in the object store; return how many."""
    folder = predictions_folder(state, endpoint)
    with _alone(folder):
        _settle(folder, objects)
        old = expired(state, endpoint, before=before)
        _retire(folder, objects, old)
        return len(old)


def expired(state: Path, endpoint: str, *, before: date) -> list[File]:
    """Return the files of the days before a day."""
    return [file for file in compacted(predictions_folder(state, endpoint)) if file.day < before]


def compacted(folder: Path, *, open_segments: frozenset[str] = frozenset()) -> list[File]:
    """Return the files that count, by day; those of segments that still are do not."""
    while True:
        ledger = read_ledger(folder)
        gone = set(ledger.gone)
        files = [
            File(day=part.day, path=_files(folder) / part.place, size_bytes=part.size_bytes, part=part) for part in ledger.parts
        ]  # fmt: skip
        try:
            for path in sorted(_files(folder).glob("day=*/*.parquet")):
                file = File(day=date.fromisoformat(path.parent.name.removeprefix("day=")), path=path, size_bytes=path.stat().st_size)
                if not path.name.startswith(MERGED) and path.stem not in open_segments and file.place not in gone:
                    files.append(file)
        except FileNotFoundError:
            continue  # merged or moved meanwhile: look again
        if read_ledger(folder) == ledger:
            return sorted(files, key=lambda file: file.place)


def opened(file: File, objects: ObjectStore | None) -> Path:
    """Return a local path to the bytes of a file; an object of a bucket is fetched once. Raises Archived, Unavailable."""
    if file.digest is None:
        return file.path
    if objects is None:
        raise Archived(file.day)
    return objects.local_path(file.digest)


def read_ledger(folder: Path) -> Ledger:
    """Return what became of a journal's files."""
    try:
        return decode((folder / LEDGER).read_bytes(), Ledger, what=LEDGER)
    except FileNotFoundError:
        return Ledger()


def archived_objects(state: Path) -> Iterator[Digest]:
    """Yield the digests of all objects that journals refer to: who collects garbage keeps them."""
    for endpoint in endpoints_journaled(state):
        yield from (part.digest for part in read_ledger(predictions_folder(state, endpoint)).parts if part.digest is not None)


def plan_merges(files: Sequence[File], *, closed: bool) -> list[list[File]]:
    """Return which files of one day are to become one each; pure.

    Only small ones, so that no row is written more often than the logarithm of what a file holds; none where there are few of them.
    """
    small = [file for file in files if file.size_bytes < PART_BYTES // 2 and (file.part is None or file.part.rows < PART_ROWS // 2)]
    late = closed and any(file.digest is not None for file in files)
    if len(small) < (2 if closed and not late else MERGE_AT):
        return []
    groups: list[list[File]] = [[]]
    size = 0
    for file in small:
        if groups[-1] and size + file.size_bytes > PART_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.size_bytes
    return [group for group in groups if len(group) > 1]


def _compact_segments(folder: Path) -> CompactReport:
    done = rows = files = 0
    for path in segments(folder):
        if not complete(path):
            continue
        table = once(whole([segment_table(path, None)]))
        days = pc.strftime(table["at"], format="%Y-%m-%d") if table.num_rows else pa.chunked_array([], pa.string())
        for day in (str(each) for each in pc.unique(days).to_pylist()):
            part = table.filter(pc.equal(days, pa.scalar(day))).sort_by("id")
            _write_parquet(part, _files(folder) / f"day={day}" / f"{path.stem}.parquet")
            files += 1
        path.unlink()
        done += 1
        rows += table.num_rows
    return CompactReport(segments=done, rows=rows, files=files)


def _merge(folder: Path, objects: ObjectStore | None, closed_before: date | None) -> int:
    by_day: dict[date, list[File]] = {}
    for file in compacted(folder, open_segments=frozenset(path.stem for path in segments(folder))):
        if file.digest is None or objects is not None:
            by_day.setdefault(file.day, []).append(file)
    merged = 0
    for day, files in by_day.items():
        for group in plan_merges(files, closed=closed_before is not None and day < closed_before):
            tables = [full(pq.ParquetFile(opened(file, objects)).read()) for file in group]
            path = _files(folder) / f"day={day}" / f"{MERGED}{new_id()}.parquet"
            _write_parquet(once(whole(tables)).sort_by("id"), path)
            _retire(folder, objects, group, instead=(part_of(path, day),))
            merged += len(group)
    return merged


def _archive(folder: Path, objects: ObjectStore, before: date) -> int:
    moved = 0
    for file in compacted(folder, open_segments=frozenset(path.stem for path in segments(folder))):
        if file.digest is None and file.day < before:
            part = replace(file.part or part_of(file.path, file.day), digest=objects.put_file(file.path))
            _retire(folder, objects, [file], instead=(part,))
            moved += 1
    return moved


def _retire(folder: Path, objects: ObjectStore | None, old: Sequence[File], *, instead: Sequence[Part] = ()) -> None:
    """Take files out of the journal, others in; then remove them."""
    ledger = read_ledger(folder)
    places = {file.place for file in old}
    stays = [part for part in ledger.parts if part.place not in places]
    _write_ledger(
        folder,
        Ledger(
            parts=tuple(sorted([*stays, *instead], key=lambda part: part.place)),
            gone=tuple(sorted({*ledger.gone, *(file.place for file in old if file.digest is None)})),
            dropped=tuple(sorted({*ledger.dropped, *(file.digest for file in old if file.digest is not None)})),
        ),
    )
    _settle(folder, objects)


def _settle(folder: Path, objects: ObjectStore | None) -> None:
    """Remove what the ledger calls gone, and merged files that it does not know: whoever wrote them was killed."""
    ledger = read_ledger(folder)
    local = {part.place for part in ledger.parts if part.digest is None}
    strange = {f"{path.parent.name}/{path.name}" for path in _files(folder).glob(f"day=*/{MERGED}*.parquet")} - local
    for place in {*ledger.gone, *strange} - local:
        path = _files(folder) / place
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
    kept = {part.digest for part in ledger.parts}
    if objects is not None:
        for digest in ledger.dropped:
            if digest not in kept:
                objects.delete(digest)
    settled = replace(ledger, gone=(), dropped=() if objects is not None else ledger.dropped)
    if settled != ledger:
        _write_ledger(folder, settled)


def part_of(path: Path, day: date) -> Part:
    """Return what the ledger says of a local file."""
    metadata = pq.read_metadata(path)

    def span(name: str) -> tuple[Any, Any] | None:
        place = metadata.schema.names.index(name)
        found = [metadata.row_group(group).column(place).statistics for group in range(metadata.num_row_groups)]
        ends: list[tuple[Any, Any]] = [(each.min, each.max) for each in found if each is not None and each.has_min_max]
        return (min(low for low, _ in ends), max(high for _, high in ends)) if len(ends) == len(found) else None

    ids, at = span("id"), span("at")
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    moments = (start, start + timedelta(days=1)) if at is None else at
    return Part(
        day=day,
        name=path.name,
        rows=metadata.num_rows,
        size_bytes=path.stat().st_size,
        ids=("", _LAST) if ids is None else ids,
        at=(micros(moments[0]), micros(moments[1])),
    )


def _files(folder: Path) -> Path:
    return folder / "parquet"


def _write_ledger(folder: Path, ledger: Ledger) -> None:
    write_atomic(folder / LEDGER, encode(ledger))


def _write_parquet(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    # Its name stands in it: no two files are the same object, so that removing one never takes another's bytes.
    named = table.replace_schema_metadata({b"tidemill.part": path.stem.encode()})
    try:
        pq.write_table(named, scratch, compression="zstd", row_group_size=ROW_GROUP)
        _sync(scratch)
        scratch.replace(path)
        sync_directory(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one compaction of a journal run at a time."""
    descriptor = os.open(folder / "compact.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
