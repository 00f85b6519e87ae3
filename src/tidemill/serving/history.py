"""What was predicted and what came true, as Arrow tables: reads journals, whole or by time or by id, wherever their days lie.

For the control side: a worker needs none of this.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.core.clock import micros
from tidemill.core.codec import unpack
from tidemill.core.errors import Corrupt, NotFound
from tidemill.core.values import Passed, Value
from tidemill.core.window import Window
from tidemill.serving.archive import File, compacted, opened
from tidemill.serving.journal import (
    FailureRecord,
    LabelRecord,
    failures_folder,
    frames,
    labels_folder,
    predictions_folder,
    segments,
)
from tidemill.serving.tables import INPUT, MOMENT, OUTPUT, PREDICTIONS, full, once, segment_table, whole, within
from tidemill.store.objects import ObjectNotFound, ObjectStore

TRIES = 50


class JournaledPrediction(Value, frozen=True, kw_only=True):
    """One prediction as it was answered (shadow: as it would have been). columns: what came with it and what was looked up.

    outputs: what was answered beside the score. key: the value of the endpoint's label key. inputs_kept: false where the endpoint's
    policy left the inputs out.
    """

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
    key: str | None
    inputs_kept: bool
    columns: dict[str, Any]
    outputs: dict[str, Any]


class PredictionNotFound(NotFound):
    """No journal holds that id."""

    def __init__(self, prediction_id: str) -> None:
        self.prediction_id = prediction_id
        super().__init__(f"no prediction {prediction_id!r} was journaled; expected an id that an endpoint answered with")


def read_predictions(
    state: Path, endpoint: str, window: Window | None = None, *, with_inputs: bool = True, objects: ObjectStore | None = None
) -> pa.Table:
    """Return what an endpoint predicted in a window of event time, each prediction once, ordered by event time.

    Columns as PREDICTIONS, then `input.NAME` for each column that came with a request or was looked up (NaN as null), and
    `output.NAME` for what was answered beside the score (lists, where that is several values a row). Rows with
    shadow true are what shadows said; their inputs are null, for they stand with the answer. So are those of rows whose inputs were
    not kept (inputs_kept false). Without with_inputs only the columns of PREDICTIONS are read, which is much faster. Of an id that came
    more than once the first answer counts; of a shadow, the first of each variant. objects: where archived days lie.
    """
    wanted = None if with_inputs else PREDICTIONS.names

    def read(file: File) -> pa.Table | None:
        if window is not None and not file.holds(window):
            return None
        return within(full(pq.ParquetFile(opened(file, objects)).read(wanted)), window)

    parts = _gather(predictions_folder(state, endpoint), lambda path: segment_table(path, window, with_inputs=with_inputs), read)
    return once(whole(parts))


def read_labels(state: Path, window: Window | None = None, *, history: bool = False, objects: ObjectStore | None = None) -> pa.Table:
    """Return labels known in a window of event time: id, value, text, at, received_at, ordered by at.

    A label by key is that of the last prediction about the key that was made by then, wherever its day lies; it waits for one, and is
    left out, as long as there is none. Of one id the label that came last counts; the same value sent again is the first one. With
    history, corrected ones stay in. value is float64 (true as 1), null for a label that is text; text is null for one that is a number.
    """
    told = _told_labels(state, window)
    ids = _resolved(state, told, objects)
    order = [place for place in np.argsort(np.array(told.received, dtype=np.int64), kind="stable").tolist() if ids[place] is not None]
    kept = _latest(order, ids, told.values, history=history)
    kept.sort(key=lambda place: (told.at[place], told.received[place]))
    found = [told.values[place] for place in kept]
    return pa.table(
        {
            "id": pa.array([ids[place] for place in kept], pa.string()),
            "value": pa.array([None if isinstance(value, str) else float(value) for value in found], pa.float64()),
            "text": pa.array([value if isinstance(value, str) else None for value in found], pa.string()),
            "at": pa.array([told.at[place] for place in kept], MOMENT),
            "received_at": pa.array([told.received[place] for place in kept], MOMENT),
        }
    )


def count_pending(state: Path, endpoint: str, *, objects: ObjectStore | None = None) -> int:
    """Return for how many keys of an endpoint labels have come, and no prediction that was made by then."""
    told = _told_labels(state, None, endpoint=endpoint)
    ids = _resolved(state, told, objects)
    return len({key for key, found in zip(told.ids, ids, strict=True) if found is None})


def labels_about(
    state: Path, endpoint: str, ids: set[str], *, before: int, objects: ObjectStore | None
) -> list[tuple[str, int | None]]:  # fmt: skip
    """Return the labels, corrected ones too, of predictions by their ids: (id, None), or (key, at) where they came by key.

    Labels by key that are older than before (microseconds) and still wait are among them: all that they could be about has gone.
    """
    told = _told_labels(state, None)
    resolved = _resolved(state, told, objects)
    found: list[tuple[str, int | None]] = []
    for name, at, of, unit in zip(told.ids, told.at, told.endpoints, resolved, strict=True):
        if of is None and name in ids:
            found.append((name, None))
        elif of == endpoint and (unit in ids or (unit is None and at < before)):
            found.append((name, at))
    return found


class _Told(Passed):
    """Labels as they lie in the journal, in lists along each other. ids: keys where there is an endpoint."""

    ids: list[str]
    values: list[Any]
    at: list[int]
    received: list[int]
    endpoints: list[str | None]


def _told_labels(state: Path, window: Window | None, *, endpoint: str | None = None) -> _Told:
    told = _Told([], [], [], [], [])
    low, high = (micros(window.start), micros(window.end)) if window is not None else (None, None)
    for path in segments(labels_folder(state)):
        for frame in frames(path.read_bytes(), lambda last: low is None or last >= low):
            if (payload := frame.payload()) is None:
                continue
            record = unpack(payload, LabelRecord)
            if endpoint is not None and record.endpoint != endpoint:
                continue
            places = [place for place, at in enumerate(record.at) if low is None or high is None or low <= at < high]
            told.ids += [record.ids[place] for place in places]
            told.values += [record.values[place] for place in places]
            told.at += [record.at[place] for place in places]
            told.received += [record.received] * len(places)
            told.endpoints += [record.endpoint] * len(places)
    return told


def _resolved(state: Path, told: _Told, objects: ObjectStore | None) -> list[str | None]:
    """Return the id of the prediction that each label is about, None where there is none yet."""
    ids: list[str | None] = list(told.ids)
    for endpoint in {each for each in told.endpoints if each is not None}:
        places = [place for place, each in enumerate(told.endpoints) if each == endpoint]
        told_of = pa.table({"key": [told.ids[place] for place in places], "at": pa.array([told.at[place] for place in places], MOMENT)})
        for place, found in zip(places, _made_by(state, endpoint, told_of, objects), strict=True):
            ids[place] = found
    return ids


def _made_by(state: Path, endpoint: str, told: pa.Table, objects: ObjectStore | None) -> list[str | None]:
    """Return the id of the last prediction about each key that was made by each moment."""
    made = read_predictions(state, endpoint, with_inputs=False, objects=objects)
    made = made.filter(pc.and_(pc.is_valid(made["key"]), pc.invert(made["shadow"]))).select(["key", "at", "id"])
    with duckdb.connect() as connection:
        connection.register("made", made)
        connection.register("told", told.append_column("place", pa.array(range(told.num_rows), pa.int64())))
        query = "SELECT made.id FROM told ASOF LEFT JOIN made ON told.key = made.key AND told.at >= made.at ORDER BY place"
        return [found for (found,) in connection.execute(query).fetchall()]


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


def find_prediction(
    state: Path, prediction_id: str, *, endpoints: Sequence[str], objects: ObjectStore | None = None
) -> JournaledPrediction:
    """Return the answer that one of some endpoints gave under an id. Raises PredictionNotFound."""
    for name in endpoints:
        parts = _gather(
            predictions_folder(state, name),
            lambda path: segment_table(path, None, holding=prediction_id.encode()),
            lambda file: _holding(file, prediction_id, objects),
        )
        table = once(whole(parts))
        table = table.filter(pc.and_(pc.equal(table["id"], pa.scalar(prediction_id)), pc.invert(table["shadow"])))
        if table.num_rows:
            row = table.slice(0, 1).to_pylist()[0]
            columns = {key.removeprefix(INPUT): row.pop(key) for key in list(row) if key.startswith(INPUT)}
            told = {key.removeprefix(OUTPUT): row.pop(key) for key in list(row) if key.startswith(OUTPUT)}
            outputs = {output: value for output, value in told.items() if value is not None}  # other versions answered more
            return JournaledPrediction(endpoint=name, columns=columns, outputs=outputs, **row)
    raise PredictionNotFound(prediction_id)


def _gather(folder: Path, segment: Callable[[Path], pa.Table], file: Callable[[File], pa.Table | None]) -> list[pa.Table]:
    """Return what a journal's segments and files tell, as one moment has them: compaction may move rows from one to the other."""
    trouble: Exception | None = None
    for _ in range(TRIES):
        there = segments(folder)
        try:
            tables = [segment(path) for path in there]
            found = [file(each) for each in compacted(folder, open_segments=frozenset(path.stem for path in there))]
        except (FileNotFoundError, ObjectNotFound) as error:
            trouble = error  # compacted, merged or moved meanwhile: look again
            continue
        return tables + [table for table in found if table is not None]
    raise Corrupt(f"journal {folder} lacks a file that its ledger names ({trouble}); restore the file from a backup") from trouble


