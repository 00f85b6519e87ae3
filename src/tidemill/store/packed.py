"""What a store keeps in packs: small objects that were put together, and large ones told as recipes. The same for a disk and a bucket."""

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TypeVar

from tidemill.core.digest import digest_bytes
from tidemill.core.errors import Corrupt
from tidemill.core.ids import Digest
from tidemill.store.objects import ObjectCorrupt, Payload, Repacked
from tidemill.store.packs import RECIPE, Entry, Packs, Shelf
from tidemill.store.recipes import Recipe

T = TypeVar("T")

_KEPT_RECIPES = 8
_TRIES = 3


class Packed:
    """The objects in the packs of one store. Safe from several threads."""

    def __init__(self, shelf: Shelf, read_loose: Callable[[Digest, int, int], bytes | None]) -> None:
        """read_loose: returns a part of an object that lies by itself, None when there is none; recipes are made of such, too."""
        self.packs = Packs(shelf)
        self._read_loose = read_loose
        self._recipes: OrderedDict[Digest, Recipe] = OrderedDict()
        self._lock = Lock()

    def find(self, digest: Digest, *, look: bool = True) -> Entry | None:
        """Return where an object lies, None when it is in no pack; without look, in none that is known already."""
        return self.packs.find(digest, look=look)

    def chunks(self, digest: Digest) -> Iterator[bytes] | None:
        """Return an object's bytes, unverified, in order; None when it is in no pack."""
        recipe = self.recipe(digest)
        if recipe is not None:
            return recipe.chunks()
        data = self._tried(digest, self.packs.read)
        return None if data is None else iter([data])

    def read_at(self, digest: Digest, at: int, size: int) -> bytes | None:
        """Return a part of an object, unverified; None when it is in no pack."""
        recipe = self.recipe(digest)
        if recipe is not None:
            return recipe.read(at, size)
        return self._tried(
            digest, lambda entry: self.packs.shelf.read(entry.pack, entry.at + min(at, entry.size), max(0, min(size, entry.size - at)))
        )

    def get_many(self, digests: Iterable[Digest], *, where: str, get: Callable[[Digest], bytes]) -> Iterator[tuple[Digest, bytes]]:
        """Yield objects with their verified bytes, each once: those in packs in the order in which they lie, then by get all others."""
        wanted = list(dict.fromkeys(digests))
        entries = self.packs.find_all(wanted)
        for digest, entry, data in self.packs.read_all(entries):
            whole = self._recipe(digest, entry).read(0, entry.size) if entry.kind == RECIPE else data
            if (found := digest_bytes(whole)) != digest:
                raise ObjectCorrupt(digest, found, where)
            yield digest, whole
        for digest in wanted:
            if digest not in entries:
                yield digest, get(digest)

    def payloads(self, digests: Sequence[Digest]) -> Iterator[Payload]:
        """Yield those objects that lie in packs, as they do."""
        for digest, entry, data in self.packs.read_all(self.packs.find_all(digests)):
            yield Payload(digest, data, entry.kind == RECIPE, entry.size)

    def recipe(self, digest: Digest) -> Recipe | None:
        """Return how an object is made of others, None for one that is not."""
        with self._lock:
            if digest in self._recipes:
                return self._recipes[digest]
        entry = self.packs.find(digest)
        if entry is None or entry.kind != RECIPE:
            return None
        return self._tried(digest, lambda entry: self._recipe(digest, entry))

    def closure(self, digests: Sequence[Digest]) -> set[Digest]:
        """Return objects without which some objects cannot be read, the objects themselves left out."""
        recipes = self.packs.recipes()
        found: set[Digest] = set()
        left = [digest for digest in digests if digest in recipes]
        while left:
            digest = left.pop()
            try:
                sources = self._recipe(digest, recipes[digest]).sources
            except Corrupt:
                continue  # `verify` names it
            left += [source for source in sources if source in recipes and source not in found]
            found.update(sources)
        return found

    def repack(self, keep: Container[Digest], *, stored_before: datetime, scratch: Path) -> Repacked:
        """Let go of what is not to be kept in packs that are old enough."""
        with self._lock:
            self._recipes.clear()
        return self.packs.collect(keep, stored_before=stored_before, scratch=scratch)

    def _read_source(self, digest: Digest, at: int, size: int) -> bytes:
        data = self._read_loose(digest, at, size)
        if data is None:
            data = self.read_at(digest, at, size)
        if data is None:
            raise Corrupt(f"object {digest}, which others are made of, is gone; restore it from a backup or a remote")
        return data

    def _tried(self, digest: Digest, work: Callable[[Entry], T]) -> T | None:
        """Do work with where an object lies, again where its pack was replaced meanwhile; None when it is in no pack."""
        for _ in range(_TRIES):
            entry = self.packs.find(digest)
            if entry is None:
                return None
            try:
                return work(entry)
            except FileNotFoundError:
                self.packs.refresh()
        return None

    def _recipe(self, digest: Digest, entry: Entry) -> Recipe:
        with self._lock:
            found = self._recipes.get(digest)
            if found is not None:
                self._recipes.move_to_end(digest)
                return found
        made = Recipe(digest, self.packs.read(entry), self._read_source)
        with self._lock:
            self._recipes[digest] = made
            while len(self._recipes) > _KEPT_RECIPES:
                self._recipes.popitem(last=False)
        return made
