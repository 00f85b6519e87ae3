"""The point-in-time join of more rows than memory holds: cut by entity into parts that do fit, each joined by itself.

All rows and events of one entity fall into one part, and keep their order there, so that the answers are those of the join in one
piece. Parts lie in files meanwhile; so does what was found, until the rows are put together again in the order in which they came.
"""

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidemill.compute.executor import Executor
from tidemill.core.errors import Invalid
from tidemill.core.values import Passed
from tidemill.features.timeline import join
from tidemill.features.views import FeatureView

BATCH_ROWS = 1 << 17
MOST_PARTS = 256  # each is an open file while rows are cut
ROW = "tidemill.row"
# What a row takes while its part is joined, in bytes, beside its own columns: measured, then rounded up.
_EVENT_BYTES, _ROW_BYTES, _TEXT_BYTES = 90, 60, 48
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio (Knuth, The Art of Computer Programming 3, 6.4)


class Streamed:
    """Rows that are read batch by batch, as often as they are needed."""

    def __init__(self, schema: pa.Schema, rows: int, read: Callable[[list[str]], Iterable[pa.RecordBatch]]) -> None:
        self.schema, self.rows, self._read = schema, rows, read

    def batches(self, columns: Sequence[str]) -> Iterable[pa.RecordBatch]:
        """Return some columns of the rows, in their order."""
        return self._read(list(columns))

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Return some columns of all rows at once."""
        return pa.Table.from_batches(self.batches(columns), pa.schema([self.schema.field(name) for name in columns]))


class Piece(Passed):
    """One part to join: the rows that ask, with their numbers, and the events by source."""

    rows: pa.Table
    events: dict[str, pa.Table]
    views: tuple[FeatureView, ...]
    timestamp: str
    wanted: tuple[str, ...]


def stream_table(table: pa.Table) -> Streamed:
    """Return the rows of a table."""
    return Streamed(table.schema, table.num_rows, lambda names: table.select(names).to_batches(max_chunksize=BATCH_ROWS))


def stream_files(paths: Sequence[Path]) -> Streamed:
    """Return the rows of Parquet files of one schema, one file after the other."""

    def read(names: list[str]) -> Iterator[pa.RecordBatch]:
        for path in paths:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(BATCH_ROWS, columns=names)

    return Streamed(pq.read_schema(paths[0]), sum(pq.read_metadata(path).num_rows for path in paths), read)


def join_in_parts(
    entities: Streamed, views: Sequence[FeatureView], events: Mapping[str, Streamed], *,
    timestamp: str, wanted: Sequence[str], memory_bytes: int, folder: Path, executor: Executor,
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """Yield the rows with the wanted features of views, as `join` gives them; an empty batch when there are none.

    memory_bytes: about how much the join may take, all workers of the executor together; what belongs to one entity is never cut, so it
    has to fit. folder: an empty one, on a disk that holds the columns that are read. Raises Invalid.
    """
    parts = count_parts(entities, views, events, memory_bytes=memory_bytes, workers=executor.workers)
    # What does not fit is told before everything is read.
    nothing = {name: source.schema.empty_table() for name, source in events.items()}
    schema = join(entities.schema.empty_table(), views, nothing, timestamp=timestamp, wanted=wanted).schema
    if not entities.rows:
        yield pa.RecordBatch.from_pylist([], schema)
        return
    if parts == 1:
        whole = {name: source.table(needed(views, name, source)) for name, source in events.items()}
        rows = entities.table(entities.schema.names)
        yield from join(rows, views, whole, timestamp=timestamp, wanted=wanted).to_batches(max_chunksize=BATCH_ROWS)
        return
    with ExitStack() as stack:
        found = []
        for number, entity in enumerate(dict.fromkeys(view.entity for view in views)):
            mine = tuple(view for view in views if view.entity == entity)
            place = folder / str(number)
            _cut(_numbered(entities, [*entity, timestamp]), entity, parts, place / "rows")
            schemas = {view.source: events[view.source].schema for view in mine}
            for name in schemas:
                _cut(events[name].batches(needed(mine, name, events[name])), entity, parts, place / "events" / name)
            pieces = _pieces(place, parts, mine, schemas, timestamp, tuple(wanted))
            files = _join_each(pieces, place / "found", executor)
            found.append([stack.enter_context(_Found(path)) for path in files])
        begin = 0
        for batch in entities.batches(entities.schema.names):
            columns: dict[str, Any] = {name: batch.column(name) for name in batch.schema.names}
            for answers in found:
                columns.update(_answers(answers, begin, begin + batch.num_rows))
            yield from pa.table({name: columns[name] for name in schema.names}, schema).to_batches()
            begin += batch.num_rows


def join_piece(piece: Piece) -> pa.Table:
    """Return the numbers of the rows of one part, and their features."""
    found = join(piece.rows, piece.views, piece.events, timestamp=piece.timestamp, wanted=piece.wanted)
    return found.select([ROW, *found.column_names[piece.rows.num_columns :]])


def count_parts(
    entities: Streamed, views: Sequence[FeatureView], events: Mapping[str, Streamed], *, memory_bytes: int, workers: int
) -> int:  # fmt: skip
    """Return into how many parts rows and events are to be cut, at least one for each worker. Raises Invalid for too many."""
    features = sum(len(view.features) for view in views)
    taken = entities.rows * (_ROW_BYTES + _width(entities.schema, entities.schema.names) + 8 * features)
    taken += sum(source.rows * (_EVENT_BYTES + _width(source.schema, needed(views, name, source))) for name, source in events.items())
    parts = max(workers, -(-taken * workers // memory_bytes))
    if parts > MOST_PARTS:
        least_mb = (taken * workers // MOST_PARTS >> 20) + 1
        raise Invalid(f"a join of this size is too large for {memory_bytes >> 20} MB; give it at least {least_mb} MB")
    return parts


def needed(views: Sequence[FeatureView], name: str, source: Streamed) -> list[str]:
    """Return the columns that views need of a source; the join names those that it lacks."""
    wanted = dict.fromkeys(column for view in views if view.source == name for column in view.needs)
    return [column for column in wanted if column in source.schema.names]


def _width(schema: pa.Schema, names: Sequence[str]) -> int:
    kinds = [schema.field(name).type for name in names]
    return sum(kind.bit_width // 8 + 1 if pa.types.is_primitive(kind) else _TEXT_BYTES for kind in kinds)


def _numbered(rows: Streamed, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    begin = 0
    for batch in rows.batches(names):
        yield batch.append_column(ROW, pa.array(np.arange(begin, begin + batch.num_rows)))
        begin += batch.num_rows


def _cut(batches: Iterable[pa.RecordBatch], entity: Sequence[str], parts: int, folder: Path) -> None:
    """Write rows to a file a part, by their entity."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        writers: list[pa.RecordBatchStreamWriter] = []
        for batch in batches:
            if not writers:
                writers += [stack.enter_context(pa.ipc.new_stream(str(folder / str(number)), batch.schema)) for number in range(parts)]
            numbers = _parts_of(batch, entity, parts)
            order = np.argsort(numbers, kind="stable")
            ends = np.cumsum(np.bincount(numbers, minlength=parts)).tolist()
            sorted_rows = batch.take(order)
            for writer, begin, end in zip(writers, [0, *ends], ends, strict=False):
                if end > begin:
                    writer.write_batch(sorted_rows.slice(begin, end - begin))