@lru_cache(maxsize=1 << 16)  # a file never changes, and its footer is most of what finding one id in many files costs
def _id_ranges(path: str, _written: int) -> tuple[tuple[str | None, str | None], ...]:
    """Return the least and the greatest id of each row group of a file, None where the file does not say."""
    metadata = pq.read_metadata(path)
    column = metadata.schema.names.index("id")
    found = (metadata.row_group(place).column(column).statistics for place in range(metadata.num_row_groups))
    return tuple((each.min, each.max) if each is not None and each.has_min_max else (None, None) for each in found)


def _holding(file: File, prediction_id: str, objects: ObjectStore | None) -> pa.Table | None:
    """Return the rows of a file with an id: only the row groups whose ids lie around it are read."""
    if file.part is not None and not file.part.ids[0] <= prediction_id <= file.part.ids[1]:
        return None
    path = opened(file, objects)
    ranges = enumerate(_id_ranges(str(path), path.stat().st_mtime_ns))
    groups = [place for place, (low, high) in ranges if low is None or high is None or low <= prediction_id <= high]
    if not groups:
        return None
    table = full(pq.ParquetFile(path).read_row_groups(groups))
    return table.filter(pc.equal(table["id"], pa.scalar(prediction_id)))


def _latest(order: list[int], ids: Sequence[str | None], values: list[Any], *, history: bool) -> list[int]:
    told: set[tuple[str | None, Any]] = set()
    last: dict[str | None, int] = {}
    kept: list[int] = []
    for place in order:
        key = (ids[place], values[place])
        if key not in told:
            told.add(key)
            last[ids[place]] = place
            kept.append(place)
    return kept if history else list(last.values())
