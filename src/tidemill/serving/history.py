"""What was predicted and what came true, as Arrow tables: reads journals, whole or by time, and compacts them to Parquet by day.

For the control side: a worker needs none of this.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidemill.core.clock import micros
from tidemill.core.codec import unpack
from tidemill.core.errors import NotFound
from tidemill.core.values import Value
from tidemill.core.window import Window
from tidemill.serving.journal import (
    FailureRecord,
    LabelRecord,
    PredictionHead,
    PredictionRecord,
    complete,
    failures_folder,
    frames,
    labels_folder,
    predictions_folder,
    segments,
)

INPUT = "input."
MOMENT = pa.timestamp("us", tz="UTC")
_FIELDS: Mapping[str, pa.DataType] = {
    "id": pa.string(),
    "at": MOMENT,
    "score": pa.float64(),
    "variant": pa.string(),
    "model": pa.string(),
    "version": pa.int64(),
    "shadow": pa.bool_(),
    "latency_ms": pa.float64(),
    "trace_id": pa.string(),
    "received_at": MOMENT,
}
PREDICTIONS = pa.schema(_FIELDS)
ROW_GROUP = 8192


class CompactReport(Value, frozen=True, kw_only=True):
    """What a compaction did: segments taken away, rows and files written."""

    segments: int
    rows: int
    files: int


class JournaledPrediction(Value, frozen=True, kw_only=True):
    """One prediction as it was answered (shadow: as it would have been). columns: what came with it and what was looked up."""

    id: str
    endpoint: str
    at: datetime
    score: float
    variant: str
    model: str
    version: int
    shadow: bool
    latency_ms: float
    trace_id: str
    received_at: datetime
    columns: dict[str, Any]


class PredictionNotFound(NotFound):
    """No journal holds that id."""

    def __init__(self, prediction_id: str) -> None:
        self.prediction_id = prediction_id
        super().__init__(f"no prediction {prediction_id!r} was journaled; expected an id that an endpoint answered with")


def read_predictions(state: Path, endpoint: str, window: Window | None = None, *, with_inputs: bool = True) -> pa.Table:
    """Return what an endpoint predicted in a window of event time, each prediction once, ordered by event time.

    Columns as PREDICTIONS, then `input.NAME` for each column that came with a request or was looked up (NaN as null). Rows with
    shadow true are what shadows said; their inputs are null, for they stand with the answer. Without with_inputs only the columns
    of PREDICTIONS are read, which is much faster. Of an id that came more than once the first answer counts; of a shadow, the first
    of each variant.
    """
    parts = _read_parts(predictions_folder(state, endpoint), window, with_inputs=with_inputs)
    return _once(_whole(parts))


def read_labels(state: Path, window: Window | None = None, *, history: bool = False) -> pa.Table:
    """Return labels known in a window of event time: id, value, text, at, received_at, ordered by at.

    Of one id the label that came last counts; the same value sent again is the first one. With history, corrected ones stay in.
    value is float64 (true as 1), null for a label that is text; text is null for one that is a number.
    """
    ids: list[str] = []
    values: list[Any] = []
    at: list[int] = []
    received: list[int] = []
    start = micros(window.start) if window is not None else None
    for path in segments(labels_folder(state)):
        for frame in frames(path.read_bytes(), lambda last: start is None or last >= start):
            if (payload := frame.payload()) is not None:
                record = unpack(payload, LabelRecord)
                ids += record.ids
                values += record.values
                at += record.at
                received += [record.received] * len(record.ids)
    order = sorted(range(len(ids)), key=received.__getitem__)
    if window is not None:
        low, high = micros(window.start), micros(window.end)
        order = [place for place in order if low <= at[place] < high]
    kept = _latest(order, ids, values, history=history)
    kept.sort(key=lambda place: (at[place], received[place]))
    found = [values[place] for place in kept]
    return pa.table(
        {
            "id": pa.array([ids[place] for place in kept], pa.string()),
            "value": pa.array([None if isinstance(value, str) else float(value) for value in found], pa.float64()),
            "text": pa.array([value if isinstance(value, str) else None for value in found], pa.string()),
            "at": pa.array([at[place] for place in kept], MOMENT),
            "received_at": pa.array([received[place] for place in kept], MOMENT),
        }
    )


def count_failures(state: Path, endpoint: str, variant: str, window: Window | None = None) -> int:
    """Return on how many rows a variant of an endpoint failed in a window of event time, answering or as a shadow."""
    low, high = (micros(window.start), micros(window.end)) if window is not None else (0, 0)
    wanted: Callable[[int], bool] = (lambda at: low <= at < high) if window is not None else (lambda _: True)
    payloads = (frame.payload() for path in segments(failures_folder(state, endpoint)) for frame in frames(path.read_bytes(), wanted))
    records = (unpack(payload, FailureRecord) for payload in payloads if payload is not None)
    return sum(record.rows for record in records if record.variant == variant)


def inputs(predictions: pa.Table) -> pa.Table:
    """Return the inputs of predictions under their own names, row for row."""
    names = [name for name in predictions.column_names if name.startswith(INPUT)]
    return predictions.select(names).rename_columns([name.removeprefix(INPUT) for name in names])


def find_prediction(state: Path, prediction_id: str, *, endpoints: Sequence[str]) -> JournaledPrediction:
    """Return the answer that one of some endpoints gave under an id. Raises PredictionNotFound."""
    for name in endpoints:
        table = _once(_whole(_parts_holding(predictions_folder(state, name), prediction_id)))
        table = table.filter(pc.and_(pc.equal(table["id"], pa.scalar(prediction_id)), pc.invert(table["shadow"])))
        if table.num_rows:
            row = table.slice(0, 1).to_pylist()[0]
            columns = {key.removeprefix(INPUT): row.pop(key) for key in list(row) if key.startswith(INPUT)}
            return JournaledPrediction(endpoint=name, columns=columns, **row)
    raise PredictionNotFound(prediction_id)


def compact(state: Path, endpoint: str) -> CompactReport:
    """Turn an endpoint's segments that nobody writes to any more into Parquet files by day of event time.

    May be killed and called again at any point: a file is named after its segment and appears whole, a segment goes away after all
    its files are there, and readers pass over the files of a segment that still is.
    """
    folder = predictions_folder(state, endpoint)
    done = rows = files = 0
    if not folder.is_dir():
        return CompactReport(segments=0, rows=0, files=0)
    with _alone(folder / "compact.lock"):
        for path in segments(folder):
            if not complete(path):
                continue
            table = _once(_whole([_segment_table(path, None)]))
            days = pc.strftime(table["at"], format="%Y-%m-%d") if table.num_rows else pa.chunked_array([], pa.string())
            for day in (str(each) for each in pc.unique(days).to_pylist()):
                part = table.filter(pc.equal(days, pa.scalar(day))).sort_by("id")
                _write_parquet(part, folder / "parquet" / f"day={day}" / f"{path.stem}.parquet")
                files += 1
            path.unlink()
            done += 1
            rows += table.num_rows
    return CompactReport(segments=done, rows=rows, files=files)


def _read_parts(folder: Path, window: Window | None, *, with_inputs: bool = True) -> Iterator[pa.Table]:
    """Yield the tables of a journal's segments and files."""
    parts, files = _pieces(folder, lambda path: _segment_table(path, window, with_inputs=with_inputs))
    yield from parts
    for path in files:
        day = date.fromisoformat(path.parent.name.removeprefix("day="))
        if window is None or window.start.astimezone(UTC).date() <= day <= window.end.astimezone(UTC).date():
            yield _within(pq.ParquetFile(path).read(None if with_inputs else PREDICTIONS.names), window)


