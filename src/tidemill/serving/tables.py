"""Records of a journal as Arrow tables: what a segment tells, tables of different shapes as one, each prediction once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.core.clock import micros
from tidemill.core.codec import unpack
from tidemill.core.window import Window
from tidemill.serving.journal import PredictionHead, PredictionRecord, frames
from tidemill.serving.outputs import unpack_array

INPUT = "input."
OUTPUT = "output."
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
    "key": pa.string(),
    "inputs_kept": pa.bool_(),
}
PREDICTIONS = pa.schema(_FIELDS)


def segment_table(path: Path, window: Window | None, *, holding: bytes | None = None, with_inputs: bool = True) -> pa.Table:
    """Return what a segment tells of a window; holding: only the records in which these bytes stand."""
    data = path.read_bytes()
    if holding is not None and holding not in data:
        return PREDICTIONS.empty_table()
    low, high = (micros(window.start), micros(window.end)) if window is not None else (0, 0)
    wanted: Callable[[int], bool] = (lambda at: low <= at < high) if window is not None else (lambda _: True)
    groups: dict[tuple[tuple[str, ...], ...], list[Any]] = {}
    kind = PredictionRecord if with_inputs else PredictionHead
    for frame in frames(data, wanted):
        if (holding is not None and not frame.holds(holding)) or (payload := frame.payload()) is None:
            continue
        record = unpack(payload, kind)
        names: tuple[tuple[str, ...], ...] = ((), (), ())
        if isinstance(record, PredictionRecord):
            names = (tuple(record.columns), tuple(record.block.names) if record.block is not None else (), tuple(record.others or ()))
        groups.setdefault(names, []).append(record)
    return whole([_records_table(single, block, others, records) for (single, block, others), records in groups.items()])


def _records_table(names: tuple[str, ...], block: tuple[str, ...], others: tuple[str, ...], records: Sequence[Any]) -> pa.Table:
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
        "key": pa.array(_each((record.keys, len(record.ids)) for record in records), pa.string()),
        "inputs_kept": repeated([record.inputs_kept for record in records], pa.bool_()),
    }
    for name in names:
        columns[INPUT + name] = _column([value for record in records for value in record.columns[name]])
    if block:
        matrices = [np.frombuffer(record.block.data, record.block.dtype).reshape(-1, len(block)) for record in records]
        whole = np.concatenate(matrices, dtype=np.float64)
        columns |= {INPUT + name: pa.array(whole[:, place], from_pandas=True) for place, name in enumerate(block)}
    for name in others:
        columns[OUTPUT + name] = _column([value for record in records for value in unpack_array(record.others[name]).tolist()])
    return pa.table(columns)


def _each(told: Iterable[tuple[Any, int]]) -> list[Any]:
    """Return a value a row: it stands once for all rows of a record, or in a list."""
    return [each for value, count in told for each in (value if isinstance(value, list) else [value] * count)]


def _column(values: list[Any]) -> "pa.Array[Any]":
    try:
        found: pa.Array[Any] = pa.array(values, from_pandas=True)  # NaN as null
        return found
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # callers sent numbers at one time and text at another
        return pa.array(_texts(values), pa.string())


def whole(parts: Sequence[pa.Table] | Iterator[pa.Table]) -> pa.Table:
    """Return tables as one that has all their columns; a column that is of one kind here and of another there becomes text."""
    tables = [PREDICTIONS.empty_table(), *parts]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.concat_tables([_as_text(table, _clashing(tables)) for table in tables], promote_options="permissive")


def _clashing(tables: Sequence[pa.Table]) -> set[str]:
    kinds: dict[str, set[str]] = {}
    for table in tables:
        for field in table.schema:
            if not pa.types.is_null(field.type):
                kinds.setdefault(field.name, set()).add(_kind(field.type))
    return {name for name, found in kinds.items() if len(found) > 1}


def _kind(of: pa.DataType) -> str:
    if pa.types.is_list(of):
        return f"list of {_kind(of.value_type)}"
    return "text" if pa.types.is_string(of) else "truth" if pa.types.is_boolean(of) else "number"


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    for name in names & set(table.column_names):
        found = table[name]
        told = pa.array(_texts(found.to_pylist()), pa.string()) if pa.types.is_list(found.type) else found.cast(pa.string())
        table = table.set_column(table.column_names.index(name), name, told)
    return table


def _texts(values: Sequence[Any]) -> list[str | None]:
    return [None if value is None else str(value) for value in values]


def within(table: pa.Table, window: Window | None) -> pa.Table:
    """Return the rows of a window of event time, all without one."""
    if window is None:
        return table
    low, high = pa.scalar(micros(window.start), MOMENT), pa.scalar(micros(window.end), MOMENT)
    return table.filter(pc.and_(pc.greater_equal(table["at"], low), pc.less(table["at"], high)))


def once(table: pa.Table) -> pa.Table:
    """Return each prediction once, ordered by event time, then by the time at which it came."""
    received: NDArray[np.int64] = table["received_at"].cast(pa.int64()).to_numpy()
    at: NDArray[np.int64] = table["at"].cast(pa.int64()).to_numpy()
    order = np.lexsort((received, at))
    if len(pc.unique(table["id"])) < table.num_rows:
        came: NDArray[np.int64] = np.argsort(received, kind="stable")
        keys = (
            pa.table({"id": table["id"], "who": _who(table)})
            .take(pa.array(came, pa.int64()))
            .append_column("rank", pa.array(np.arange(len(came))))
        )
        ranks: NDArray[np.int64] = keys.group_by(["id", "who"]).aggregate([("rank", "min")])["rank_min"].to_numpy()
        first = np.zeros(len(came), dtype=bool)
        first[came[ranks]] = True
        order = order[first[order]]
    return table.take(pa.array(order, pa.int64()))


def _who(table: pa.Table) -> Any:
    """Return the variant of shadow rows, null for what callers were told: those were told by one variant, whichever it was."""
    return pc.if_else(table["shadow"], table["variant"], pa.scalar(None, pa.string()))


def full(table: pa.Table) -> pa.Table:
    """Return a table with all columns of PREDICTIONS: files of earlier versions have no keys, and kept all inputs."""
    for name, value in (("key", pa.scalar(None, pa.string())), ("inputs_kept", pa.scalar(True))):
        if name not in table.column_names:
            table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table
