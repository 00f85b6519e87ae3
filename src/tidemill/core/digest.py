"""Content digests: BLAKE3, 256 bits, as 64 hex digits."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from blake3 import blake3

from tidemill.core.codec import canonical
from tidemill.core.ids import Digest

CHUNK_BYTES = 1 << 20


def digest_bytes(data: bytes | memoryview) -> Digest:
    """Return the digest of bytes."""
    return Digest(blake3(data).hexdigest())


def digest_value(value: Any) -> Digest:
    """Return the digest of a value's canonical JSON: equal data, equal digest, whatever the order of keys."""
    return digest_bytes(canonical(value))


def digest_file(path: Path) -> Digest:
    """Return the digest of a file. Not through a memory map: all of a large file would count as this process's memory."""
    hasher, buffer = blake3(), memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    return Digest(hasher.hexdigest())


def in_passing(chunks: Iterable[bytes], hasher: "Hasher") -> Generator[bytes, None, None]:
    """Yield chunks as they are; from the second on a thread adds each to a digest while the caller deals with it."""
    left = iter(chunks)
    first = next(left, None)
    if first is None:
        return
    hasher.update(first)
    yield first
    second = next(left, None)
    if second is None:
        return
    with ThreadPoolExecutor(1) as thread:
        for chunk in chain([second], left):
            added = thread.submit(hasher.update, chunk)
            yield chunk
            added.result()


class Hasher:
    """A digest that grows as bytes pass by."""

    def __init__(self) -> None:
        self._hasher = blake3()
        self.size_bytes = 0

    def update(self, data: bytes | memoryview) -> None:
        self._hasher.update(data)
        self.size_bytes += len(data)

    def digest(self) -> Digest:
        return Digest(self._hasher.hexdigest())
