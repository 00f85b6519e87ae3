"""An object store in a bucket that speaks S3, through obstore; what was read is kept, verified, in a local cache.

`s3://BUCKET/PREFIX?endpoint=URL&region=…&access_key_id=…&secret_access_key=…&session_token=…`. What the URL leaves out comes
from the places where every S3 client looks (AWS_* in the environment, instance roles).
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

from tidemill.core.clock import micros, wall
from tidemill.core.digest import Hasher, digest_bytes
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest
from tidemill.store.batch import PackBatch
from tidemill.store.local import LocalStore
from tidemill.store.objects import ObjectCorrupt, ObjectNotFound, Payload, Repacked, Stored, StoreRefused, check_digest, chunks_of, verified
from tidemill.store.packed import Packed

if TYPE_CHECKING:
    from obstore.store import S3Store as Bucket

OPTIONS = frozenset({"endpoint", "region", "access_key_id", "secret_access_key", "session_token"})
PART_BYTES = 8 << 20
PARTS_AT_ONCE = 4
# An object that is there already and younger than this is not written again: `gc` must not be told a grace below it.
FRESH = timedelta(minutes=30)
_YOUNG = ".young"
_ASKED_FOR_ONE_BY_ONE = 16


class S3Store:
    """Objects in a bucket, under `PREFIX/objects/ab/cdef…`: the layout of a local store, so that either can be synced to the other.

    A small object is put on the condition that none is there; a large one goes up in parts and appears when the last is
    acknowledged. Parts of uploads that died are invisible; a lifecycle rule of the bucket removes them.
    """

    def __init__(self, bucket: "Bucket", *, where: str, cache: LocalStore) -> None:
        self._bucket, self._where, self._cache = bucket, where, cache
        self.packed = Packed(_Folder(bucket, where), self._read_loose)

    def __repr__(self) -> str:
        return f"S3Store({self._where!r})"

    def put(self, data: bytes) -> Digest:
        digest = digest_bytes(data)
        if len(data) > PART_BYTES:
            self._upload(digest, iter(memoryview(data)[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)))
        else:
            self._put_small(digest, data)
        return digest

    def put_file(self, path: Path) -> Digest:
        hasher = Hasher()
        for chunk in chunks_of(path):
            hasher.update(chunk)
        digest = hasher.digest()
        if hasher.size_bytes <= PART_BYTES:
            data = path.read_bytes()
            if (found := digest_bytes(data)) != digest:
                raise ObjectCorrupt(digest, found, f"file {path}, which changed while it was stored")
            self._put_small(digest, data)
        else:
            self._upload(digest, chunks_of(path))
        return digest

    def put_chunks(self, chunks: Iterable[bytes], *, expected: Digest) -> Digest:
        left = iter(chunks)
        first = bytearray()
        for chunk in left:
            first += chunk
            if len(first) > PART_BYTES:
                self._upload(expected, chain([bytes(first)], left))
                return expected
        if (found := digest_bytes(bytes(first))) != expected:
            raise ObjectCorrupt(expected, found, "what was received")
        self._put_small(expected, bytes(first))
        return expected

    def adopt(self, path: Path, digest: Digest) -> None:
        if path.stat().st_size <= PART_BYTES:
            data = path.read_bytes()
            if (found := digest_bytes(data)) != digest:
                raise ObjectCorrupt(digest, found, f"file {path}")
            self._put_small(digest, data)
        else:
            self._upload(digest, chunks_of(path))
        path.unlink()

    @property
    def scratch(self) -> Path:
        return self._cache.scratch

    def open(self, digest: Digest) -> BinaryIO:
        return verified(self._chunks(digest), digest, self._where)

    def get(self, digest: Digest) -> bytes:
        data = b"".join(self._chunks(digest))
        if (found := digest_bytes(data)) != digest:
            raise ObjectCorrupt(digest, found, self._where)
        return data

    def get_many(self, digests: Iterable[Digest]) -> Iterator[tuple[Digest, bytes]]:
        return self.packed.get_many(digests, where=self._where, get=self.get)

    def payloads(self, digests: Iterable[Digest]) -> Iterator[Payload]:
        return self.packed.payloads(list(digests))

    def read_at(self, digest: Digest, at: int, size: int) -> bytes:
        data = self.packed.read_at(digest, at, size) if self.packed.find(digest, look=False) is not None else None
        if data is None:
            data = self._read_loose(check_digest(digest), at, size)
        if data is None:
            data = self.packed.read_at(digest, at, size)
        if data is None:
            raise ObjectNotFound(digest, self._where)
        return data

    def _read_loose(self, digest: Digest, at: int, size: int) -> bytes | None:
        if self._cache.has(digest):
            return self._cache.read_at(digest, at, size)
        with _asking(self._where):
            try:
                return bytes(self._bucket.get_range(_key(digest), start=at, length=size)) if size else b""
            except FileNotFoundError:
                return None

    def batch(self) -> PackBatch:
        return PackBatch(self)

    def made_of(self, digests: Iterable[Digest]) -> set[Digest]:
        return self.packed.closure(list(digests))

    def renew_all(self, digests: Iterable[Digest]) -> set[Digest]:
        """Make objects young; return those that are there, of many of them only those in packs: the others are put again."""
        asked = list(digests)
        entries = self.packed.packs.find_all(asked)
        packs = {name: self.packed.packs.shelf.renew(name) for name in {entry.pack for entry in entries.values()}}
        there = {digest for digest, entry in entries.items() if packs[entry.pack]}
        return there | ({digest for digest in asked if self._fresh(digest)} if len(asked) <= _ASKED_FOR_ONE_BY_ONE else set())

    def local_path(self, digest: Digest) -> Path:
        if not self._cache.has(digest):
            try:
                self._cache.put_chunks(self._chunks(digest), expected=digest)
            except ObjectCorrupt as error:
                raise ObjectCorrupt(digest, error.found, self._where) from None
        return self._cache.local_path(digest)

    def has(self, digest: Digest) -> bool:
        return self.packed.find(digest, look=False) is not None or self._head(digest) is not None or self.packed.find(digest) is not None

    def size(self, digest: Digest) -> int:
        head = None
        entry = self.packed.find(digest, look=False)
        if entry is None and (head := self._head(digest)) is None:
            entry = self.packed.find(digest)
        if entry is not None:
            return entry.size
        if head is None:
            raise ObjectNotFound(digest, self._where)
        return int(head["size"])

    def stored(self) -> Iterator[Stored]:
        with _asking(self._where):
            for page in self._bucket.list("objects", chunk_size=1000):
                for meta in page:
                    name = meta["path"].removeprefix("objects/").replace("/", "", 1)
                    try:
                        digest = check_digest(name)
                    except Invalid:
                        continue  # something else lies under the prefix
                    yield Stored(digest=digest, size_bytes=meta["size"], stored_at=meta["last_modified"])
        yield from self.packed.packs.stored()

    def digests(self) -> Iterator[Digest]:
        for entry in self.stored():
            yield entry.digest

    def delete(self, digest: Digest, *, stored_before: datetime | None = None) -> bool:
        # S3 cannot delete on the condition of an age, so a put between these two calls may lose its object: FRESH, and a
        # grace above it, keep that to a put of bytes that nobody has used for that long, in these milliseconds.
        head = self._head(digest)
        if head is None:
            return self.packed.packs.drop(digest, stored_before=stored_before, scratch=self.scratch)
        if stored_before is not None and head["last_modified"] >= stored_before:
            return False
        with _asking(self._where):
            self._bucket.delete(_key(digest))
        self._cache.delete(digest)
        return True

    def repack(self, keep: Container[Digest], *, stored_before: datetime) -> Repacked:
        return self.packed.repack(keep, stored_before=stored_before, scratch=self.scratch)

    def sweep(self, older_than: timedelta) -> int:
        return self._cache.sweep(older_than)

    def _put_small(self, digest: Digest, data: bytes) -> None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with _asking(self._where):
            try:
                self._bucket.put(_key(digest), data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                if not self._fresh(digest):
                    self._bucket.put(_key(digest), data, use_multipart=False)

    def _upload(self, digest: Digest, chunks: Iterator[bytes] | Iterator[memoryview]) -> None:
        if self._fresh(digest):
            return

        def parts() -> Iterator[bytes | memoryview]:
            hasher = Hasher()
            for chunk in chunks:
                hasher.update(chunk)
                yield chunk
            if (found := hasher.digest()) != digest:  # before the last part is acknowledged: the upload is given up, nothing appears
                raise ObjectCorrupt(digest, found, "what was read, which changed while it was stored")

        with _asking(self._where):
            self._bucket.put(_key(digest), parts(), use_multipart=True, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

    def _chunks(self, digest: Digest) -> Iterator[bytes]:
        """Return an object's bytes, from a pack that is known, from its own place, or from a pack that is not known yet."""
        check_digest(digest)
        chunks = self.packed.chunks(digest) if self.packed.find(digest, look=False) is not None else None
        if chunks is None:
            try:
                return self._download(digest)
            except ObjectNotFound:
                chunks = self.packed.chunks(digest)
                if chunks is None:
                    raise
        return chunks

    def _download(self, digest: Digest) -> Iterator[bytes]:
        check_digest(digest)
        with _asking(self._where):
            try:
                answer = self._bucket.get(_key(digest))
            except FileNotFoundError:
                raise ObjectNotFound(digest, self._where) from None

        def chunks() -> Iterator[bytes]:
            with _asking(self._where):
                for chunk in answer.stream(min_chunk_size=1 << 20):
                    yield bytes(chunk)

        return chunks()

    def _head(self, digest: Digest) -> Any:
        check_digest(digest)
        with _asking(self._where):
            try:
                return self._bucket.head(_key(digest))
            except FileNotFoundError:
                return None

    def _fresh(self, digest: Digest) -> bool:
        head = self._head(digest)
        return head is not None and micros(head["last_modified"]) / 1e6 > wall() - FRESH.total_seconds()


