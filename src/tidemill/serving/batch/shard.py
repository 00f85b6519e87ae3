"""One shard of a batch job: rows of a Parquet file in, scores as a Parquet file out. Runs in any process that sees the folders."""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidemill.core.errors import Corrupt, Invalid
from tidemill.core.signature import ModelSpec, Output, OutputKind
from tidemill.core.values import Value
from tidemill.features.keys import AskingRows
from tidemill.features.on_demand import OnDemand
from tidemill.features.timeline import complete
from tidemill.features.timeline import look_up as looked_up
from tidemill.features.views import FeatureView
from tidemill.serving.batch.columns import Faults, ModelColumns
from tidemill.serving.outputs import Array, Others, put_together
from tidemill.serving.runtimes.runtime import Answer, Columns, ModelFailed, Runtime, Scores, load_runtime, read_spec

T = TypeVar("T")
OnBad = Literal["fail", "null"]
GROUP_ROWS = 65_536  # of the output: the same whatever the batches were, so that equal scores are equal files
READ_BYTES = 1 << 20
FAULTS_TOLD = 20
REFUSED_KEY = b"tidemill.refused"
_KINDS: Mapping[OutputKind, pa.DataType] = {
    "double": pa.float64(), "float": pa.float32(), "long": pa.int64(), "boolean": pa.bool_(), "string": pa.string(),
}  # fmt: skip


class LookUp(Value, frozen=True, kw_only=True):
    """Features that are joined to the rows as of each row's moment. events: Parquet files of each source, by its name."""

    views: tuple[FeatureView, ...]
    names: tuple[str, ...]
    events: dict[str, tuple[str, ...]]
    timestamp: str
    on_demand: OnDemand = OnDemand()

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of the rows by which they are looked up."""
        return tuple(dict.fromkeys(name for view in self.views for name in view.entity))


class Scoring(Value, frozen=True, kw_only=True):
    """What all shards of a job share. bundle: the folder of the model's files; kept: columns of the input that go to the output."""

    bundle: str
    model: str
    version: int
    trusted: tuple[str, ...]
    deadline_s: float
    threshold: float | None
    kept: tuple[str, ...]
    on_bad: OnBad
    batch_rows: int
    look_up: LookUp | None = None
    others: tuple[Output, ...] = ()


class Shard(Value, frozen=True, kw_only=True):
    """Some rows of one Parquet file: `rows` of them behind `skip`. first: the number of the first of them in the whole input."""

    path: str
    skip: int
    rows: int
    first: int
    target: str


class ShardWork(Value, frozen=True, kw_only=True):
    """What a worker is given."""

    scoring: Scoring
    shard: Shard


class ShardDone(Value, frozen=True, kw_only=True):
    """What came of a shard. refused: rows without a score."""

    rows: int
    refused: int


class RowsRefused(Invalid):
    """Rows of the input do not fit the model, and the job is not to leave them out."""

    def __init__(self, model: str, faults: Faults, *, total: int) -> None:
        self.model, self.faults, self.total = model, faults, total
        told = "; ".join(f"row {row}: {fault}" for row, fault in faults.items())
        more = f" (and {total - len(faults)} more near them)" if total > len(faults) else ""
        super().__init__(
            f"model {model} cannot score these rows: {told}{more}; nothing was published, "
            f"mend the rows, or give them no score with --on-bad null"
        )


def output_schema(
    source: pa.Schema, *, kept: Sequence[str], threshold: float | None, on_bad: OnBad, others: Sequence[Output] = ()
) -> pa.Schema:  # fmt: skip
    """Return the columns of the output: kept ones of the source, then what comes of scoring; what is several values a row is a list."""
    fields = [source.field(name) for name in kept]
    fields.append(pa.field("score", pa.float64()))
    if threshold is not None:
        fields.append(pa.field("label", pa.bool_()))
    taken = {"model", "version", "refused", *(field.name for field in fields[len(kept) :])}
    for output in others:
        kind = _KINDS[output.kind]
        name = f"output.{output.name}" if output.name in taken else output.name
        fields.append(pa.field(name, kind if output.width is None else pa.list_(kind)))
    fields += [pa.field("model", pa.string()), pa.field("version", pa.int32())]
    if on_bad == "null":
        fields.append(pa.field("refused", pa.string()))
    return pa.schema(fields)


