"""What an object store is: bytes named by the digest of their content. Where they lie is said by `local` and `s3`."""

import errno
import io
import re
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol, Self

from tidemill.core.digest import CHUNK_BYTES, Hasher, in_passing
from tidemill.core.errors import Corrupt, Invalid, NotFound, Unavailable
from tidemill.core.ids import Digest
from tidemill.core.values import Value

_DIGEST = re.compile(r"[0-9a-f]{64}")
_REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space, or move the store (setting 'objects')",
    errno.EDQUOT: "the disk quota is used up; free some space, or move the store (setting 'objects')",
    errno.EROFS: "the disk is read-only; mount it for writing, or move the store (setting 'objects')",
    errno.EACCES: "this user may not write there; change the owner of the folder, or move the store (setting 'objects')",
    errno.EPERM: "this user may not write there; change the owner of the folder, or move the store (setting 'objects')",
    errno.EFBIG: "the file would be larger than this process or file system allows; raise the limit (ulimit -f)",
    errno.EIO: "the disk reports an input/output error; check the disk",
    errno.EMFILE: "this process has too many open files; raise the limit (ulimit -n)",
    errno.ENOTDIR: "something on the way to it is not a folder; expected a folder (setting 'objects')",
}


class Stored(Value, frozen=True, kw_only=True):
    """One object as its store lists it. size_bytes: that it takes; stored_at: the real time of the newest put of these bytes.

    packed: it lies in a file with others, as young as the youngest of them.
    """

    digest: Digest
    size_bytes: int
    stored_at: datetime
    packed: bool = False


class Repacked(NamedTuple):
    """How many objects went out of packs, the bytes that they had, and the bytes that the packs are smaller by."""

    removed: int
    removed_bytes: int
    freed_bytes: int


class Payload(NamedTuple):
    """One object as it lies in a pack: its bytes, or the recipe that they are made by, and how many they are."""

    digest: Digest
    data: bytes
    recipe: bool
    size: int


