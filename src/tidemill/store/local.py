"""An object store in a local directory: `objects/ab/cdef…`, one read-only file an object."""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from tidemill.core.clock import from_micros, micros, wall
from tidemill.core.digest import Hasher, digest_bytes, in_passing
from tidemill.core.ids import Digest
from tidemill.store.batch import PackBatch
from tidemill.store.journal import CAN_FLUSH, Journal, recover, sync_directory, write_all
from tidemill.store.objects import ObjectCorrupt, ObjectNotFound, Payload, Repacked, Stored, check_digest, chunks_of, refusing, verified
from tidemill.store.packed import Packed

_SHARD = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{62}")
_READ_ONLY = 0o444
_SMALL_BYTES = 16 << 10  # an object up to which it is noted in a journal …
_TICK_S = 0.05
_FIRST_PUTS = 16  # … unless it is among the first ones: most processes put no more, and a journal takes longer to make


class LocalStore:
    """Objects in a directory.

    A put writes to `scratch/`, flushes the file, renames it to its digest and flushes the directory, so that an object is
    there whole or not at all. A small one is flushed as a record of the journal, before it has its name. Puts hold `lock`
    shared and deletions hold it alone, for the instant in which an object's age is renewed or looked at: without it, `gc`
    could delete an object between a put that found it there and its return.
    """

    def __init__(self, root: Path, *, cache: Path | None = None, journal_after: int = _FIRST_PUTS) -> None:
        """Open the store in a folder, made when it is not there.

        cache: where files are kept of objects that lie in packs. journal_after: small puts before one is noted in a journal.
        """
        self.root = root
        self._where = f"file:{root}"
        self._objects = root / "objects"
        self.scratch = root / "scratch"
        self._cache_root = cache or root / "cache"
        self._cache: LocalStore | None = None
        self._journals = root / "journal"
        self._journal: Journal | None = None
        self._making = Lock()
        self._journal_after, self._small_puts = journal_after, 0
        with refusing(self._where):
            self._objects.mkdir(parents=True, exist_ok=True)
            self.scratch.mkdir(exist_ok=True)
            recover(self._journals, self._put_back)
        self.packed = Packed(_Folder(root), partial(_read_file, self._objects))

    def __repr__(self) -> str:
        return f"LocalStore({self._where!r})"

    def put(self, data: bytes) -> Digest:
        digest = digest_bytes(data)
        with refusing(self._where):
            if not self._renew(digest):
                journal = self._journal_for(data)
                if journal is None:
                    self._write(digest, data)
                else:
                    with journal.noted(digest, data), self._scratch_file() as (descriptor, scratch):
                        write_all(descriptor, data)
                        os.fchmod(descriptor, _READ_ONLY)
                        self._name(scratch, digest)
        return digest

    def put_file(self, path: Path) -> Digest:
        chunks = chunks_of(path)
        first = next(chunks, b"")
        return self.put(first) if len(first) <= _SMALL_BYTES else self.put_chunks(chain([first], chunks))

    def put_chunks(self, chunks: Iterable[bytes], *, expected: Digest | None = None) -> Digest:
        """Store the bytes of chunks one after the other. Raises ObjectCorrupt when they are not what expected names."""
        with refusing(self._where), self._scratch_file() as (descriptor, scratch):
            hasher = Hasher()
            for chunk in in_passing(chunks, hasher):
                write_all(descriptor, chunk)
            digest = hasher.digest()
            if expected is not None and digest != expected:
                raise ObjectCorrupt(expected, digest, "what was received")
            if not self._renew(digest):
                self._publish_written(descriptor, scratch, digest)
        return digest

    def adopt(self, path: Path, digest: Digest) -> None:
        check_digest(digest)
        with refusing(self._where):
            if self._renew(digest):
                path.unlink()
                return
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._publish_written(descriptor, path, digest)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self.put_chunks(chunks_of(path), expected=digest)  # it lies on another disk
                path.unlink()
            finally:
                os.close(descriptor)

    def open(self, digest: Digest) -> BinaryIO:
        path = self._path(digest)
        return verified(chunks_of(path) if path.is_file() else self._packed_chunks(digest), digest, self._where)

    def get(self, digest: Digest) -> bytes:
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            data = b"".join(self._packed_chunks(digest))
        if (found := digest_bytes(data)) != digest:
            raise ObjectCorrupt(digest, found, self._where)
        return data

    def get_many(self, digests: Iterable[Digest]) -> Iterator[tuple[Digest, bytes]]:
        return self.packed.get_many(digests, where=self._where, get=self.get)

    def payloads(self, digests: Iterable[Digest]) -> Iterator[Payload]:
        return self.packed.payloads(list(digests))

    def read_at(self, digest: Digest, at: int, size: int) -> bytes:
        data = _read_file(self._objects, check_digest(digest), at, size)
        if data is None:
            data = self.packed.read_at(digest, at, size)
        if data is None:
            raise ObjectNotFound(digest, self._where)
        return data

    def local_path(self, digest: Digest) -> Path:
        path = self._path(digest)
        if path.is_file():
            return path
        entry = self.packed.find(digest)
        if entry is None:
            raise ObjectNotFound(digest, self._where)
        if self._cache is None:
            self._cache = LocalStore(self._cache_root)
        if not self._cache.has(digest):
            self._cache.put_chunks(self._packed_chunks(digest), expected=digest)
        return self._cache.local_path(digest)

    def has(self, digest: Digest) -> bool:
        return self._path(digest).is_file() or self.packed.find(digest) is not None

    def size(self, digest: Digest) -> int:
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            entry = self.packed.find(digest)
            if entry is None:
                raise ObjectNotFound(digest, self._where) from None
            return entry.size

    def batch(self) -> PackBatch:
        return PackBatch(self)

    def made_of(self, digests: Iterable[Digest]) -> set[Digest]:
        return self.packed.closure(list(digests))

    def stored(self) -> Iterator[Stored]:
        for shard in os.scandir(self._objects):
            if not _SHARD.fullmatch(shard.name):
                continue
            for entry in os.scandir(shard.path):
                if not _REST.fullmatch(entry.name):
                    continue
                with suppress(FileNotFoundError):
                    stat = entry.stat()
                    moment = from_micros(stat.st_mtime_ns // 1000)
                    yield Stored(digest=Digest(shard.name + entry.name), size_bytes=stat.st_size, stored_at=moment)
        yield from self.packed.packs.stored()

    def digests(self) -> Iterator[Digest]:
        for entry in self.stored():
            yield entry.digest

    def delete(self, digest: Digest, *, stored_before: datetime | None = None) -> bool:
        path = self._path(digest)
        with refusing(self._where), _locked(self.root, fcntl.LOCK_EX):
            try:
                if stored_before is not None and path.stat().st_mtime_ns // 1000 >= micros(stored_before):
                    return False
                path.unlink()
            except FileNotFoundError:
                pass
            else:
                return True
        return self.packed.packs.drop(check_digest(digest), stored_before=stored_before, scratch=self.scratch)

    def repack(self, keep: Container[Digest], *, stored_before: datetime) -> Repacked:
        with refusing(self._where):
            return self.packed.repack(keep, stored_before=stored_before, scratch=self.scratch)

    def sweep(self, older_than: timedelta) -> int:
        oldest = wall() - older_than.total_seconds()
        freed = 0
        with refusing(self._where):
            for entry in os.scandir(self.scratch):
                with suppress(FileNotFoundError):
                    stat = entry.stat()
                    if stat.st_mtime < oldest:
                        Path(entry).unlink()
                        freed += stat.st_size
        return freed

    def _path(self, digest: Digest) -> Path:
        check_digest(digest)
        return self._objects / digest[:2] / digest[2:]

    def renew_all(self, digests: Iterable[Digest]) -> set[Digest]:
        """Make objects young; return those that are there."""
        asked = list(digests)
        entries = self.packed.packs.find_all(asked)
        with _locked(self.root, fcntl.LOCK_SH):
            packs = {name: self.packed.packs.shelf.renew(name) for name in {entry.pack for entry in entries.values()}}
            return {digest for digest in asked if (digest in entries and packs[entries[digest].pack]) or self._touched(digest)}

    def _renew(self, digest: Digest) -> bool:
        """Make an object young; return False when there is none."""
        with _locked(self.root, fcntl.LOCK_SH):
            if self._touched(check_digest(digest)):
                return True
            entry = self.packed.find(digest)
            return entry is not None and self.packed.packs.shelf.renew(entry.pack)

    def _touched(self, digest: Digest) -> bool:
        try:
            os.utime(f"{self._objects}/{digest[:2]}/{digest[2:]}")
        except FileNotFoundError:
            return False
        return True

    def _packed_chunks(self, digest: Digest) -> Iterator[bytes]:
        chunks = self.packed.chunks(digest)
        if chunks is None:
            raise ObjectNotFound(digest, self._where)
        return chunks

    @contextmanager
    def _scratch_file(self) -> Iterator[tuple[int, Path]]:
        """Yield a new file to write to, and its place; what still lies there afterwards is taken away."""
        scratch = self.scratch / f"{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor, scratch
        finally:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                scratch.unlink()

    def _publish_written(self, descriptor: int, scratch: Path, digest: Digest) -> None:
        """Make a file that was written whole the object of a digest: its bytes are on disk before its name is, and both on return."""
        os.fchmod(descriptor, _READ_ONLY)
        os.fsync(descriptor)
        sync_directory(self._name(scratch, digest))

    def _name(self, scratch: Path, digest: Digest) -> Path:
        """Give a file the name of its digest; return the folder that it lies in from now on."""
        target = self._path(digest)
        if not target.parent.is_dir():
            for last in "0123456789abcdef":  # its neighbours too: they are needed soon, and one flush serves all
                (self._objects / f"{digest[0]}{last}").mkdir(exist_ok=True)
            sync_directory(self._objects)
        with _locked(self.root, fcntl.LOCK_SH):
            scratch.rename(target)
        return target.parent

    def _write(self, digest: Digest, data: bytes) -> None:
        with self._scratch_file() as (descriptor, scratch):
            write_all(descriptor, data)
            self._publish_written(descriptor, scratch, digest)

    def _journal_for(self, data: bytes) -> Journal | None:
        """Return the journal to note an object in, None when it is to be flushed itself."""
        if len(data) > _SMALL_BYTES or not CAN_FLUSH:
            return None
        self._small_puts += 1
        if self._small_puts <= self._journal_after:
            return None
        with self._making:
            if self._journal is None or not self._journal.usable:
                try:
                    self._journal = Journal(self._journals)
                except OSError:  # no room for one: the longer way needs less, and says what is wrong if there is too little for that
                    self._journal, self._small_puts = None, 0
            return self._journal

    def _put_back(self, digest: Digest, data: bytes) -> None:
        """Write an object of which the file may have been lost, or left in part, by a power cut.

        One that was deleted since it was noted comes back, too: nothing refers to it, and `gc` removes it again.
        """
        with suppress(FileNotFoundError):
            if digest_bytes(self._path(digest).read_bytes()) == digest:
                return
        self._write(digest, data)


@contextmanager
def _locked(root: Path, how: int) -> Iterator[None]:
    # A descriptor of its own each time: flock belongs to the open file, so threads exclude each other as processes do.
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _read_file(objects: Path, digest: Digest, at: int, size: int) -> bytes | None:
    """Return a part of an object's file, None when it has none."""
    try:
        descriptor = os.open(objects / digest[:2] / digest[2:], os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.pread(descriptor, size, at)
    finally:
        os.close(descriptor)


class _Folder:
    """The packs of a local store: `packs/DIGEST`, one read-only file a pack."""

    def __init__(self, store: Path) -> None:
        self._store, self._root = store, store / "packs"
        with suppress(FileExistsError):
            self._root.mkdir()
        self._seen: tuple[int, float] | None = None

    def packs(self) -> Mapping[str, datetime]:
        self._seen = (self._root.stat().st_mtime_ns, wall())
        found = {}
        for entry in os.scandir(self._root):
            with suppress(FileNotFoundError):
                found[entry.name] = from_micros(entry.stat().st_mtime_ns // 1000)
        return found

    def changed(self) -> bool:
        # A pack that came in the tick of the clock in which the folder was listed leaves the folder's time as it was.
        now = self._root.stat().st_mtime_ns
        return self._seen is None or now != self._seen[0] or now / 1e9 > self._seen[1] - _TICK_S

    def read(self, name: str, at: int, size: int) -> bytes:
        descriptor = os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, size, at)
            while len(data) < size and (more := os.pread(descriptor, size - len(data), at + len(data))):
                data += more  # a read gives at most 2 GB
            return data
        finally:
            os.close(descriptor)

    def size(self, name: str) -> int:
        return (self._root / name).stat().st_size

    def put(self, name: str, path: Path) -> None:
        target = self._root / name
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, _READ_ONLY)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with _locked(self._store, fcntl.LOCK_SH):
            path.rename(target)
            os.utime(target)
        sync_directory(self._root)

    def renew(self, name: str) -> bool:
        try:
            os.utime(self._root / name)
        except FileNotFoundError:
            return False
        return True

    def remove(self, name: str, *, stored_before: datetime | None) -> bool:
        path = self._root / name
        with _locked(self._store, fcntl.LOCK_EX):
            try:
                if stored_before is not None and path.stat().st_mtime_ns // 1000 >= micros(stored_before):
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
        return True


def open_local(place: str, *, cache: Path, base: Path) -> LocalStore:
    """Open `file:FOLDER`; a relative folder lies under base."""
    return LocalStore(base / place.removeprefix("//"), cache=cache)
