"""Records on disk in order, until somebody has taken them: what a run logs lies here before it goes anywhere.

A lane is a folder of segments, `00000001.seg` and on. A segment is one line that says what it is, then records: the length (uint32,
little-endian, at least 1), the CRC-32 of length and bytes, the bytes. A segment that is cut off anywhere yields the records before
the cut. One process appends; one reads, the same or a later one, and notes in `taken` how far it has come.
"""

import errno
import os
import struct
import zlib
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from tidemill.core.errors import Invalid

MAGIC = b"tidemill spool 1\n"
SEGMENT_BYTES = 8 << 20
RECORD_BYTES_MAX = 64 << 20
_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<II")
_PLACE = struct.Struct("<QQ")


class Place(NamedTuple):
    """Where a record ends."""

    segment: int
    offset: int


def frame(record: bytes) -> bytes:
    """Return a record as it stands in a segment. Raises Invalid for an empty one and one that is too large."""
    if not 1 <= len(record) <= RECORD_BYTES_MAX:
        raise Invalid(f"a record of {len(record):,} bytes cannot be kept; expected 1 to {RECORD_BYTES_MAX:,}; log it as a file instead")
    return _HEAD.pack(len(record), _checksum(_LENGTH.pack(len(record)), record)) + record


class LaneWriter:
    """Appends to a lane, behind what is there. Safe from several threads; one process at a time."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Make the folder when it is missing. A segment that has segment_bytes is followed by another. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._segment_bytes = folder, segment_bytes
        self._lock = Lock()
        self._number = max(_numbers(folder), default=0)
        self._file = -1
        self._size = 0

    def append(self, record: bytes) -> None:
        """Keep a record: when this returns, it outlives the process. Raises Invalid, and OSError with nothing half-written."""
        framed = frame(record)
        with self._lock:
            if self._file < 0 or self._size >= self._segment_bytes:
                self._begin()
            view = memoryview(framed)
            try:
                while view:
                    view = view[os.write(self._file, view) :]
            except OSError:
                os.ftruncate(self._file, self._size)
                raise
            self._size += len(framed)

    def close(self) -> None:
        """Write through to the disk, so that a power cut does no harm from here on."""
        with self._lock:
            if self._file >= 0:
                os.fsync(self._file)
        self.forget()

    def forget(self) -> None:
        """Let go of the file: in a forked child it is the parent's."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _begin(self) -> None:
        path = _segment(self.folder, self._number + 1)
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.write(made, MAGIC) != len(MAGIC):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            os.close(made)
            path.unlink()
            raise
        self.forget()
        self._file, self._number, self._size = made, self._number + 1, len(MAGIC)


class LaneReader:
    """Reads a lane from where it was left, while it may still grow. Not safe from several threads."""

    def __init__(self, folder: Path, *, from_start: bool = False) -> None:
        """from_start: read everything that is there, whatever was taken before."""
        self.folder = folder
        noted = None if from_start else _noted(folder)
        self._at = noted or Place(min(_numbers(folder), default=1), 0)
        self._file = -1
        self.lost_bytes = 0  # of segments that were left behind, as far as they could not be read

    def next(self) -> tuple[bytes, Place] | None:
        """Return the following record and where it ends; None while there is none."""
        while True:
            # Asked first: once the next segment is there, nothing is added to this one.
            ended = _segment(self.folder, self._at.segment + 1).exists()
            if self._file < 0 and not self._open():
                if not ended:
                    return None
            else:
                record = self._read()
                if record is not None:
                    self._at = Place(self._at.segment, self._at.offset + _HEAD.size + len(record))
                    return record, self._at
                if not ended:
                    return None
            self.lost_bytes += self.left_bytes
            self.close()
            self._at = Place(self._at.segment + 1, 0)

    def take(self, place: Place) -> None:
        """Note that all up to a place has arrived, and remove the segments before it."""
        note = os.open(self.folder / "taken", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(note, _PLACE.pack(*place), 0)
        finally:
            os.close(note)
        for number in [number for number in _numbers(self.folder) if number < place.segment]:
            _segment(self.folder, number).unlink(missing_ok=True)

    @property
    def left_bytes(self) -> int:
        """How many bytes of this segment lie behind the last record: at the end of a lane, what a crash tore."""
        try:
            return max(0, _segment(self.folder, self._at.segment).stat().st_size - max(self._at.offset, len(MAGIC)))
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> bool:
        try:
            file = os.open(_segment(self.folder, self._at.segment), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        if os.pread(file, len(MAGIC), 0) != MAGIC:
            os.close(file)
            return False
        self._file, self._at = file, Place(self._at.segment, max(self._at.offset, len(MAGIC)))
        return True

    def _read(self) -> bytes | None:
        head = os.pread(self._file, _HEAD.size, self._at.offset)
        if len(head) < _HEAD.size:
            return None
        length, checksum = _HEAD.unpack(head)
        if not 1 <= length <= RECORD_BYTES_MAX:
            return None
        record = os.pread(self._file, length, self._at.offset + _HEAD.size)
        return record if len(record) == length and _checksum(head[: _LENGTH.size], record) == checksum else None


def empty(folder: Path) -> bool:
    """Return whether all of a lane was taken."""
    reader = LaneReader(folder)
    try:
        return reader.next() is None and not reader.left_bytes
    finally:
        reader.close()


def _checksum(length: bytes, record: bytes) -> int:
    return zlib.crc32(record, zlib.crc32(length))


def _segment(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.seg"


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.seg") if path.stem.isdigit())


def _noted(folder: Path) -> Place | None:
    try:
        data = (folder / "taken").read_bytes()
    except FileNotFoundError:
        return None
    return Place(*_PLACE.unpack(data)) if len(data) == _PLACE.size else None
