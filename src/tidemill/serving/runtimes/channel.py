"""What a worker and the process of a model tell each other: MessagePack behind its length, over a pair of sockets. Nothing is pickled."""

import socket
import time

import numpy as np

from tidemill.core.codec import pack, unpack
from tidemill.core.signature import ModelSpec
from tidemill.core.values import Value
from tidemill.serving.block import Block
from tidemill.serving.outputs import Packed
from tidemill.serving.runtimes.runtime import Columns, ModelFailed, Scores

LOAD_S = 120.0  # a first import of a large library on a busy machine
_LENGTH_BYTES = 8


class Feed(Value, frozen=True, kw_only=True):
    """Rows for a model: its numbers as one matrix, its text by column. dtype is NumPy's: <f4 or <f8. whole: not the score alone."""

    rows: int
    numbers: tuple[str, ...]
    dtype: str
    data: bytes
    texts: dict[str, list[str | None]]
    whole: bool = False


class Told(Value, frozen=True, kw_only=True):
    """What the process says: once when it has loaded its model, then an answer a feed.

    scores: float64, when all went well, and others, when they were asked for. refused: why the model cannot be loaded, with `corrupt`
    for files that are not what was stored. failed: why it did not answer. grown: it holds so much more than when it was loaded that it
    wants to be replaced.
    """

    scores: bytes = b""
    others: tuple[Packed, ...] = ()
    refused: str = ""
    corrupt: bool = False
    failed: str = ""
    grown: bool = False


class ChannelClosed(Exception):
    """The other side has gone."""


class Channel:
    """One side of the pair. A deadline is a moment of `time.monotonic`, None for ever; TimeoutError when it has passed."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, value: Value, *, deadline: float | None = None) -> None:
        data = pack(value)
        self._limit(deadline)
        try:
            self._connection.sendall(len(data).to_bytes(_LENGTH_BYTES, "little"))
            self._connection.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            raise ChannelClosed from error

    def receive(self, *, deadline: float | None = None) -> bytes:
        return bytes(self._exactly(int.from_bytes(self._exactly(_LENGTH_BYTES, deadline), "little"), deadline))

    def close(self) -> None:
        self._connection.close()

    def _exactly(self, size: int, deadline: float | None) -> bytearray:
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            self._limit(deadline)
            try:
                some = self._connection.recv_into(view[got:])
            except TimeoutError:
                raise
            except OSError as error:
                raise ChannelClosed from error
            if not some:
                raise ChannelClosed
            got += some
        return data

    def _limit(self, deadline: float | None) -> None:
        if deadline is None:
            self._connection.settimeout(None)
        elif (left := deadline - time.monotonic()) > 0:
            self._connection.settimeout(left)
        else:
            raise TimeoutError


class Packer:
    """Makes feeds of columns, as far as a model takes them."""

    def __init__(self, spec: ModelSpec, *, model: str) -> None:
        kinds = {column.name: column.kind for column in spec.signature.inputs}
        fed = dict.fromkeys(name for names in spec.tensors.values() for name in names)
        self._numbers = tuple(name for name in fed if kinds[name] != "string")
        self._texts = tuple(name for name in fed if kinds[name] == "string")
        self._model = model

    def pack(self, columns: Columns, rows: int, *, whole: bool = False) -> Feed:
        """Raises ModelFailed for what is no number."""
        if isinstance(columns, Block) and columns.names == self._numbers:
            matrix = columns.matrix
        else:
            try:
                turned = [columns[name] for name in self._numbers]
                matrix = np.array(turned, dtype=np.float64).reshape(len(turned), rows).T  # None becomes NaN
            except (TypeError, ValueError, OverflowError) as error:
                raise ModelFailed(self._model, f"a column holds what is no number: {error}") from error
        texts = {name: [None if value is None else str(value) for value in columns[name]] for name in self._texts}
        dtype = "<f4" if matrix.dtype == np.float32 else "<f8"
        return Feed(rows=rows, numbers=self._numbers, dtype=dtype, data=matrix.tobytes(), texts=texts, whole=whole)


def unpack_feed(data: bytes) -> tuple[Columns, int, bool]:
    """Return the columns of a packed feed, its number of rows, and whether more than the score is wanted."""
    feed = unpack(data, Feed)
    matrix = np.frombuffer(feed.data, dtype=feed.dtype).reshape(feed.rows, len(feed.numbers))
    block = Block(feed.numbers, matrix)
    return ({**block, **feed.texts} if feed.texts else block), feed.rows, feed.whole


def unpack_scores(told: Told) -> Scores:
    """Return the scores of an answer."""
    return np.frombuffer(told.scores, dtype="<f8").astype(np.float64)
