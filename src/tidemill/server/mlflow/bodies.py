"""Large bodies: taken into a file that is hashed while it grows, given from a file in pieces. Memory stays at a few megabytes."""

import asyncio
import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tidemill.core.digest import Hasher
from tidemill.core.ids import Digest
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.errors import RangeRefused
from tidemill.server.mlflow.exchange import CallerGone, Exchange

SMALL_BYTES = 1 << 20
PIECE_BYTES = 1 << 20
Enter = Callable[[], Workspace]
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Taken(NamedTuple):
    """A body that arrived: small ones as bytes, others as a file of the receiver's own."""

    data: bytes | None
    path: Path | None
    digest: Digest | None
    size_bytes: int


async def take(exchange: Exchange, folder: Path, *, check: Callable[[], object] | None = None) -> Taken:
    """Receive a body. A small one stays in memory; a large one goes into a file in folder, hashed as it comes, once check was passed.

    Raises CallerGone when the connection ends before the body does; nothing is left behind then.
    """
    gathered: list[bytes] = []
    size = 0
    sink: _Sink | None = None
    pending: asyncio.Future[None] | None = None
    try:
        async for piece in exchange.pieces():
            gathered.append(piece)
            size += len(piece)
            if size >= PIECE_BYTES:
                if sink is None:
                    if check is not None:
                        await exchange.run(check)
                    sink = _Sink(folder)
                if pending is not None:
                    await pending  # one piece is written while the next arrives, not more
                pending = asyncio.ensure_future(exchange.run(sink.write, gathered))
                gathered, size = [], 0
        if sink is None:
            return Taken(b"".join(gathered), None, None, size)
        if pending is not None:
            await pending
        return await exchange.run(sink.finish, gathered)
    except BaseException:
        if pending is not None:
            await asyncio.wait([pending])
        if sink is not None:
            sink.drop()
        raise


async def give_file(exchange: Exchange, path: Path, kind: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Send a file, or the range of it that was asked for. Raises RangeRefused."""
    size = (await exchange.run(path.stat)).st_size
    asked = exchange.header(b"range").decode("latin-1")
    first, last = _range(asked, size) if asked else (0, size - 1)
    length = last - first + 1
    told = [*headers, (b"accept-ranges", b"bytes")]
    if asked:
        told.append((b"content-range", b"bytes %d-%d/%d" % (first, last, size)))
    await exchange.start(206 if asked else 200, length, kind, told)
    descriptor = await exchange.run(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        at, left = first, length
        while left > PIECE_BYTES:
            piece = await exchange.run(os.pread, descriptor, PIECE_BYTES, at)
            if not piece:
                raise CallerGone  # the file is shorter than it was: end the connection, so that nobody takes this for the whole
            await exchange.give(piece, more=True)
            at, left = at + len(piece), left - len(piece)
        await exchange.give(await exchange.run(os.pread, descriptor, left, at) if left else b"", more=False)
    finally:
        os.close(descriptor)


class _Sink:
    """A file under way, and the digest of what was written to it. One call at a time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"body-{os.getpid()}-{secrets.token_hex(8)}"
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._hasher = Hasher()

    def write(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            self._hasher.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def finish(self, pieces: Sequence[bytes]) -> Taken:
        self.write(pieces)
        os.close(self._descriptor)
        self._descriptor = -1
        return Taken(None, self.path, self._hasher.digest(), self._hasher.size_bytes)

    def drop(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self.path.unlink(missing_ok=True)


def _range(asked: str, size: int) -> tuple[int, int]:
    match = _RANGE.fullmatch(asked.strip())
    if match is None or not (match[1] or match[2]):
        raise RangeRefused(asked, size)
    if not match[1]:
        first, last = max(0, size - int(match[2])), size - 1
    else:
        first, last = int(match[1]), min(int(match[2]) if match[2] else size - 1, size - 1)
    if first > last or first >= size:
        raise RangeRefused(asked, size)
    return first, last