def score_shard(work: ShardWork) -> ShardDone:
    """Score the rows of a shard into its target, which appears whole, with as many rows, or not at all.

    Raises RowsRefused (when on_bad is "fail"), ModelFailed, Corrupt, Invalid.
    """
    scoring, shard = work.scoring, work.shard
    scorer = _Scorer(scoring)
    faults: Faults = {}
    refused = 0
    target = Path(shard.target)
    scratch = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with pq.ParquetFile(shard.path, buffer_size=READ_BYTES, pre_buffer=False) as file:
            schema = output_schema(
                file.schema_arrow, kept=scoring.kept, threshold=scoring.threshold, on_bad=scoring.on_bad, others=scoring.others
            )
            with _Writer(scratch, schema) as writer:
                row = shard.first
                for batch in ahead(read_rows(file, shard, scorer.columns_of(file.schema_arrow), scoring.batch_rows)):
                    scores, others, wrong = scorer.score(batch)
                    refused += len(wrong)
                    if wrong and scoring.on_bad == "fail":
                        faults.update((row + place, fault) for place, fault in list(wrong.items())[: FAULTS_TOLD - len(faults)])
                        if len(faults) == FAULTS_TOLD:
                            break
                    writer.write(_output(batch, scores, others, wrong, scoring, schema))
                    row += batch.num_rows
                if faults:
                    raise RowsRefused(f"{scoring.model}@{scoring.version}", faults, total=refused)
                if row - shard.first != shard.rows:
                    raise Corrupt(
                        f"{shard.path} ended after {row} rows; expected {shard.first + shard.rows}: it was changed, run the job again"
                    )
                writer.note(refused)
        _sync(scratch)
        scratch.replace(target)
        _sync(target.parent)
    finally:
        scratch.unlink(missing_ok=True)
    return ShardDone(rows=shard.rows, refused=refused)


def finished(shard: Shard) -> ShardDone | None:
    """Return what came of a shard that was scored before, None for one that was not."""
    try:
        metadata = pq.read_metadata(shard.target)
    except (FileNotFoundError, pa.ArrowInvalid, OSError):
        return None
    if metadata.num_rows != shard.rows:
        return None
    return ShardDone(rows=shard.rows, refused=int((metadata.metadata or {}).get(REFUSED_KEY, b"0")))


