"""Recipes: a large object told as what it shares with older ones, and the rest, so that a new version of a table costs what changed.

Both are cut where their content says so (FastCDC), which finds what is the same wherever it moved; what is left is compressed against
the part of the older object that lay there (zstd, with that as prefix), which finds what is the same within. Sources: Xia et al., "The
Design of Fast Content-Defined Chunking" (2020); RFC 8878 for zstd.
"""

import os
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from tidemill.core.digest import CHUNK_BYTES
from tidemill.core.errors import Corrupt
from tidemill.core.ids import Digest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEAST_BYTES = 256 << 10
"""Smaller objects are stored as they are."""
DEEPEST = 6
"""So many recipes may stand on one another."""

_CUT_BYTES = 32 << 10
_BLOCK_BYTES = 1 << 20
_MARGIN_BYTES = 128 << 10
_WORTH = 0.6
_THREADS = 2
_KEPT_BLOCKS = 8
_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.window_log: 22,
    zstd.CompressionParameter.hash_log: 20,  # the level's own table is too small to remember a prefix of a megabyte
    zstd.CompressionParameter.checksum_flag: 0,
}
_HEAD = struct.Struct("<8sIIII")  # magic, sources, blocks, how many recipes stand on one another, nothing
_MAGIC = b"tiderec1"
# size: of the block in the object; source: number of the older object, -1 for none; at, span: a part of that; data, stored: bytes here.
# Without bytes here the block is what stands in the source at `at`; with them it is they, compressed with that part as prefix, if any.
_BLOCK = np.dtype([("size", "<u8"), ("source", "<i4"), ("span", "<u4"), ("at", "<u8"), ("data", "<u8"), ("stored", "<u4"), ("none", "<u4")])

A = TypeVar("A")
B = TypeVar("B")
ReadAt = Callable[[Digest, int, int], bytes]
"""Return so many bytes of an object, from a place on."""


class Chunk(NamedTuple):
    """A part of a file, cut where its content says so."""

    at: int
    size: int
    digest: bytes


class Run(NamedTuple):
    """A part of the new file, and the part of the old one that is the same (copied), or that lay there."""

    copied: bool
    at: int
    size: int
    old_at: int
    old_size: int


def cut(path: Path) -> list[Chunk]:
    """Return the chunks of a file, 32 KB on average, with 128 bits of their digests."""
    from pyfastcdc import FastCDC

    with path.open("rb", buffering=0) as file:
        return [Chunk(chunk.offset, chunk.length, blake3(chunk.data).digest(16)) for chunk in FastCDC(_CUT_BYTES).cut_stream(file)]


def align(new: Sequence[Chunk], old: Sequence[Chunk]) -> list[Run]:
    """Return the runs that make the new file of the old one, in order."""
    where: dict[bytes, int] = {}
    for chunk in old:
        where.setdefault(chunk.digest, chunk.at)
    whole = old[-1].at + old[-1].size if old else 0
    runs: list[Run] = []
    behind = 0  # where in the old file the last thing copied ends
    for chunk in new:
        there = where.get(chunk.digest)
        last = runs[-1] if runs else None
        if there is None:
            if last is not None and not last.copied:
                runs[-1] = last._replace(size=last.size + chunk.size)
            else:
                runs.append(Run(False, chunk.at, chunk.size, behind, 0))
            continue
        if last is not None and not last.copied:
            runs[-1] = _between(last, there, whole)
        if last is not None and last.copied and last.old_at + last.old_size == there:
            runs[-1] = last._replace(size=last.size + chunk.size, old_size=last.old_size + chunk.size)
        else:
            runs.append(Run(True, chunk.at, chunk.size, there, chunk.size))
        behind = there + chunk.size
    if runs and not runs[-1].copied:
        runs[-1] = _between(runs[-1], whole, whole)
    return runs