@contextmanager
def _asking(where: str, *, missing: bool = False) -> Iterator[None]:
    """Turn what the service says no to into StoreRefused. missing: that there is no such object is told as it is."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise StoreRefused(where, "the service denies access; check the access key and the bucket's policy") from error
    except FileNotFoundError as error:
        if missing:
            raise
        raise StoreRefused(where, "there is no such bucket; create it, or correct the URL (setting 'objects')") from error
    except BaseError as error:
        reason = f"the service did not do what was asked ({_first_line(error)}); check that it runs and that the bucket exists"
        raise StoreRefused(where, reason) from error


class _Folder:
    """The packs of a bucket: `PREFIX/packs/DIGEST`. Beside one that was put again lies an empty DIGEST.young: S3 cannot renew an age."""

    def __init__(self, bucket: "Bucket", where: str) -> None:
        self._bucket, self._where = bucket, where

    def packs(self) -> Mapping[str, datetime]:
        found: dict[str, datetime] = {}
        renewed: dict[str, datetime] = {}
        with _asking(self._where):
            for page in self._bucket.list("packs", chunk_size=1000):
                for meta in page:
                    name = meta["path"].removeprefix("packs/")
                    (renewed if name.endswith(_YOUNG) else found)[name.removesuffix(_YOUNG)] = meta["last_modified"]
        return {name: max(moment, renewed.get(name, moment)) for name, moment in found.items()}

    def changed(self) -> bool:
        return True

    def read(self, name: str, at: int, size: int) -> bytes:
        if not size:
            return b""
        with _asking(self._where, missing=True):
            return bytes(self._bucket.get_range(f"packs/{name}", start=at, length=size))

    def size(self, name: str) -> int:
        with _asking(self._where, missing=True):
            return int(self._bucket.head(f"packs/{name}")["size"])

    def put(self, name: str, path: Path) -> None:
        with _asking(self._where):
            self._bucket.put(f"packs/{name}", path, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
        path.unlink()

    def renew(self, name: str) -> bool:
        with _asking(self._where):
            try:
                head = self._bucket.head(f"packs/{name}")
                if micros(head["last_modified"]) / 1e6 <= wall() - FRESH.total_seconds():
                    self._bucket.put(f"packs/{name}{_YOUNG}", b"")
            except FileNotFoundError:
                return False
        return True

    def remove(self, name: str, *, stored_before: datetime | None) -> bool:
        age = self.packs().get(name)
        if age is None or (stored_before is not None and age >= stored_before):
            return False
        with _asking(self._where):
            self._bucket.delete([f"packs/{name}", f"packs/{name}{_YOUNG}"])
        return True


def open_s3(place: str, *, cache: Path, base: Path) -> S3Store:
    """Open `s3://BUCKET/PREFIX?…`. Raises Invalid for an unknown option."""
    bucket, where = _open_bucket(place)
    return S3Store(bucket, where=where, cache=LocalStore(cache))


class S3Refs:
    """Refs as objects `PREFIX/refs/NAME`, each put on the condition that none is there."""

    def __init__(self, bucket: "Bucket", where: str) -> None:
        self._bucket, self._where = bucket, where

    def names(self, prefix: str) -> list[str]:
        with _asking(self._where):
            pages = self._bucket.list(f"refs/{prefix}".rstrip("/"), chunk_size=1000)
            return sorted(meta["path"].removeprefix("refs/") for page in pages for meta in page)

    def get(self, name: str) -> bytes | None:
        with _asking(self._where):
            try:
                return bytes(self._bucket.get(f"refs/{name}").bytes())
            except FileNotFoundError:
                return None

    def put_new(self, name: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with _asking(self._where):
            try:
                self._bucket.put(f"refs/{name}", data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True


def open_s3_refs(place: str, *, base: Path) -> S3Refs:
    """Open the refs of `s3://BUCKET/PREFIX?…`. Raises Invalid for an unknown option."""
    return S3Refs(*_open_bucket(place))


def _open_bucket(place: str) -> tuple["Bucket", str]:
    from obstore.store import S3Store as Bucket

    parts = urlsplit(f"s3:{place}")
    options = dict(parse_qsl(parts.query))
    if strange := sorted(set(options) - OPTIONS):
        raise Invalid(f"object store URL has unknown options {', '.join(strange)}; known are: {', '.join(sorted(OPTIONS))}")
    if not parts.netloc:
        raise Invalid(f"object store URL 's3:{place}' names no bucket; expected s3://BUCKET/PREFIX?endpoint=URL")
    where = f"s3://{parts.netloc}{parts.path}"
    if endpoint := options.get("endpoint"):
        where += f" at {endpoint}"
    bucket = Bucket(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        config=options,  # type: ignore[arg-type]  # a TypedDict of exactly these names
        client_options={"allow_http": options.get("endpoint", "").startswith("http:"), "connect_timeout": "5s", "timeout": "120s"},
        # obstore's own default waits three minutes for a service that is not there.
        retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=20)},
    )
    return bucket, where


def _key(digest: Digest) -> str:
    return f"objects/{digest[:2]}/{digest[2:]}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
