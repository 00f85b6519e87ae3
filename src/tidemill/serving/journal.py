"""The journal: what was acknowledged, in append-only segments, one file a worker, written before the answer goes out.

    journal/predictions/ENDPOINT/WORKER-START-N.seg   predictions (an endpoint of another project: PROJECT~NAME)
    journal/predictions/ENDPOINT/parquet/            the same, compacted: `archive` writes these, some into the object store
    journal/failures/ENDPOINT/WORKER-START-N.seg      rows on which a model failed: nothing was acknowledged, but rollouts count them
    journal/labels/WORKER-START-N.seg                 labels
    journal/pushes/SOURCE/WORKER-START-N.seg          events pushed for a source, until they are rows of its dataset

A segment is a magic number and frames: length, CRC-32, event time, MessagePack. A writer holds its segment locked, so that others
can tell one that is complete from one that grows, and a killed writer's lock is gone with it. It begins another one when a segment is
large and when a day of event time has gone by: so what is complete can be compacted, into about one file a worker and day.
"""

import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from tidemill.core.codec import pack
from tidemill.core.errors import Unavailable
from tidemill.core.ids import new_id
from tidemill.core.values import Value, Wire
from tidemill.serving.outputs import Packed

MAGIC = b"TMJOURN1"
SUFFIX = ".seg"
SEGMENT_BYTES = 16 << 20
DAY_MICROS = 24 * 3600 * 1_000_000
_FRAME = struct.Struct("<IIq")  # bytes of the payload, CRC-32 of event time and payload, event time in microseconds since 1970
_MOMENT = struct.Struct("<q")


class PackedBlock(Value, frozen=True, kw_only=True):
    """Columns of numbers, row by row: little-endian float32 (`<f4`) or float64 (`<f8`). NaN means missing."""

    names: list[str]
    dtype: str
    data: bytes


