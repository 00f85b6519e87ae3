"""Packs: files that hold many objects, so that twenty thousand of them are a few writes and a few requests.

A pack is the objects' bytes one after the other, then an index of them, then a foot that says where the index begins. Its name is the
digest of all of it. It is written whole, under a name that nobody looks at, and has its own name last, so that it is there or not.
"""

import secrets
import struct
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.core.digest import Hasher
from tidemill.core.errors import Corrupt
from tidemill.core.ids import Digest
from tidemill.store.objects import Repacked, Stored, check_digest

PLAIN, RECIPE = 0, 1
"""What an object's bytes in a pack are: the object itself, or how it is made of others."""

_MAGIC = b"tidepack"
_FOOT = struct.Struct("<QQQ8s")  # where the index begins, how many objects, the form, the magic
_FORM = 1
_ROW = np.dtype([("digest", "V32"), ("at", "<u8"), ("stored", "<u8"), ("size", "<u8"), ("kind", "<u8")])
_WRITE_BYTES = 4 << 20
_READ_BYTES = 8 << 20
_WORTH_REWRITING = 0.5


class Shelf(Protocol):
    """Where packs lie. The law: names are digests; put is atomic and durable, and makes a pack that is there already young."""

    def packs(self) -> Mapping[str, datetime]:
        """Return the names of all packs, and when each was last put."""
        ...

    def changed(self) -> bool:
        """Return whether packs may have come or gone since `packs` was asked last."""
        ...

    def read(self, name: str, at: int, size: int) -> bytes:
        """Return bytes of a pack. Raises FileNotFoundError when it is gone."""
        ...

    def size(self, name: str) -> int: ...

    def put(self, name: str, path: Path) -> None:
        """Keep a file of the caller's as a pack, and take it away."""
        ...

    def renew(self, name: str) -> bool:
        """Make a pack young; return False when it is gone."""
        ...

    def remove(self, name: str, *, stored_before: datetime | None) -> bool:
        """Remove a pack if it is that old; return whether it was removed."""
        ...


class Entry(NamedTuple):
    """One object in a pack: where its bytes begin, how many they are, and how many the object itself has."""

    pack: str
    at: int
    stored: int
    size: int
    kind: int


class _Index:
    """What one pack holds, sorted by digest."""

    def __init__(self, name: str, rows: NDArray[np.void], size_bytes: int) -> None:
        self.name, self.rows, self.size_bytes = name, rows, size_bytes
        self.digests = rows["digest"].tobytes()
        self.heads = _heads(np.frombuffer(self.digests, dtype=np.uint8).reshape(-1, 32))

    def find(self, raw: bytes) -> int:
        """Return the place of a digest, -1 when it is not here."""
        head = int.from_bytes(raw[:8], "big")
        place = int(self.heads.searchsorted(np.uint64(head)))
        while place < len(self.heads) and int(self.heads[place]) == head:
            if self.digests[place * 32 : place * 32 + 32] == raw:
                return place
            place += 1
        return -1

    def entry(self, place: int) -> Entry:
        row = self.rows[place]
        return Entry(self.name, int(row["at"]), int(row["stored"]), int(row["size"]), int(row["kind"]))

    def digest(self, place: int) -> Digest:
        return Digest(self.digests[place * 32 : place * 32 + 32].hex())