def _parts_holding(folder: Path, prediction_id: str) -> Iterator[pa.Table]:
    """Yield the parts of a journal that hold an id: of files only the row groups whose ids lie around it are read."""
    parts, files = _pieces(folder, lambda path: _segment_table(path, None, holding=prediction_id.encode()))
    yield from parts
    for path in files:
        groups = [
            place
            for place, (low, high) in enumerate(_id_ranges(str(path), path.stat().st_mtime_ns))
            if low is None or high is None or low <= prediction_id <= high
        ]
        if groups:
            table = pq.ParquetFile(path).read_row_groups(groups)
            yield table.filter(pc.equal(table["id"], pa.scalar(prediction_id)))


def _pieces(folder: Path, read: Callable[[Path], pa.Table]) -> tuple[list[pa.Table], list[Path]]:
    """Return a journal's segments as read, and its files of segments that are no more."""
    while True:
        there = segments(folder)
        try:
            parts = [read(path) for path in there]
        except FileNotFoundError:
            continue  # compacted meanwhile: look again
        open_segments = {path.stem for path in there}
        return parts, [path for path in sorted((folder / "parquet").glob("day=*/*.parquet")) if path.stem not in open_segments]


@lru_cache(maxsize=1 << 16)  # a file never changes, and its footer is most of what finding one id in many files costs
def _id_ranges(path: str, _written: int) -> tuple[tuple[str | None, str | None], ...]:
    """Return the least and the greatest id of each row group of a file, None where the file does not say."""
    metadata = pq.read_metadata(path)
    column = metadata.schema.names.index("id")
    found = (metadata.row_group(place).column(column).statistics for place in range(metadata.num_row_groups))
    return tuple((each.min, each.max) if each is not None and each.has_min_max else (None, None) for each in found)