class Batch(Protocol):
    """Puts of one thread that are there, all of them, once the block has ended; when an error leaves it, none need be.

    The same bytes put twice, or there already, are one object. Uses bounded memory, whatever the number and size.
    """

    @property
    def new_bytes(self) -> int:
        """How many bytes the store has grown by so far, or will have."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def put(self, data: bytes) -> Digest:
        """Put a few bytes."""
        ...

    def put_file(self, path: Path, *, like: Digest | None = None) -> Digest:
        """Put a file's content; like: an older object that it may resemble.

        Raises NotFound, Unavailable, and Conflict for a file that changes while it is read.
        """
        ...

    def put_payload(self, payload: Payload) -> None:
        """Put what a pack of another store has of an object. Raises ObjectCorrupt for bytes that are not it; a recipe is believed."""
        ...


class ObjectStore(Protocol):
    """Immutable bytes, each named by its BLAKE3 digest. The law for every implementation:

    - Every method may be called from several threads and processes at once.
    - A put is atomic and durable: when it returns, the object survives a power cut (a bucket: is acknowledged); a writer
      that dies in mid-put leaves nothing that any method shows. The same bytes put twice are one object.
    - A put, of bytes that are there already too, makes the object young, so that `gc` spares it for its grace.
    - What is put in a batch is there once its block has ended. Small objects then share a file; a large one may be told as what it has
      in common with an older one, and then needs that.
    - put_file, adopt, open and local_path use bounded memory, whatever the size.
    - Bytes handed out by `get`, by `open` read to its end, or behind a fresh `local_path` of a remote store are verified:
      Corrupt names the digest. A remote store may cache what it has verified.
    - An unknown digest is NotFound, a malformed one Invalid, a store that cannot be written or reached Unavailable.
    """

    def put(self, data: bytes) -> Digest:
        """Store bytes and return their digest."""
        ...

    def put_file(self, path: Path) -> Digest:
        """Store a file's content and return its digest. Raises NotFound when there is no such file."""
        ...

    def put_chunks(self, chunks: Iterable[bytes], *, expected: Digest) -> Digest:
        """Store the bytes of chunks one after the other. Raises ObjectCorrupt when they are not what expected names."""
        ...

    def adopt(self, path: Path, digest: Digest) -> None:
        """Store a file of the caller's own and take it away: it is moved where that is possible, not read again.

        digest is what the caller found while it wrote the file.
        """
        ...

    def open(self, digest: Digest) -> BinaryIO:
        """Return a stream, read forwards only, that raises Corrupt at its end if the bytes are not what was stored."""
        ...

    def get(self, digest: Digest) -> bytes:
        """Return the verified bytes."""
        ...

    def get_many(self, digests: Iterable[Digest]) -> Iterator[tuple[Digest, bytes]]:
        """Yield small objects with their verified bytes, each once, in whatever order is quickest."""
        ...

    def payloads(self, digests: Iterable[Digest]) -> Iterator[Payload]:
        """Yield those objects that lie in packs, as they do."""
        ...

    def read_at(self, digest: Digest, at: int, size: int) -> bytes:
        """Return bytes from a place on, fewer at the object's end, unverified."""
        ...

    def batch(self) -> Batch:
        """Return a block for many puts."""
        ...

    def renew_all(self, digests: Iterable[Digest]) -> set[Digest]:
        """Make objects young; return those that are there. A bucket that is asked for many may leave out such as lie by themselves."""
        ...

    def made_of(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return the objects that others need to be read."""
        ...

    def local_path(self, digest: Digest) -> Path:
        """Return a local file that holds the bytes, to be read only. A local store hands out the object itself, unverified."""
        ...

    def has(self, digest: Digest) -> bool: ...

    def size(self, digest: Digest) -> int:
        """Return the size in bytes."""
        ...

    def stored(self) -> Iterator[Stored]:
        """List all objects, in no order. What is put or deleted meanwhile may or may not appear."""
        ...

    def digests(self) -> Iterator[Digest]:
        """List the digests of all objects, in no order."""
        ...

    def delete(self, digest: Digest, *, stored_before: datetime | None = None) -> bool:
        """Remove an object, if it is older than stored_before; return whether it was removed. An absent one is no error."""
        ...

    def repack(self, keep: Container[Digest], *, stored_before: datetime) -> Repacked:
        """Remove what is not to be kept from files that hold many objects and are older than stored_before, where that pays."""
        ...

    def sweep(self, older_than: timedelta) -> int:
        """Remove what writers that died that long ago left behind; return the bytes freed."""
        ...


class ObjectNotFound(NotFound):
    """No object of that digest."""

    def __init__(self, digest: Digest, where: str) -> None:
        self.digest, self.where = digest, where
        super().__init__(f"object {digest} is not in {where}; it was never stored there, or removed by gc")


class ObjectCorrupt(Corrupt):
    """The bytes under a digest have another digest."""

    def __init__(self, digest: Digest, found: Digest, where: str) -> None:
        self.digest, self.found, self.where = digest, found, where
        super().__init__(
            f"object {digest} in {where} is corrupt: its bytes have the digest {found[:12]}…; "
            "delete it and store the original again, or restore it from a backup"
        )


class StoreRefused(Unavailable):
    """The disk, or the service, behind a store says no."""

    def __init__(self, where: str, reason: str) -> None:
        self.where, self.reason = where, reason
        super().__init__(f"object store {where} cannot be used: {reason}")


def check_digest(digest: str) -> Digest:
    """Return digest if it is one. Raises Invalid: a digest becomes part of a path, so nothing else may pass."""
    if not _DIGEST.fullmatch(digest):
        raise Invalid(f"{digest[:80]!r} is not a digest; expected 64 hexadecimal digits in lower case")
    return Digest(digest)


@contextmanager
def refusing(where: str) -> Iterator[None]:
    """Turn what an operating system says of a store's disk into StoreRefused."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise StoreRefused(where, _REFUSALS[error.errno]) from error


def chunks_of(path: Path) -> Iterator[bytes]:
    """Yield a file's content in chunks. Raises NotFound or Unavailable when it cannot be opened."""
    try:
        file = path.open("rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise NotFound(f"file {path} cannot be stored: it does not exist, or is not a file") from error
    except PermissionError as error:
        raise Unavailable(f"file {path} cannot be stored: this user may not read it") from error
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


class VerifiedStream(io.RawIOBase):
    """Chunks as a file to be read forwards; at its end the digest of what passed is compared with the expected one."""

    def __init__(self, chunks: Iterable[bytes], digest: Digest, where: str) -> None:
        self._digest, self._where = digest, where
        self._hasher = Hasher()
        self._chunks = in_passing(chunks, self._hasher)
        self._left = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer has no name at run time
        while not self._left and not self._ended:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._ended = True
                if (found := self._hasher.digest()) != self._digest:
                    raise ObjectCorrupt(self._digest, found, self._where)
            else:
                self._left = memoryview(chunk)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        self._chunks.close()
        super().close()


def verified(chunks: Iterable[bytes], digest: Digest, where: str) -> BinaryIO:
    """Return chunks as a buffered stream that raises ObjectCorrupt at its end when they are not what digest names."""
    return io.BufferedReader(VerifiedStream(chunks, digest, where), buffer_size=CHUNK_BYTES)