class Packs:
    """The packs of a shelf. Safe from several threads, and beside other processes that put and remove packs."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._indexes: dict[str, _Index] = {}
        self._lock = Lock()

    def find(self, digest: Digest, *, look: bool = True) -> Entry | None:
        """Return where an object lies, None when it is in no pack; without look, in none that is known already."""
        raw = bytes.fromhex(check_digest(digest))
        for again in (False, True):
            if again and not (look and self.refresh()):
                break
            for index in self._known():
                place = index.find(raw)
                if place >= 0:
                    return index.entry(place)
        return None

    def find_all(self, digests: Sequence[Digest]) -> dict[Digest, Entry]:
        """Return where those objects lie that are in packs."""
        self.refresh()
        found: dict[Digest, Entry] = {}
        if not digests:
            return found
        raws = np.frombuffer(bytes.fromhex("".join(digests)), dtype=np.uint8).reshape(-1, 32)
        heads = _heads(raws)
        for index in self._known():
            places = index.heads.searchsorted(heads)
            maybe = np.flatnonzero(index.heads[np.minimum(places, len(index.heads) - 1)] == heads) if len(index.heads) else ()
            for number in map(int, maybe):
                place = index.find(raws[number].tobytes())
                if place >= 0:
                    found.setdefault(digests[number], index.entry(place))
        return found

    def read(self, entry: Entry) -> bytes:
        """Return the bytes of an object as they lie in its pack. Raises FileNotFoundError when the pack is gone."""
        return self.shelf.read(entry.pack, entry.at, entry.stored)

    def read_all(self, entries: Mapping[Digest, Entry]) -> Iterator[tuple[Digest, Entry, bytes]]:
        """Yield objects and their bytes, in the order in which they lie: neighbours are read together."""
        ordered = sorted(entries.items(), key=lambda each: (each[1].pack, each[1].at))
        first = 0
        while first < len(ordered):
            start = ordered[first][1]
            last, end = first, start.at
            while last < len(ordered) and (there := ordered[last][1]).pack == start.pack and there.at == end:
                if last > first and end + there.stored - start.at > _READ_BYTES:
                    break
                end += there.stored
                last += 1
            try:
                block = self.shelf.read(start.pack, start.at, end - start.at)
            except FileNotFoundError:  # another pack has what was live in it
                yield from self.read_all(self.find_all([digest for digest, _ in ordered[first:]]))
                return
            for digest, entry in ordered[first:last]:
                yield digest, entry, block[entry.at - start.at : entry.at - start.at + entry.stored]
            first = last

    def stored(self) -> Iterator[Stored]:
        """List what packs hold; an object is as old as its pack."""
        self.refresh()
        ages = self.shelf.packs()
        for index in self._known():
            if index.name in ages:
                for place in range(len(index.rows)):
                    size = int(index.rows[place]["stored"])
                    yield Stored(digest=index.digest(place), size_bytes=size, stored_at=ages[index.name], packed=True)

    def recipes(self) -> dict[Digest, Entry]:
        """Return the objects that are made of others."""
        self.refresh()
        return {
            index.digest(int(place)): index.entry(int(place))
            for index in self._known()
            for place in np.flatnonzero(index.rows["kind"] == RECIPE)
        }

    def collect(self, keep: Container[Digest], *, stored_before: datetime, scratch: Path) -> Repacked:
        """Let go of what is not to be kept in packs that are old enough.

        A pack of which more than half is kept stays as it is: what is dead in it goes when more is.
        """
        self.refresh()
        ages, removed, size, freed = self.shelf.packs(), 0, 0, 0
        for index in self._known():
            if index.name not in ages or ages[index.name] >= stored_before:
                continue
            kept = np.array([index.digest(place) in keep for place in range(len(index.rows))], dtype=np.bool_)
            if kept.all() or int(index.rows["stored"][kept].sum()) > _WORTH_REWRITING * index.size_bytes:
                continue
            less = self._replace(index, kept, stored_before, scratch)
            if less is not None:
                removed += int((~kept).sum())
                size += int(index.rows["stored"][~kept].sum())
                freed += less
        self.refresh()
        return Repacked(removed, size, freed)

    def drop(self, digest: Digest, *, stored_before: datetime | None, scratch: Path) -> bool:
        """Let go of one object if its pack is old enough; return whether it went."""
        gone = False
        for index in list(self._known()):
            place = index.find(bytes.fromhex(digest))
            if place >= 0:
                gone |= self._replace(index, np.arange(len(index.rows)) != place, stored_before, scratch) is not None
        self.refresh()
        return gone

    def _replace(self, index: _Index, kept: NDArray[np.bool_], stored_before: datetime | None, scratch: Path) -> int | None:
        """Put a pack of some of another's objects in its place; return the bytes freed, None when it was too young after all."""
        written = 0
        if kept.any():
            with PackWriter(scratch / f"{index.name[:16]}-{secrets.token_hex(4)}") as writer:
                for digest, entry, data in self.read_all({index.digest(int(p)): index.entry(int(p)) for p in np.flatnonzero(kept)}):
                    writer.add(digest, data, kind=entry.kind, size=entry.size)
                name, path = writer.finish()
                written = path.stat().st_size
                self.shelf.put(name, path)
        return index.size_bytes - written if self.shelf.remove(index.name, stored_before=stored_before) else None

    def refresh(self) -> bool:
        """Learn of packs that came and went; return whether any did."""
        with self._lock:
            if not self.shelf.changed():
                return False
            names = self.shelf.packs()
            before = self._indexes
            self._indexes = {name: before.get(name) or self._read_index(name) for name in names}
            return self._indexes.keys() != before.keys()

    def _known(self) -> Collection[_Index]:
        return self._indexes.values()

    def _read_index(self, name: str) -> _Index:
        try:
            size = self.shelf.size(name)
            begin, count, form, magic = _FOOT.unpack(self.shelf.read(name, max(0, size - _FOOT.size), _FOOT.size))
            if magic != _MAGIC or form != _FORM or begin + count * _ROW.itemsize + _FOOT.size != size:
                raise Corrupt(f"pack {name} is damaged, or another version of Tidemill wrote it; restore it from a backup or a remote")
            rows = np.frombuffer(self.shelf.read(name, begin, count * _ROW.itemsize), dtype=_ROW)
        except FileNotFoundError:  # removed since it was listed
            rows, size = np.empty(0, dtype=_ROW), 0
        except struct.error as error:
            raise Corrupt(f"pack {name} is cut off; restore it from a backup or a remote") from error
        return _Index(name, rows, size)


class PackWriter:
    """A pack that is being written, in a file of its own that is removed unless `finish` gave it away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb", buffering=_WRITE_BYTES)
        self._hasher = Hasher()
        self._rows: list[tuple[bytes, int, int, int, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    @property
    def size_bytes(self) -> int:
        return self._hasher.size_bytes

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, digest: Digest, data: bytes | memoryview, *, kind: int = PLAIN, size: int | None = None) -> None:
        """Add an object that is not in the pack yet."""
        self._rows.append((bytes.fromhex(digest), self.size_bytes, len(data), len(data) if size is None else size, kind))
        self._write(data)

    def finish(self) -> tuple[str, Path]:
        """Write the index; return the pack's name and its file, which the caller takes away. Raises OSError."""
        rows = np.array(self._rows, dtype=_ROW)
        rows = rows[np.argsort([row[0] for row in self._rows], kind="stable")]
        begin = self.size_bytes
        self._write(rows.tobytes())
        self._write(_FOOT.pack(begin, len(rows), _FORM, _MAGIC))
        self._file.flush()
        return self._hasher.digest(), self.path

    def _write(self, data: bytes | memoryview) -> None:
        self._hasher.update(data)
        self._file.write(data)


def _heads(raws: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first eight bytes of digests as numbers that sort as the digests do."""
    return np.ascontiguousarray(raws[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
