"""The journal of a local store: small objects are on disk by it until their own files are. One flush of the disk each, instead of two.

A file of fixed size, filled with zeros once and written over and over: a flush of it waits for nothing that others write, where that
of a new file and that of its folder wait for the file system's own log, and so for everybody. A record is its length, the digest and
the bytes; what does not have its digest is not one, so the end needs no mark. Full, it is begun again once the whole file system was
flushed. When its process has ended, whoever opens the store next removes it; if the machine was started anew since, what a power cut
took is put back before.
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import struct
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Condition, Lock

from tidemill.core.digest import digest_bytes
from tidemill.core.ids import Digest

SIZE_BYTES = 1 << 20
CAN_FLUSH = sys.platform == "linux"  # syncfs(2): elsewhere there is no flush of a whole file system that can be waited for
_HEAD = struct.Struct("<I32s")  # length of the bytes, their digest
_NAME = re.compile(r"[0-9a-z-]+\.[0-9a-f]{16}")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot() -> str:
    """Return what this start of the machine is called: what was written since is seen by all, flushed or not. Empty where nobody tells."""
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:
        return ""


class Journal:
    """Where one process notes the small objects that it puts. Safe from several threads; of no use in a forked child."""

    def __init__(self, folder: Path) -> None:
        """Make a file of its own in folder. Raises OSError."""
        folder.mkdir(exist_ok=True)
        self.path = folder / f"{boot() or 'unknown'}.{secrets.token_hex(8)}"
        with _held(folder):
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # for as long as the process lives
        try:
            write_all(self._descriptor, bytes(SIZE_BYTES))
            os.fsync(self._descriptor)
            sync_directory(folder)
            sync_directory(folder.parent)
        except OSError:
            os.close(self._descriptor)
            self.path.unlink()
            raise
        weakref.finalize(self, os.close, self._descriptor)
        self._process, self._failed = os.getpid(), False
        self._room, self._flushing = Condition(), Lock()
        self._end = self._open = 0
        self._noted = self._flushed = 0  # records, counted

    @property
    def usable(self) -> bool:
        """Whether this process may go on with it: not a child, nor anybody once a flush failed, for then nobody knows what is on disk."""
        return self._process == os.getpid() and not self._failed

    @contextmanager
    def noted(self, digest: Digest, data: bytes) -> Iterator[None]:
        """Have an object on disk, then let the block write its file, which need not be flushed. Raises OSError.

        The journal is not begun again before the block has ended.
        """
        record = _HEAD.pack(len(data), bytes.fromhex(digest)) + data
        with self._room:
            while self._end + len(record) > SIZE_BYTES:
                if self._open:
                    self._room.wait()
                else:
                    _flush_all(self._descriptor)
                    self._end = 0
            _write_at(self._descriptor, record, self._end)
            self._end += len(record)
            self._open += 1
            self._noted += 1
            mine = self._noted
        try:
            self._flush(mine)
            yield
        finally:
            with self._room:
                self._open -= 1
                self._room.notify_all()

    def _flush(self, mine: int) -> None:
        with self._flushing:
            if self._flushed < mine:  # else the thread before this one did it for both
                noted = self._noted
                try:
                    os.fdatasync(self._descriptor)
                except OSError:
                    self._failed = True
                    raise
                self._flushed = noted


def recover(folder: Path, put_back: Callable[[Digest, bytes], None]) -> None:
    """Remove the journals of processes that ended; put back what those of earlier starts of the machine hold before. Raises OSError."""
    if not _journals(folder):
        return
    with _held(folder):
        for path in _journals(folder):
            with _taken(path) as descriptor:
                if descriptor is not None:
                    if not boot() or not path.name.startswith(boot()):
                        for digest, data in _records(path.read_bytes()):
                            put_back(digest, data)
                    _flush_all(descriptor)
                    _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        if error.errno != errno.EROFS:  # on a disk that is read-only it may stay, for nothing was missing
            raise


def _journals(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return []


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Let nobody else recover, or begin a journal, until the block ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _taken(path: Path) -> Iterator[int | None]:
    """Yield a descriptor of a journal that nobody writes to, None for one that is in use, here or on another machine."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _records(data: bytes) -> Iterator[tuple[Digest, bytes]]:
    at = 0
    while at + _HEAD.size <= len(data):
        size, raw = _HEAD.unpack_from(data, at)
        held = data[at + _HEAD.size : at + _HEAD.size + size]
        digest = Digest(raw.hex())
        if len(held) != size or digest_bytes(held) != digest:
            return
        yield digest, held
        at += _HEAD.size + size


def flush_disk(folder: Path) -> None:
    """Have all that was written to the disk that a folder lies on, there; elsewhere than on Linux the system's own time has to do."""
    if CAN_FLUSH:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _flush_all(descriptor)
        finally:
            os.close(descriptor)


def _flush_all(descriptor: int) -> None:
    """Flush the file system that a file lies on, and learn whether it could write what it was given. Source: syncfs(2)."""
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
        raise OSError(ctypes.get_errno(), "syncfs")


def _write_at(descriptor: int, data: bytes, at: int) -> None:
    if os.pwrite(descriptor, data, at) != len(data):
        raise OSError(errno.EIO, "a record was written in part")


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: Path) -> None:
    """Have the names in a folder on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
