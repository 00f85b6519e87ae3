"""An object store in a bucket that speaks S3, through obstore; what was read is kept, verified, in a local cache.

`s3://BUCKET/PREFIX?endpoint=URL&region=…&access_key_id=…&secret_access_key=…&session_token=…`. What the URL leaves out comes
from the places where every S3 client looks (AWS_* in the environment, instance roles).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

from tidemill.core.clock import micros, wall
from tidemill.core.digest import Hasher, digest_bytes
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest
from tidemill.store.local import LocalStore
from tidemill.store.objects import ObjectCorrupt, ObjectNotFound, Stored, StoreRefused, check_digest, chunks_of, verified

if TYPE_CHECKING:
    from obstore.store import S3Store as Bucket

OPTIONS = frozenset({"endpoint", "region", "access_key_id", "secret_access_key", "session_token"})
PART_BYTES = 8 << 20
PARTS_AT_ONCE = 4
# An object that is there already and younger than this is not written again: `gc` must not be told a grace below it.
FRESH = timedelta(minutes=30)


class S3Store:
    """Objects in a bucket, under `PREFIX/objects/ab/cdef…`: the layout of a local store, so that either can be synced to the other.

    A small object is put on the condition that none is there; a large one goes up in parts and appears when the last is
    acknowledged. Parts of uploads that died are invisible; a lifecycle rule of the bucket removes them.
    """

    def __init__(self, bucket: "Bucket", *, where: str, cache: LocalStore) -> None:
        self._bucket, self._where, self._cache = bucket, where, cache

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

    def adopt(self, path: Path, digest: Digest) -> None:
        if path.stat().st_size <= PART_BYTES:
            data = path.read_bytes()
            if (found := digest_bytes(data)) != digest:
                raise ObjectCorrupt(digest, found, f"file {path}")
            self._put_small(digest, data)
        else:
            self._upload(digest, chunks_of(path))
        path.unlink()

    def open(self, digest: Digest) -> BinaryIO:
        return verified(self._download(digest), digest, self._where)

    def get(self, digest: Digest) -> bytes:
        data = b"".join(self._download(digest))
        if (found := digest_bytes(data)) != digest:
            raise ObjectCorrupt(digest, found, self._where)
        return data

    def local_path(self, digest: Digest) -> Path:
        if not self._cache.has(digest):
            try:
                self._cache.put_chunks(self._download(digest), expected=digest)
            except ObjectCorrupt as error:
                raise ObjectCorrupt(digest, error.found, self._where) from None
        return self._cache.local_path(digest)

    def has(self, digest: Digest) -> bool:
        return self._head(digest) is not None

    def size(self, digest: Digest) -> int:
        head = self._head(digest)
        if head is None:
            raise ObjectNotFound(digest, self._where)
        return int(head["size"])

    def stored(self) -> Iterator[Stored]:
        with self._asking():
            for page in self._bucket.list("objects", chunk_size=1000):
                for meta in page:
                    name = meta["path"].removeprefix("objects/").replace("/", "", 1)
                    try:
                        digest = check_digest(name)
                    except Invalid:
                        continue  # something else lies under the prefix
                    yield Stored(digest=digest, size_bytes=meta["size"], stored_at=meta["last_modified"])

    def digests(self) -> Iterator[Digest]:
        for entry in self.stored():
            yield entry.digest

    def delete(self, digest: Digest, *, stored_before: datetime | None = None) -> bool:
        # S3 cannot delete on the condition of an age, so a put between these two calls may lose its object: FRESH, and a
        # grace above it, keep that to a put of bytes that nobody has used for that long, in these milliseconds.
        head = self._head(digest)
        if head is None or (stored_before is not None and head["last_modified"] >= stored_before):
            return False
        with self._asking():
            self._bucket.delete(_key(digest))
        self._cache.delete(digest)
        return True

    def sweep(self, older_than: timedelta) -> int:
        return self._cache.sweep(older_than)

    def _put_small(self, digest: Digest, data: bytes) -> None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._asking():
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

        with self._asking():
            self._bucket.put(_key(digest), parts(), use_multipart=True, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

    def _download(self, digest: Digest) -> Iterator[bytes]:
        check_digest(digest)
        with self._asking():
            try:
                answer = self._bucket.get(_key(digest))
            except FileNotFoundError:
                raise ObjectNotFound(digest, self._where) from None

        def chunks() -> Iterator[bytes]:
            with self._asking():
                for chunk in answer.stream(min_chunk_size=1 << 20):
                    yield bytes(chunk)

        return chunks()

    def _head(self, digest: Digest) -> Any:
        check_digest(digest)
        with self._asking():
            try:
                return self._bucket.head(_key(digest))
            except FileNotFoundError:
                return None

    def _fresh(self, digest: Digest) -> bool:
        head = self._head(digest)
        return head is not None and micros(head["last_modified"]) / 1e6 > wall() - FRESH.total_seconds()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StoreRefused(self._where, "the service denies access; check the access key and the bucket's policy") from error
        except FileNotFoundError as error:
            raise StoreRefused(self._where, "there is no such bucket; create it, or correct the URL (setting 'objects')") from error
        except BaseError as error:
            reason = f"the service did not do what was asked ({_first_line(error)}); check that it runs and that the bucket exists"
            raise StoreRefused(self._where, reason) from error


def open_s3(place: str, *, cache: Path, base: Path) -> S3Store:
    """Open `s3://BUCKET/PREFIX?…`. Raises Invalid for an unknown option."""
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
    return S3Store(bucket, where=where, cache=LocalStore(cache))


def _key(digest: Digest) -> str:
    return f"objects/{digest[:2]}/{digest[2:]}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
