"""Upkeep of an object store: `verify` re-reads everything, `gc` removes what nothing refers to."""

from collections.abc import Iterable
from datetime import timedelta

from tidemill.core.clock import from_micros, wall
from tidemill.core.codec import decode
from tidemill.core.digest import CHUNK_BYTES
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest
from tidemill.core.values import Value
from tidemill.store.objects import ObjectCorrupt, ObjectNotFound, ObjectStore
from tidemill.store.trees import MAGIC, Tree


class VerifyReport(Value, frozen=True, kw_only=True):
    """What re-reading a store found."""

    objects: int
    size_bytes: int
    corrupt: tuple[Digest, ...]

    @property
    def ok(self) -> bool:
        return not self.corrupt


class GcReport(Value, frozen=True, kw_only=True):
    """What a collection kept and freed. missing: digests that are referred to and not there.

    young: unused, but not for long enough, or in a file with others most of which are used.
    """

    live: int
    young: int
    young_bytes: int
    removed: int
    freed_bytes: int
    missing: tuple[Digest, ...]


def verify(store: ObjectStore) -> VerifyReport:
    """Read every object again and compare it with its digest."""
    objects = size_bytes = 0
    corrupt: list[Digest] = []
    for entry in store.stored():
        try:
            with store.open(entry.digest) as stream:
                while stream.read(CHUNK_BYTES):
                    pass
        except ObjectCorrupt:
            corrupt.append(entry.digest)
        except ObjectNotFound:
            continue  # deleted meanwhile
        objects += 1
        size_bytes += entry.size_bytes
    return VerifyReport(objects=objects, size_bytes=size_bytes, corrupt=tuple(sorted(corrupt)))


def gc(store: ObjectStore, live: Iterable[Digest], *, older_than: timedelta, leaves: Iterable[Digest] = ()) -> GcReport:
    """Remove the objects that neither live, leaves nor a tree in live names, if they are older than older_than.

    leaves are known to be no trees, so that nobody has to look.

    The age protects writers that have stored bytes and not yet recorded them. A tree named by live is followed, a tree named
    only by a tree is not (trees list files). Raises Invalid for a negative age.
    """
    if older_than < timedelta(0):
        raise Invalid(f"older_than must not be negative, got {older_than}")
    # Taken before marking: what is put from now on is younger, whatever the marking takes.
    stored_before = from_micros(int(wall() * 1e6)) - older_than
    marked, missing = _mark(store, live)
    marked.update(leaves)
    marked |= store.made_of(marked)
    kept = young = young_bytes = removed = freed = 0
    for entry in store.stored():
        if entry.digest in marked:
            kept += 1
        elif not entry.packed and entry.stored_at < stored_before and store.delete(entry.digest, stored_before=stored_before):
            removed += 1
            freed += entry.size_bytes
        else:
            young += 1
            young_bytes += entry.size_bytes
    packed = store.repack(marked, stored_before=stored_before)
    removed, freed = removed + packed.removed, freed + packed.freed_bytes + store.sweep(older_than)
    young, young_bytes = young - packed.removed, young_bytes - packed.removed_bytes
    return GcReport(live=kept, young=young, young_bytes=young_bytes, removed=removed, freed_bytes=freed, missing=tuple(sorted(missing)))


def _mark(store: ObjectStore, live: Iterable[Digest]) -> tuple[set[Digest], set[Digest]]:
    marked: set[Digest] = set()
    missing: set[Digest] = set()
    for digest in live:
        if digest in marked:
            continue
        marked.add(digest)
        try:
            marked.update(_files_of(store, digest))
        except ObjectNotFound:
            missing.add(digest)
    return marked, missing


def _files_of(store: ObjectStore, digest: Digest) -> tuple[Digest, ...]:
    with store.open(digest) as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            return ()
        data = MAGIC + stream.read()
    try:
        return tuple(entry.digest for entry in decode(data, Tree).entries)
    except Invalid:
        return ()  # a user's file that happens to begin like a tree