class PredictionRecord(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Rows that one or more variants answered: of one request, or of several that were scored together. Lists run along the rows.

    at: event time, received: real time, both microseconds since 1970. variant holds places in variants: (name, model, version).
    columns and block: what came with the request and what was looked up. shadow: nobody was told. latency_ms and trace_id: a list
    where rows differ in it. keys: values of the endpoint's label key. inputs_kept: false where its policy left the inputs out.
    others: what was answered beside the score, by name.
    """

    at: int
    received: int
    ids: list[str]
    columns: dict[str, list[Any]]
    scores: list[float]
    variant: list[int]
    variants: list[tuple[str, str, int]]
    shadow: bool
    latency_ms: float | list[float]
    trace_id: str | list[str]
    block: PackedBlock | None = None
    keys: list[str | None] | None = None
    inputs_kept: bool = True
    others: dict[str, Packed] | None = None


class PredictionHead(Wire, frozen=True, kw_only=True):
    """The same record read without its columns, which are most of it."""

    at: int
    received: int
    ids: list[str]
    scores: list[float]
    variant: list[int]
    variants: list[tuple[str, str, int]]
    shadow: bool
    latency_ms: float | list[float]
    trace_id: str | list[str]
    keys: list[str | None] | None = None
    inputs_kept: bool = True


class FailureRecord(Value, frozen=True, kw_only=True):
    """Rows of one request on which one variant failed. shadow: nobody waited for its answer."""

    at: int
    received: int
    rows: int
    variant: str
    model: str
    version: int
    shadow: bool
    reason: str


class LabelRecord(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Labels of one request: what came true, for which prediction, known since when (event time).

    With an endpoint, keys stand in ids: values of its label key, each for the last prediction about it that was made by then.
    """

    received: int
    ids: list[str]
    values: list[float | bool | str]
    at: list[int]
    endpoint: str | None = None


class PushRecord(Value, frozen=True, kw_only=True):
    """Events of a source as one request brought them: its body, which every view over the source took."""

    received: int
    body: bytes


Record = PredictionRecord | FailureRecord | LabelRecord | PushRecord


class JournalUnavailable(Unavailable):
    """Nothing can be journaled, so nothing is acknowledged."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"journal {path} cannot be written ({reason}); nothing was acknowledged, free some space and send it again")


class JournalWriter:
    """Appends records to one folder. One thread at a time calls append; sync may be called from another."""

    def __init__(self, folder: Path, worker: str, *, segment_bytes: int = SEGMENT_BYTES, segment_micros: int = DAY_MICROS) -> None:
        self.folder, self._worker, self._limit, self._span = folder, worker, segment_bytes, segment_micros
        self._guard = threading.Lock()  # between append, which may change segments, and sync
        self._descriptor = -1
        self._size = self._number = self._span_number = 0
        self._start = new_id()  # sorts by time
        self._path = folder
        self._closed = False
        self._gathered: list[bytes] = []
        self._gathered_at = 0
        self._behind: list[Future[None]] = []  # segments that are full and on their way to the disk

    def append(self, record: Record, *, at: int) -> int:
        """Write one record; it survives this process when the call returns. Return its bytes. Raises JournalUnavailable."""
        self.gather(record, at=at)
        return self.flush()

    def gather(self, record: Record, *, at: int) -> None:
        """Keep one record for the next `flush`, which writes all that was gathered at once: a write costs more than a record."""
        self._gathered.append(framed(record, at))
        if at > self._gathered_at:
            self._gathered_at = at

    def flush(self) -> int:
        """Write what was gathered; it survives this process when the call returns. Return its bytes. Raises JournalUnavailable.

        What could not be written is given up: nobody was told of it.
        """
        if not self._gathered:
            return 0
        whole = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
        latest = self._gathered_at
        self._gathered, self._gathered_at = [], 0
        with self._guard:
            try:
                # Only a later day: rows about the past, sent in between, are not to cut the journal into small pieces.
                if self._descriptor < 0 or self._size >= self._limit or latest // self._span > self._span_number:
                    self._start_segment()
                    self._span_number = latest // self._span
                if (written := os.write(self._descriptor, whole)) != len(whole):
                    raise OSError(f"only {written} of {len(whole)} bytes fitted")
            except OSError as error:
                self._discard_tail()
                raise JournalUnavailable(self._path, error.strerror or str(error)) from error
            self._size += len(whole)
            if self._closed:  # somebody was late: nobody will close this segment any more
                self._leave()
        return len(whole)

    def sync(self) -> None:
        """Bring what was appended to the disk. Raises JournalUnavailable."""
        with self._guard:
            descriptor = os.dup(self._descriptor) if self._descriptor >= 0 else -1
            behind, self._behind = self._behind, []
        try:
            for full in behind:
                full.result()
            if descriptor >= 0:
                os.fdatasync(descriptor) if hasattr(os, "fdatasync") else os.fsync(descriptor)
        except OSError as error:
            raise JournalUnavailable(self._path, error.strerror or str(error)) from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def close(self) -> None:
        """Write what was gathered, flush, and leave the segment to readers and to compaction."""
        with suppress(JournalUnavailable):
            self.flush()
        with self._guard:
            self._closed = True
            self._leave()
            behind, self._behind = self._behind, []
        for full in behind:
            full.result()

    def _leave(self) -> None:
        if self._descriptor >= 0:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _leave_behind(self) -> None:
        """Flush and leave a segment that is full beside whatever goes on: the disk takes its time for so many bytes."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._behind = [full for full in self._behind if not full.done() or full.exception()]
            full: Future[None] = Future()
            self._behind.append(full)
            threading.Thread(target=_settle, args=(descriptor, full), name="journal-segment").start()

    def _start_segment(self) -> None:
        self._leave_behind()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._number += 1
        self._path = self.folder / f"{self._worker}-{self._start}-{self._number:06d}{SUFFIX}"
        # Locked under another name first: a segment that shows is locked from its first moment.
        scratch = self._path.with_suffix(".new")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, MAGIC)
            scratch.rename(self._path)
            sync_directory(self.folder)
        except OSError:
            os.close(descriptor)
            scratch.unlink(missing_ok=True)
            raise
        self._descriptor, self._size = descriptor, len(MAGIC)

    def _discard_tail(self) -> None:
        # Half a frame would hide the frames after it from readers.
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, self._size)