def _segment_table(path: Path, window: Window | None, *, holding: bytes | None = None, with_inputs: bool = True) -> pa.Table:
    """Return what a segment tells of a window; holding: only the records in which these bytes stand."""
    data = path.read_bytes()
    if holding is not None and holding not in data:
        return PREDICTIONS.empty_table()
    low, high = (micros(window.start), micros(window.end)) if window is not None else (0, 0)
    wanted: Callable[[int], bool] = (lambda at: low <= at < high) if window is not None else (lambda _: True)
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Any]] = {}
    kind = PredictionRecord if with_inputs else PredictionHead
    for frame in frames(data, wanted):
        if (holding is not None and not frame.holds(holding)) or (payload := frame.payload()) is None:
            continue
        record = unpack(payload, kind)
        names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        if isinstance(record, PredictionRecord):
            names = (tuple(record.columns), tuple(record.block.names) if record.block is not None else ())
        groups.setdefault(names, []).append(record)
    return _whole([_records_table(single, block, records) for (single, block), records in groups.items()])


def _records_table(names: tuple[str, ...], block: tuple[str, ...], records: Sequence[Any]) -> pa.Table:
    sizes = np.array([len(record.ids) for record in records])
    variants = [record.variants[place] for record in records for place in record.variant]

    def repeated(values: list[Any], kind: pa.DataType) -> "pa.Array[Any]":
        return pa.array(values, kind).take(pa.array(np.repeat(np.arange(len(values)), sizes), pa.int64()))

    columns = {
        "id": pa.array([each for record in records for each in record.ids], pa.string()),
        "at": repeated([record.at for record in records], MOMENT),
        "score": pa.array([each for record in records for each in record.scores], pa.float64()),
        "variant": pa.array([variant for variant, _, _ in variants], pa.string()),
        "model": pa.array([model for _, model, _ in variants], pa.string()),
        "version": pa.array([version for _, _, version in variants], pa.int64()),
        "shadow": repeated([record.shadow for record in records], pa.bool_()),
        "latency_ms": pa.array(_each((record.latency_ms, len(record.ids)) for record in records), pa.float64()),
        "trace_id": pa.array(_each((record.trace_id, len(record.ids)) for record in records), pa.string()),
        "received_at": repeated([record.received for record in records], MOMENT),
    }
    for name in names:
        columns[INPUT + name] = _column([value for record in records for value in record.columns[name]])
    if block:
        matrices = [np.frombuffer(record.block.data, record.block.dtype).reshape(-1, len(block)) for record in records]
        whole = np.concatenate(matrices, dtype=np.float64)
        columns |= {INPUT + name: pa.array(whole[:, place], from_pandas=True) for place, name in enumerate(block)}
    return pa.table(columns)