def read_rows(file: pq.ParquetFile, shard: Shard, columns: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a shard. Row groups before it are not read; of a long one the beginning is read and left out."""
    metadata, begin, skip = file.metadata, 0, shard.skip
    groups: list[int] = []
    for number in range(metadata.num_row_groups):
        end = begin + metadata.row_group(number).num_rows
        if begin < shard.skip + shard.rows and end > shard.skip:
            if not groups:
                skip = shard.skip - begin
            groups.append(number)
        begin = end
    left = shard.rows
    # One thread: as many shards are under way as there are cores.
    for batch in file.iter_batches(batch_rows, row_groups=groups, columns=list(columns), use_threads=False):
        taken = batch.slice(skip, left)
        skip -= min(skip, batch.num_rows)
        left -= taken.num_rows
        if taken.num_rows:
            yield taken
        if left == 0:
            return


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items while a thread makes the next one, so that reading waits for nobody and nobody for reading."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


class _Scorer:
    """Runs a model over batches of rows."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._runtime, spec = _load(scoring.bundle, scoring.trusted, f"{scoring.model}@{scoring.version}", scoring.deadline_s)
        look_up = scoring.look_up
        self._others = spec.others
        self._columns = ModelColumns(spec, looked_up=look_up.names if look_up is not None else ())
        self._events = {} if look_up is None else {name: _events(paths) for name, paths in look_up.events.items()}

    def columns_of(self, schema: pa.Schema) -> list[str]:
        """Return which columns of a file are to be read."""
        look_up = self._scoring.look_up
        keys = (*look_up.keys, look_up.timestamp, *look_up.on_demand.request) if look_up is not None else ()
        brought = look_up.names if look_up is not None else ()
        fed = [column.name for column in self._columns.inputs if column.name not in brought]
        return [name for name in dict.fromkeys((*self._scoring.kept, *fed, *keys)) if name in schema.names]

    def score(self, batch: pa.RecordBatch) -> tuple[Scores, Others, Faults]:
        """Return the score of each row, NaN for those that are refused, what is said beside it, and why they are."""
        columns, faults = self._columns.take(self._joined(batch))
        scores = np.full(batch.num_rows, np.nan)
        others: Others = {}
        well = np.setdiff1d(np.arange(batch.num_rows), list(faults)) if faults else np.arange(batch.num_rows)
        if len(well):
            parts: list[tuple[NDArray[np.intp], Others]] = []
            for start, answer in self._run(columns, len(well)):
                places = well[start : start + len(answer.scores)]
                scores[places] = answer.scores
                parts.append((places, {output.name: array for output, array in zip(self._others, answer.others, strict=True)}))
            if sum(len(places) for places, _ in parts) < len(well):
                silent = np.setdiff1d(well, np.concatenate([places for places, _ in parts])) if parts else well
                faults.update((int(place), "the model's score is not a finite number") for place in silent)
            others = parts[0][1] if not faults else put_together(parts, batch.num_rows)
        return scores, others, dict(sorted(faults.items()))

    def _run(self, columns: Columns, rows: int, start: int = 0) -> list[tuple[int, Answer]]:
        """Return what the model says of rows, from which row on. Those that it has no number for are looked for by halves, and left out."""
        try:
            with np.errstate(all="ignore"):  # numbers that single precision cannot hold become infinite
                return [(start, self._runtime.answer(columns, rows) if self._others else Answer(self._runtime.run(columns, rows), ()))]
        except ModelFailed as error:
            if "is not a finite number" not in error.reason:
                raise
        if rows == 1:
            return []
        middle = rows // 2
        halves = ((0, middle), (middle, rows))
        return [part for low, high in halves for part in self._run(_part(columns, low, high), high - low, start + low)]

    def _joined(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        look_up = self._scoring.look_up
        if look_up is None:
            return batch
        entities = pa.Table.from_batches([batch.select(list(dict.fromkeys((*look_up.keys, look_up.timestamp))))])
        columns = {name: batch.column(name) for name in batch.schema.names if name not in look_up.names}
        asking: dict[tuple[str, ...], AskingRows] = {}
        for view in look_up.views:
            if view.entity not in asking:
                asking[view.entity] = AskingRows(entities, view.entity, look_up.timestamp)
            found = looked_up(view, self._events[view.source], asking[view.entity])
            columns.update({name: found[name] for name in look_up.names if name in found})
        joined = complete(pa.table(columns), look_up.on_demand)
        return joined.combine_chunks().to_batches()[0] if joined.num_rows else pa.RecordBatch.from_pylist([], joined.schema)


class _Writer:
    """Writes row groups of one length, whatever the length of what comes."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        few: Any = [
            field.name for field in schema if pa.types.is_string(field.type) or field.name == "version"
        ]  # (its types say bool, its text either)
        self._file = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1, use_dictionary=few)
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        while self._rows >= GROUP_ROWS:
            table = pa.Table.from_batches(self._waiting)
            self._put(table.slice(0, GROUP_ROWS))
            self._waiting = table.slice(GROUP_ROWS).to_batches()
            self._rows = table.num_rows - GROUP_ROWS

    def note(self, refused: int) -> None:
        """Add what is left, and how many rows had no score."""
        if self._rows:
            self._put(pa.Table.from_batches(self._waiting))
        self._file.add_key_value_metadata({REFUSED_KEY.decode(): str(refused)})

    def _put(self, table: pa.Table) -> None:
        self._file.write_table(table.combine_chunks(), row_group_size=GROUP_ROWS)


def _output(
    batch: pa.RecordBatch, scores: Scores, others: Others, faults: Faults, scoring: Scoring, schema: pa.Schema
) -> pa.RecordBatch:  # fmt: skip
    rows = batch.num_rows
    absent = np.isnan(scores) if faults else None
    columns = [batch.column(name) for name in scoring.kept]
    columns.append(pa.array(scores, pa.float64(), mask=absent))
    if scoring.threshold is not None:
        columns.append(pa.array(scores >= scoring.threshold, pa.bool_(), mask=absent))
    for output in scoring.others:
        columns.append(_column(others.get(output.name), schema.field(len(columns)).type, absent, rows))
    columns += [pa.repeat(pa.scalar(scoring.model), rows), pa.repeat(pa.scalar(scoring.version, pa.int32()), rows)]
    if scoring.on_bad == "null":
        columns.append(pa.array([faults.get(place) for place in range(rows)], pa.string()) if faults else pa.nulls(rows, pa.string()))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(array: Array | None, kind: Any, absent: Any, rows: int) -> Any:
    """Return what is said beside the score as a column: null where there is no score."""
    if array is None:
        return pa.nulls(rows, kind)
    if array.ndim == 1:
        return pa.array(array, kind, mask=absent)
    there = np.ones(rows, dtype=bool) if absent is None else ~absent
    ends = np.concatenate([[0], np.cumsum(there * array.shape[1])])
    values = pa.array(array[there].reshape(-1), kind.value_type)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values, mask=None if absent is None else pa.array(absent))


def _part(columns: Columns, start: int, stop: int) -> Columns:
    take = getattr(columns, "take", None)
    if take is not None:
        part: Columns = take(list(range(start, stop)))
        return part
    return {name: column[start:stop] for name, column in columns.items()}


@lru_cache(maxsize=2)  # shards of one job follow each other in a process
def _load(bundle: str, trusted: tuple[str, ...], model: str, deadline_s: float) -> tuple[Runtime, ModelSpec]:
    folder = Path(bundle)
    spec = read_spec(folder)
    return load_runtime(folder, spec, trusted=trusted, model=model, deadline_s=deadline_s), spec


@lru_cache(maxsize=8)
def _events(paths: tuple[str, ...]) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in paths])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
