"""Many objects put together: small ones into packs, large ones that resemble an older one as recipes, all else one by one."""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tidemill.core.digest import digest_bytes, digest_file
from tidemill.core.errors import Conflict
from tidemill.core.ids import Digest
from tidemill.store.objects import ObjectCorrupt, Payload, chunks_of
from tidemill.store.packed import Packed
from tidemill.store.packs import PLAIN, RECIPE, PackWriter
from tidemill.store.recipes import DEEPEST, LEAST_BYTES, Base, write_recipe

SMALL_BYTES = 1 << 20
"""Objects up to which go into packs."""
_PACK_BYTES = 512 << 20
_GROUP_BYTES = 16 << 20
_GROUP = 1000


class Keeper(Protocol):
    """The store that a batch is for."""

    @property
    def packed(self) -> Packed: ...

    @property
    def scratch(self) -> Path:
        """A folder for files that are being written."""
        ...

    def renew_all(self, digests: Iterable[Digest]) -> set[Digest]:
        """Make objects young; return those that are there."""
        ...

    def put_file(self, path: Path) -> Digest: ...

    def local_path(self, digest: Digest) -> Path: ...

    def has(self, digest: Digest) -> bool: ...


class PackBatch:
    """A batch: the law is `objects.Batch`'s."""

    def __init__(self, store: Keeper) -> None:
        self._store = store
        self._group: dict[Digest, bytes] = {}
        self._group_bytes = 0
        self._written: set[Digest] = set()
        self._writer: PackWriter | None = None
        self.new_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
                self._seal()
        finally:
            if self._writer is not None:
                self._writer.__exit__(kind, error, trace)

    def put(self, data: bytes) -> Digest:
        digest = digest_bytes(data)
        if digest not in self._written and digest not in self._group:
            self._group[digest] = data
            self._group_bytes += len(data)
            if self._group_bytes > _GROUP_BYTES or len(self._group) >= _GROUP:
                self._flush()
        return digest

    def put_file(self, path: Path, *, like: Digest | None = None) -> Digest:
        data = _small(path)
        if data is not None:
            return self.put(data)
        if like is not None and path.stat().st_size >= LEAST_BYTES and self._store.has(like):
            before = _stamp(path)
            digest = digest_file(path)
            if digest in self._store.renew_all([digest]) or digest in self._written or self._put_recipe(path, digest, like):
                if _stamp(path) != before:
                    raise Conflict(f"file {path} changed while it was read; try again when nobody writes to it")
                return digest
        digest = self._store.put_file(path)
        self.new_bytes += path.stat().st_size
        return digest

    def put_payload(self, payload: Payload) -> None:
        if not payload.recipe and (found := digest_bytes(payload.data)) != payload.digest:
            raise ObjectCorrupt(payload.digest, found, "what was received")
        if payload.digest not in self._written:
            self._add(payload.digest, payload.data, kind=RECIPE if payload.recipe else PLAIN, size=payload.size)

    def _put_recipe(self, path: Path, digest: Digest, like: Digest) -> bool:
        recipe = self._store.packed.recipe(like)
        while recipe is not None and recipe.depth >= DEEPEST:
            like = recipe.foundation
            recipe = self._store.packed.recipe(like)
        payload = write_recipe(path, Base(like, self._store.local_path(like), recipe))
        if payload is None:
            return False
        self._add(digest, payload, kind=RECIPE, size=path.stat().st_size)
        return True

    def _flush(self) -> None:
        """Write the group's objects that are not there yet."""
        there = self._store.renew_all(self._group)
        for digest, data in self._group.items():
            if digest not in there:
                self._add(digest, data)
        self._group, self._group_bytes = {}, 0

    def _add(self, digest: Digest, data: bytes, *, kind: int = PLAIN, size: int | None = None) -> None:
        if self._writer is None:
            self._writer = PackWriter(self._store.scratch / f"{os.getpid()}-{secrets.token_hex(8)}")
        self._writer.add(digest, data, kind=kind, size=size)
        self._written.add(digest)
        self.new_bytes += len(data)
        if self._writer.size_bytes > _PACK_BYTES:
            self._seal()

    def _seal(self) -> None:
        if self._writer is not None and len(self._writer):
            name, path = self._writer.finish()
            self._store.packed.packs.shelf.put(name, path)
            self._writer.__exit__(None, None, None)
            self._writer = None


def _small(path: Path) -> bytes | None:
    """Return the content of a small file, None for a larger one. Raises NotFound, Unavailable, Conflict."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        next(chunks_of(path), None)  # says what is wrong
        raise
    try:
        size = os.fstat(descriptor).st_size
        if size > SMALL_BYTES:
            return None
        data = os.read(descriptor, size + 1)
    except IsADirectoryError:
        next(chunks_of(path), None)
        raise
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise Conflict(f"file {path} changed while it was read; try again when nobody writes to it")
    return data


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