def _parts_of(batch: pa.RecordBatch, entity: Sequence[str], parts: int) -> NDArray[np.int64]:
    """Return the part of each row: the same for equal keys, whatever the width of their type."""
    mixed = np.zeros(batch.num_rows, dtype=np.uint64)
    for name in entity:
        column = batch.column(name)
        if pa.types.is_integer(column.type):
            words = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
        else:
            encoded: Any = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            sums = [zlib.crc32(str(text).encode()) for text in encoded.dictionary.to_pylist()]
            words = np.array([*sums, 0], dtype=np.uint64)[encoded.indices.fill_null(len(sums)).to_numpy(zero_copy_only=False)]
        mixed = (mixed ^ words) * _MIX
        mixed ^= mixed >> np.uint64(32)
    return (mixed % np.uint64(parts)).astype(np.int64)


def _pieces(
    place: Path, parts: int, views: tuple[FeatureView, ...], schemas: Mapping[str, pa.Schema], timestamp: str, wanted: tuple[str, ...]
) -> Iterator[Piece]:
    """Yield the parts that rows ask of; the files of a part are gone once it was read."""
    for number in range(parts):
        rows = _taken(place / "rows" / str(number), pa.schema([]))
        events = {name: _taken(place / "events" / name / str(number), schema) for name, schema in schemas.items()}
        if rows.num_rows:
            yield Piece(rows, events, views, timestamp, wanted)


def _join_each(pieces: Iterable[Piece], folder: Path, executor: Executor) -> Iterator[Path]:
    """Join each part; yield the files with what was found. As many parts are in memory as there are workers."""
    folder.mkdir()
    running: deque[Future[pa.Table]] = deque()
    paths = (folder / str(number) for number in count())

    def finish() -> Path:
        table, path = running.popleft().result().combine_chunks(), next(paths)
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
        return path

    for piece in pieces:
        running.append(executor.submit(join_piece, piece))
        if len(running) >= executor.workers:
            yield finish()
    while running:
        yield finish()


def _taken(path: Path, otherwise: pa.Schema) -> pa.Table:
    if not path.exists():  # there were no rows at all
        return otherwise.empty_table()
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
        table = reader.read_all()
    path.unlink()
    return table


class _Found:
    """What was found for the rows of one part, in the order of their numbers; it is read front to back, once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0

    def __enter__(self) -> "_Found":
        self._file = pa.memory_map(str(self._path))
        self._table = pa.ipc.open_file(self._file).read_all()
        self._rows = self._table.column(ROW).to_numpy()
        return self

    def __exit__(self, *_: object) -> None:
        del self._table, self._rows
        self._file.close()
        self._path.unlink()

    def until(self, row: int) -> pa.Table:
        """Return what was found for the next rows, those before a number."""
        begin, self._next = self._next, int(np.searchsorted(self._rows, row))
        return self._table.slice(begin, self._next - begin)


def _answers(found: Sequence[_Found], begin: int, end: int) -> dict[str, Any]:
    table = pa.concat_tables([each.until(end) for each in found])
    assert table.num_rows == end - begin, "each row lies in one part"
    table = table.take(np.argsort(table.column(ROW).to_numpy()))
    return {name: table.column(name) for name in table.column_names if name != ROW}
