"""Metric histories: every point of every metric, packed. Owns their tables.

What arrives is appended whole to the run's tail (one row a call). When a tail has grown, and when its run ends, it is packed:
columns of steps, times and values per key, about ten bytes a point. A reader puts the blocks before the tail.
"""

import random
import struct
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
)

from tidemill.catalog.prepared import Prepared, PreparedRows
from tidemill.catalog.schema import METADATA, Text
from tidemill.core.codec import pack, unpack
from tidemill.core.errors import Corrupt

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PACK_POINTS = 4096  # a tail of that many points is packed …
PACK_PER_KEY = 64  # … unless its blocks would have fewer points than this
PACK_AT_END = 8  # the same once a run has ended
LOOK_EVERY = 256  # points between two looks at how long a tail has grown
_BLOCK = struct.Struct("<BI")
_INTS = struct.Struct("<Bqqq")
_FORMAT = 1
_WIDTHS = ((1, np.uint8), (2, np.uint16), (4, np.uint32), (8, np.uint64))

TAIL = Table(
    "metric_tail",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("run", BigInteger, nullable=False),
    Column("points", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("ix_metric_tail_run", "run", "id"),
)
BLOCKS = Table(
    "metric_blocks",
    METADATA,
    Column("run", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("points", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("run", "key", "number"),
)

_APPEND = Prepared(insert(TAIL).values(run=bindparam("run"), points=bindparam("points"), data=bindparam("data")))
_TAIL_POINTS = Prepared(select(func.sum(TAIL.c.points)).where(TAIL.c.run == bindparam("run")))
_TAIL_OF = Prepared(select(TAIL.c.data).where(TAIL.c.run == bindparam("run")).order_by(TAIL.c.id))
_CLEAR_TAIL = Prepared(delete(TAIL).where(TAIL.c.run == bindparam("run")))
_LAST_NUMBERS = Prepared(select(BLOCKS.c.key, func.max(BLOCKS.c.number)).where(BLOCKS.c.run == bindparam("run")).group_by(BLOCKS.c.key))
_ADD_BLOCKS = PreparedRows(insert(BLOCKS))
_BLOCKS_OF = Prepared(
    select(BLOCKS.c.data).where(BLOCKS.c.run == bindparam("run"), BLOCKS.c.key == bindparam("key")).order_by(BLOCKS.c.number)
)


class Points(NamedTuple):
    """Points of one metric in the order in which they were logged: values (n,), steps (n,), times (n,) in microseconds since 1970."""

    values: Floats
    steps: Ints
    times: Ints

    def __len__(self) -> int:
        return len(self.values)


NO_POINTS = Points(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))

# What a tail holds, told apart by a first byte: points as they came, or columns of little-endian bytes by key.
Row = tuple[str, float, int, int]
Piece = tuple[str, bytes, bytes, bytes]
_ROWS, _PIECES = b"r", b"p"


def append(tx: Connection, run: int, rows: Sequence[Row]) -> None:
    """Add points (key, value, step, microseconds) behind those that a run has; now and then, pack its tail."""
    if rows:
        _append(tx, run, _ROWS + pack(rows), len(rows), keys=len({row[0] for row in rows}))


def append_columns(tx: Connection, run: int, pieces: Sequence[Piece]) -> None:
    """Add columns of points (key, values, steps, times); now and then, pack the tail."""
    if pieces:
        _append(tx, run, _PIECES + pack(pieces), sum(len(piece[1]) // 8 for piece in pieces), keys=len(pieces))


def _append(tx: Connection, run: int, data: bytes, count: int, *, keys: int) -> None:
    # A tail has about as many keys as one call brings.
    _APPEND.run(tx, {"run": run, "points": count, "data": data})
    if count >= LOOK_EVERY or random.random() * LOOK_EVERY < count:
        tail = _TAIL_POINTS.run(tx, {"run": run}).fetchone()[0]
        if tail >= PACK_POINTS and tail >= PACK_PER_KEY * keys:
            pack_tail(tx, run)


def pack_rest(tx: Connection, run: int) -> None:
    """Pack the tail of a run that has ended, unless it is so short that blocks would be longer."""
    if (_TAIL_POINTS.run(tx, {"run": run}).fetchone()[0] or 0) >= LOOK_EVERY:
        pack_tail(tx, run, per_key=PACK_AT_END)


def pack_tail(tx: Connection, run: int, *, per_key: int = 1) -> None:
    """Turn the tail of a run into blocks, if these have per_key points on average."""
    gathered = _gather(tx, run)
    if sum(len(points) for points in gathered.values()) < per_key * max(1, len(gathered)):
        return
    last = dict(_LAST_NUMBERS.run(tx, {"run": run}).fetchall())
    _ADD_BLOCKS.run(tx, [(run, key, last.get(key, 0) + 1, len(points), encode_block(points)) for key, points in gathered.items()])
    _CLEAR_TAIL.run(tx, {"run": run})


def read_points(tx: Connection, run: int, key: str) -> Points:
    """Return the history of a metric; empty when there is none."""
    blocks = [decode_block(bytes(row[0])) for row in _BLOCKS_OF.run(tx, {"run": run, "key": key}).fetchall()]
    return joined([*blocks, _gather(tx, run, only=key).get(key, NO_POINTS)])


def joined(parts: Sequence[Points]) -> Points:
    """Return histories one behind the other as one."""
    filled = [part for part in parts if len(part)]
    if len(filled) == 1:
        return filled[0]
    return Points(*map(np.concatenate, zip(*filled, strict=True))) if filled else NO_POINTS


def sample(points: Points, count: int) -> Points:
    """Return at most `count` points of a history that draw the same picture: the lowest and the highest of each equal stretch.

    In the order of steps. NaNs are neither low nor high. Source: the min-max variant of Jugel et al., M4 (VLDB 2014).
    """
    if len(points) > 1 and bool(np.any(np.diff(points.steps) < 0)):
        order = np.argsort(points.steps, kind="stable")
        points = Points(points.values[order], points.steps[order], points.times[order])
    if len(points) <= count:
        return points
    per = -(-len(points) // max(1, (count - 2) // 2))
    stretches = -(-len(points) // per)
    padded = np.full(stretches * per, np.nan)
    padded[: len(points)] = points.values
    table = padded.reshape(stretches, per)
    begins = np.arange(stretches) * per
    low = np.where(np.isnan(table), np.inf, table).argmin(axis=1) + begins
    high = np.where(np.isnan(table), -np.inf, table).argmax(axis=1) + begins
    chosen = np.unique(np.concatenate([[0], low, high, [len(points) - 1]]))
    return Points(points.values[chosen], points.steps[chosen], points.times[chosen])


def encode_block(points: Points) -> bytes:
    """Return points packed: whole numbers as differences in as few bytes as hold them, values as they are (single precision if exact)."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = points.values.astype(np.float32)
    exact = bool(np.array_equal(single.astype(np.float64), points.values, equal_nan=True))
    values = single.tobytes() if exact else points.values.tobytes()
    return _BLOCK.pack(_FORMAT, len(points)) + _encode_ints(points.steps) + _encode_ints(points.times) + values


def decode_block(data: bytes) -> Points:
    """Return the points of a block. Raises Corrupt."""
    kind, count = _BLOCK.unpack_from(data)
    if kind != _FORMAT:
        raise Corrupt(f"a block of metric points has the unknown format {kind}; it was written by a newer Tidemill, or damaged")
    steps, at = _decode_ints(data, _BLOCK.size, count)
    times, at = _decode_ints(data, at, count)
    wide = len(data) - at == count * 8
    values = np.frombuffer(data, np.float64 if wide else np.float32, count, at).astype(np.float64, copy=False)
    return Points(values, steps, times)


def _gather(tx: Connection, run: int, *, only: str | None = None) -> dict[str, Points]:
    """Return the tail of a run by key."""
    parts: dict[str, tuple[list[bytes], list[bytes], list[bytes]]] = {}
    for row in _TAIL_OF.run(tx, {"run": run}).fetchall():
        for key, values, steps, times in _pieces(bytes(row[0])):
            if only is None or key == only:
                part = parts.setdefault(key, ([], [], []))
                part[0].append(values)
                part[1].append(steps)
                part[2].append(times)
    return {key: points_of(b"".join(values), b"".join(steps), b"".join(times)) for key, (values, steps, times) in parts.items()}


def _pieces(data: bytes) -> list[Piece]:
    if data[:1] == _PIECES:
        return unpack(data[1:], list[Piece])
    columns: dict[str, tuple[list[float], list[int], list[int]]] = {}
    for key, value, step, at in unpack(data[1:], list[Row]):
        column = columns.get(key)
        if column is None:
            column = columns[key] = ([], [], [])
        column[0].append(value)
        column[1].append(step)
        column[2].append(at)
    return [
        (key, array("d", values).tobytes(), array("q", steps).tobytes(), array("q", times).tobytes())
        for key, (values, steps, times) in columns.items()
    ]


def points_of(values: bytes, steps: bytes, times: bytes) -> Points:
    """Return little-endian columns as points."""
    return Points(np.frombuffer(values, np.float64), np.frombuffer(steps, np.int64), np.frombuffer(times, np.int64))


def _encode_ints(numbers: Ints) -> bytes:
    unit = 1000 if not np.any(numbers % 1000) else 1
    scaled = numbers // unit
    deltas = np.diff(scaled)
    low = int(deltas.min()) if len(deltas) else 0
    above = (deltas - low).astype(np.uint64)  # wraps as the sum on the way back does
    highest = int(above.max()) if len(above) else 0
    width, kind = next((w, k) for w, k in ((0, np.uint8), *_WIDTHS) if highest < 1 << (8 * w) or w == 8)
    body = above.astype(kind).tobytes() if width else b""
    return _INTS.pack(width, int(scaled[0]), low, unit) + body


def _decode_ints(data: bytes, at: int, count: int) -> tuple[Ints, int]:
    width, first, low, unit = _INTS.unpack_from(data, at)
    at += _INTS.size
    numbers = np.empty(count, np.int64)
    numbers[0] = first
    if width:
        above = np.frombuffer(data, dict(_WIDTHS)[width], count - 1, at)
        numbers[1:] = above.astype(np.int64) + low
        at += width * (count - 1)
    else:
        numbers[1:] = low
    np.cumsum(numbers, out=numbers)
    return (numbers * unit if unit != 1 else numbers), at