def _each(told: Iterable[tuple[Any, int]]) -> list[Any]:
    """Return a value a row: it stands once for all rows of a record, or in a list."""
    return [each for value, count in told for each in (value if isinstance(value, list) else [value] * count)]


def _column(values: list[Any]) -> "pa.Array[Any]":
    try:
        found: pa.Array[Any] = pa.array(values, from_pandas=True)  # NaN as null
        return found
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # callers sent numbers at one time and text at another
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _whole(parts: Sequence[pa.Table] | Iterator[pa.Table]) -> pa.Table:
    tables = [PREDICTIONS.empty_table(), *parts]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.concat_tables([_inputs_as_text(table, _clashing(tables)) for table in tables], promote_options="permissive")


def _clashing(tables: Sequence[pa.Table]) -> set[str]:
    kinds: dict[str, set[bool]] = {}
    for table in tables:
        for field in table.schema:
            if not pa.types.is_null(field.type):
                kinds.setdefault(field.name, set()).add(pa.types.is_string(field.type))
    return {name for name, texts in kinds.items() if len(texts) > 1}


def _inputs_as_text(table: pa.Table, names: set[str]) -> pa.Table:
    for name in names & set(table.column_names):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
    return table


def _within(table: pa.Table, window: Window | None) -> pa.Table:
    if window is None:
        return table
    low, high = pa.scalar(micros(window.start), MOMENT), pa.scalar(micros(window.end), MOMENT)
    return table.filter(pc.and_(pc.greater_equal(table["at"], low), pc.less(table["at"], high)))


def _once(table: pa.Table) -> pa.Table:
    """Return each prediction once, ordered by event time, then by the time at which it came."""
    received: NDArray[np.int64] = table["received_at"].cast(pa.int64()).to_numpy()
    at: NDArray[np.int64] = table["at"].cast(pa.int64()).to_numpy()
    order = np.lexsort((received, at))
    if table.num_rows:
        keys = list(zip(table["id"].to_pylist(), _who(table), strict=True))
        if len(set(keys)) < len(keys):
            seen: set[tuple[str, str | None]] = set()
            first = np.zeros(len(keys), dtype=bool)
            for place in np.argsort(received, kind="stable").tolist():
                if keys[place] not in seen:
                    seen.add(keys[place])
                    first[place] = True
            order = order[first[order]]
    return table.take(pa.array(order, pa.int64()))


def _who(table: pa.Table) -> list[str | None]:
    """Return the variant of shadow rows, None for what callers were told: those were told by one variant, whichever it was."""
    found: list[str | None] = pc.if_else(table["shadow"], table["variant"], pa.scalar(None, pa.string())).to_pylist()
    return found


def _latest(order: list[int], ids: list[str], values: list[Any], *, history: bool) -> list[int]:
    told: set[tuple[str, Any]] = set()
    last: dict[str, int] = {}
    kept: list[int] = []
    for place in order:
        key = (ids[place], values[place])
        if key not in told:
            told.add(key)
            last[ids[place]] = place
            kept.append(place)
    return kept if history else list(last.values())


def _write_parquet(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, scratch, compression="zstd", row_group_size=ROW_GROUP)
        _sync(scratch)
        scratch.replace(path)
        _sync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one compaction of a journal run at a time."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