def _between(run: Run, end: int, whole: int) -> Run:
    """Say which part of the old file lay where a run of the new one lies: up to end, unless things were moved about."""
    gap = end - run.old_at
    if not 0 <= gap <= 4 * run.size + 2 * _MARGIN_BYTES:
        gap = min(run.size, whole - run.old_at)
    return run._replace(old_size=gap)


class Base(NamedTuple):
    """An older object: its bytes as a file and, if it is told as a recipe itself, that."""

    digest: Digest
    path: Path
    recipe: "Recipe | None"


def write_recipe(path: Path, base: Base) -> bytes | None:
    """Return the recipe that makes a file of an older object, None when the two have too little in common for it to pay."""
    runs = align(cut(path), cut(base.path))
    sources: dict[Digest, int] = {}
    blocks: list[tuple[int, int, int, int, int, int, int]] = []
    data: list[bytes] = []
    stored, size = 0, path.stat().st_size
    with ThreadPoolExecutor(_THREADS) as threads:
        new, old = os.open(path, os.O_RDONLY | os.O_CLOEXEC), os.open(base.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pieces = [piece for run in runs for piece in _pieces(run, base)]
            packed = _in_order(threads, lambda piece: None if piece[0] else _compress(new, old, piece), pieces)
            for (copied, _, length, source, at, span), compressed in zip(pieces, packed, strict=True):
                number = sources.setdefault(source, len(sources))
                if copied or compressed is None:
                    blocks.append((length, number, 0, at, 0, 0, 0))
                    continue
                blocks.append((length, number if span else -1, span, at, stored, len(compressed), 0))
                data.append(compressed)
                stored += len(compressed)
                if stored > _WORTH * size:
                    return None
        finally:
            os.close(new)
            os.close(old)
    depth = 1 + (base.recipe.depth if base.recipe is not None else 0)
    head = _HEAD.pack(_MAGIC, len(sources), len(blocks), depth, 0) + b"".join(bytes.fromhex(digest) for digest in sources)
    return b"".join([head, np.array(blocks, dtype=_BLOCK).tobytes(), *data])


def _pieces(run: Run, base: Base) -> Iterator[tuple[bool, int, int, Digest, int, int]]:
    """Yield a run as (copied, at, size, source, at there, span there): what is copied names the object that has the bytes itself."""
    if run.copied:
        at = run.at
        for source, there, size in (
            base.recipe.origins(base.digest, run.old_at, run.size) if base.recipe else [(base.digest, run.old_at, run.size)]
        ):
            yield True, at, size, source, there, 0
            at += size
        return
    for begin in range(0, run.size, _BLOCK_BYTES):
        size = min(_BLOCK_BYTES, run.size - begin)
        first = max(0, run.old_at + begin * run.old_size // run.size - _MARGIN_BYTES)
        last = run.old_at + (begin + size) * run.old_size // run.size + _MARGIN_BYTES
        yield False, run.at + begin, size, base.digest, first, min(last, base.path.stat().st_size) - first


def _compress(new: int, old: int, piece: tuple[bool, int, int, Digest, int, int]) -> bytes:
    _, at, size, _, there, span = piece
    data = os.pread(new, size, at)
    if not span:
        return zstd.compress(data, options=_OPTIONS)
    return zstd.compress(data, options=_OPTIONS, zstd_dict=zstd.ZstdDict(os.pread(old, span, there), is_raw=True).as_prefix)


def _in_order(threads: ThreadPoolExecutor, work: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    """Yield what work makes of items, a few ahead of who asks: never all at once in memory."""
    left = iter(items)
    waiting = [threads.submit(work, item) for item in islice(left, 4 * _THREADS)]
    while waiting:
        done = waiting.pop(0).result()
        waiting.extend(threads.submit(work, item) for item in islice(left, 1))
        yield done


class Recipe:
    """A recipe that was read. Safe from several threads."""

    def __init__(self, digest: Digest, payload: bytes, read_at: ReadAt) -> None:
        """Raises Corrupt when the bytes are no recipe."""
        self._digest, self._payload, self._read_at = digest, payload, read_at
        try:
            magic, sources, blocks, self.depth, _ = _HEAD.unpack_from(payload)
            begin = _HEAD.size + 32 * sources
            self._blocks: NDArray[np.void] = np.frombuffer(payload, dtype=_BLOCK, count=blocks, offset=begin)
        except (struct.error, ValueError) as error:
            raise Corrupt(f"the recipe of object {digest} is cut off; restore it from a backup or a remote") from error
        if magic != _MAGIC:
            raise Corrupt(f"the recipe of object {digest} is damaged; restore it from a backup or a remote")
        self.sources = tuple(Digest(payload[at : at + 32].hex()) for at in range(_HEAD.size, begin, 32))
        self._data = begin + blocks * _BLOCK.itemsize
        self._ends = np.cumsum(self._blocks["size"])
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()

    @property
    def size(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def foundation(self) -> Digest:
        """The older object that most of this one comes from."""
        there = self._blocks[self._blocks["source"] >= 0]
        return self.sources[int(np.bincount(there["source"], weights=there["size"].astype(np.float64)).argmax())]

    def read(self, at: int, size: int) -> bytes:
        """Return bytes of the object. Raises Corrupt."""
        parts = []
        for number, first, count in self._covering(at, size):
            block = self._blocks[number]
            if block["stored"]:
                parts.append(self._decoded(number)[first : first + count])
            else:
                parts.append(self._read_at(self.sources[block["source"]], int(block["at"]) + first, count))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        """Yield all of the object, in order. Raises Corrupt."""
        spans = [
            (int(begin), min(4 * CHUNK_BYTES, int(end) - int(begin)))
            for first, last in zip(np.concatenate([[0], self._ends[:-1]]), self._ends, strict=True)
            for begin, end in ((place, last) for place in range(int(first), int(last), 4 * CHUNK_BYTES))
        ]
        with ThreadPoolExecutor(_THREADS) as threads:
            yield from _in_order(threads, lambda span: self.read(*span), spans)

    def origins(self, digest: Digest, at: int, size: int) -> Iterator[tuple[Digest, int, int]]:
        """Yield which object has some bytes of this one, where there and how many: this one itself, as digest, where it is no copy."""
        for number, first, count in self._covering(at, size):
            block = self._blocks[number]
            if block["stored"]:
                yield digest, int(self._ends[number]) - int(block["size"]) + first, count
            else:
                yield self.sources[block["source"]], int(block["at"]) + first, count

    def _covering(self, at: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Yield the blocks that bytes lie in: their number, where in the block they begin, how many they are."""
        end = min(at + size, self.size)
        number = int(self._ends.searchsorted(at, side="right"))
        while at < end:
            begin = int(self._ends[number]) - int(self._blocks[number]["size"])
            count = min(end, int(self._ends[number])) - at
            yield number, at - begin, count
            at += count
            number += 1

    def _decoded(self, number: int) -> bytes:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        block = self._blocks[number]
        begin = self._data + int(block["data"])
        told = self._payload[begin : begin + int(block["stored"])]
        try:
            if block["source"] < 0:
                data = zstd.decompress(told)
            else:
                prefix = self._read_at(self.sources[block["source"]], int(block["at"]), int(block["span"]))
                data = zstd.decompress(told, zstd_dict=zstd.ZstdDict(prefix, is_raw=True).as_prefix)
        except zstd.ZstdError as error:
            raise Corrupt(f"a block of object {self._digest} is damaged ({error}); restore it from a backup or a remote") from error
        if len(data) != block["size"]:
            raise Corrupt(
                f"a block of object {self._digest} has {len(data)} bytes; expected {int(block['size'])}; restore it from a remote"
            )
        with self._lock:
            self._kept[number] = data
            while len(self._kept) > _KEPT_BLOCKS:
                self._kept.popitem(last=False)
        return data