class EndpointJournal:
    """What one worker writes of one endpoint: predictions, and the failures of its models."""

    def __init__(self, state: Path, endpoint: str, worker: str) -> None:
        self.state = state
        self.predictions = JournalWriter(predictions_folder(state, endpoint), worker)
        self.failures = JournalWriter(failures_folder(state, endpoint), worker)

    def close(self) -> None:
        """Flush and leave the segments to readers."""
        self.predictions.close()
        self.failures.close()


class Frame:
    """One record as it lies in a segment; the payload is checked when it is asked for."""

    __slots__ = ("_checksum", "_data", "_end", "_start", "at")

    def __init__(self, data: bytes, start: int, end: int, checksum: int, at: int) -> None:
        self._data, self._start, self._end, self._checksum, self.at = data, start, end, checksum, at

    @property
    def size_bytes(self) -> int:
        """What it takes in the segment, with its head."""
        return _FRAME.size + self._end - self._start

    def holds(self, part: bytes) -> bool:
        """Return whether some bytes stand in the record, without a look at the rest."""
        return self._data.find(part, self._start, self._end) >= 0

    def payload(self) -> bytes | None:
        """Return the packed record, None when it is torn or damaged."""
        payload = self._data[self._start : self._end]
        return payload if checksum(self.at, payload) == self._checksum else None


def framed(record: Record, at: int) -> bytes:
    """Return a record as it lies in a segment."""
    payload = pack(record)
    return _FRAME.pack(len(payload), checksum(at, payload), at) + payload


def _settle(descriptor: int, full: "Future[None]") -> None:
    failed: OSError | None = None
    try:
        os.fsync(descriptor)
    except OSError as error:
        failed = error
    os.close(descriptor)  # and with it the lock: now it may be compacted
    if failed is None:
        full.set_result(None)
    else:
        full.set_exception(failed)


def checksum(at: int, payload: bytes) -> int:
    """Return the CRC-32 of a frame's event time and payload."""
    return zlib.crc32(payload, zlib.crc32(_MOMENT.pack(at)))


def frames(data: bytes, wanted: Callable[[int], bool] = lambda _: True) -> Iterator[Frame]:
    """Yield the frames of a segment whose event time is wanted; a torn tail ends it."""
    if data[: len(MAGIC)] != MAGIC:
        return
    place, size = len(MAGIC), len(data)
    while place + _FRAME.size <= size:
        length, check, at = _FRAME.unpack_from(data, place)
        start = place + _FRAME.size
        place = start + length
        if place > size or length == 0:
            return
        if wanted(at):
            yield Frame(data, start, place, check, at)


def segments(folder: Path) -> list[Path]:
    """Return the segments of a folder, oldest first."""
    try:
        found = [path for path in folder.iterdir() if path.suffix == SUFFIX]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda path: (path.stem.partition("-")[2], path.name))


def complete(path: Path) -> bool:
    """Return whether nobody writes to a segment any more."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def predictions_folder(state: Path, endpoint: str) -> Path:
    """Return the journal of an endpoint, which is named as callers name it (`NAME` or `PROJECT/NAME`)."""
    return state / "journal" / "predictions" / endpoint.replace("/", "~")


def endpoints_journaled(state: Path) -> list[str]:
    """Return the endpoints that have a journal."""
    return _named(state / "journal" / "predictions")


def failures_folder(state: Path, endpoint: str) -> Path:
    """Return the journal of failures of an endpoint's models."""
    return state / "journal" / "failures" / endpoint.replace("/", "~")


class LabelsJournal(JournalWriter):
    """What one worker writes of labels."""

    def __init__(self, state: Path, worker: str) -> None:
        super().__init__(labels_folder(state), worker)
        self.state = state


def labels_folder(state: Path) -> Path:
    """Return the journal of labels."""
    return state / "journal" / "labels"


def pushes_folder(state: Path, source: str) -> Path:
    """Return the journal of a source of events, which is named as callers name it."""
    return state / "journal" / "pushes" / source.replace("/", "~")


def sources_journaled(state: Path) -> list[str]:
    """Return the sources that have a journal."""
    return _named(state / "journal" / "pushes")


def _named(folder: Path) -> list[str]:
    try:
        return sorted(path.name.replace("~", "/") for path in folder.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def sync_directory(path: Path) -> None:
    """Bring to the disk which files there are in a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
