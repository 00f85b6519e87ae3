"""A batch job: rows to scores as one dataset version, with its run, lineage and event. The same request is the same job.

What a job has done lies in `batch/JOB` of the state folder, a file for each shard, and stays there until it is published: started
again after a kill, it goes on. Shards depend on the input alone, so that every executor writes the same files.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from math import ceil
from pathlib import Path
from typing import Annotated, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link, walk
from tidemill.compute.executor import Executor, open_executor
from tidemill.core.clock import elapsed
from tidemill.core.digest import digest_value
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import Digest, RunId, check_name
from tidemill.core.signature import ModelSpec
from tidemill.core.values import Meta, Value
from tidemill.datasets.versions import DatasetVersion, add_parts, paths
from tidemill.datasets.versions import read_version as read_dataset
from tidemill.features.definitions import ServiceVersion, read_service
from tidemill.govern.workspace import Workspace
from tidemill.serving.batch.columns import ColumnsRefused, ModelColumns
from tidemill.serving.batch.folders import held, jobs_folder
from tidemill.serving.batch.shard import (
    LookUp,
    OnBad,
    RowsRefused,
    Scoring,
    Shard,
    ShardDone,
    ShardWork,
    finished,
    output_schema,
    score_shard,
)
from tidemill.serving.batch.source import SUFFIXES, Source, check_unchanged, from_dataset, from_file, from_query, schema_of, spooled
from tidemill.serving.runtimes.runtime import check_runtime, read_spec
from tidemill.serving.subject import Subject, bundle_folder, of_endpoint, of_model
from tidemill.tracking.batches import log_metrics
from tidemill.tracking.runs import Run, end_run, read_run, start_run, update_run

SHARD_ROWS = 262_144
BATCH_ROWS = 8192
BATCH_ROWS_LEAST = 64
BATCHES_HELD = 3  # by a worker: one that is read, one that is scored, one that is written
EXPERIMENT = "batch scoring"
FORMAT = 1  # of what a job writes; another one makes other jobs
Positive = Annotated[int, Meta(ge=1)]


class BatchRequest(Value, frozen=True, kw_only=True):
    """What to score, with what, and where the scores go.

    One of model (`NAME@VERSION`, `NAME@ALIAS`) and endpoint; one of data (`NAME@VERSION`, or the path of a file) and sql.
    to: the dataset that gets a version. columns: of the input, kept in the output, key first. at: the column with the moment of each
    row, as of which features are looked up. on_bad: what becomes of rows that the model's signature refuses. memory_mb: what rows
    under way may take, all workers together. shard_rows: what is done, or done again after a kill, as a whole.
    """

    to: str
    model: str | None = None
    endpoint: str | None = None
    data: str | None = None
    sql: str | None = None
    key: str | None = None
    columns: tuple[str, ...] = ()
    at: str | None = None
    on_bad: OnBad = "fail"
    executor: str | None = None
    batch_rows: Positive = BATCH_ROWS
    memory_mb: Positive | None = None
    shard_rows: Positive = SHARD_ROWS

    def __post_init__(self) -> None:
        check_name(self.to, "dataset")
        if (self.model is None) == (self.endpoint is None):
            raise Invalid("a batch job is scored by one thing; name a model version (NAME@VERSION or NAME@ALIAS), or an endpoint")
        if (self.data is None) == (self.sql is None):
            raise Invalid("a batch job reads one thing; give a dataset version or a file (data), or a query (sql)")

    @property
    def reads_file(self) -> bool:
        """Whether data is the path of a file."""
        return self.data is not None and Path(self.data).suffix in SUFFIXES


class BatchResult(Value, frozen=True, kw_only=True):
    """What came of a job. resumed: shards that an earlier start had scored; again: the whole job had been done before."""

    run: RunId
    dataset: str
    version: int
    digest: Digest
    rows: int
    refused: int
    shards: int
    resumed: int
    seconds: float
    again: bool


class BatchScored(EventBody, frozen=True, kw_only=True, tag="batch.scored"):
    """A table of rows was scored into a dataset version. refused: rows without a score."""

    run: RunId
    model: str
    model_version: int
    dataset: str
    version: int
    rows: int
    refused: int


class Watch(Protocol):
    """Hears how far a job is: rows done (before this start: of them), of how many, and seconds since this start."""

    def __call__(self, done: int, before: int, total: int, seconds: float) -> None: ...


class _Job(Value, frozen=True, kw_only=True):
    """A request with everything that it names pinned."""

    request: BatchRequest
    subject: Subject
    spec: ModelSpec
    source: Source
    service: ServiceVersion | None
    events: dict[str, DatasetVersion]
    threshold: float | None
    digest: Digest

    @property
    def run(self) -> RunId:
        """The run of a job has its name, so that the same job is the same run."""
        return RunId(self.digest[:32])

    @property
    def nodes(self) -> tuple[str, ...]:
        """What the job reads, as lineage knows it."""
        features = (self.service.node, *(version.node for version in self.events.values())) if self.service else ()
        return tuple(dict.fromkeys((*self.source.nodes, self.subject.node, *features)))


def score_batch(ws: Workspace, request: BatchRequest, *, watch: Watch | None = None) -> BatchResult:
    """Score every row of the input, in its order, into a version of a dataset.

    A request that was done before returns what came of it; one that was begun goes on behind its finished shards. Nothing is published
    before the last row is scored. Raises ColumnsRefused, RowsRefused, ModelFailed, Conflict while the same job runs elsewhere.
    """
    ws.require("datasets.write", request.to)
    began = elapsed()
    job = _pin(ws, request)
    folder = jobs_folder(ws.state) / job.digest
    with held(folder, job.run):
        result = _published(ws, job)
        if result is None:
            try:
                result = _work(ws, job, folder, watch=watch, began=began)
            except (ColumnsRefused, RowsRefused):
                shutil.rmtree(folder, ignore_errors=True)  # the same job will be refused again
                raise
        shutil.rmtree(folder, ignore_errors=True)
    return result


def shards_of(files: Sequence[Path], rows: Sequence[int], folder: Path, *, shard_rows: int) -> list[Shard]:
    """Return the shards of files with so many rows each: each of one file, shard_rows long at most; an empty one of no rows."""
    found: list[Shard] = []
    first = 0
    for path, count in zip(files, rows, strict=True):
        for number in range(ceil(count / shard_rows)):
            skip = number * shard_rows
            taken = min(shard_rows, count - skip)
            found.append(Shard(path=str(path), skip=skip, rows=taken, first=first + skip, target=_target(folder, len(found))))
        first += count
    return found or [Shard(path=str(files[0]), skip=0, rows=0, first=0, target=_target(folder, 0))]


def kept_of(request: BatchRequest) -> tuple[str, ...]:
    """Return the columns of the input that go to the output, in their order."""
    return tuple(dict.fromkeys((*([request.key] if request.key is not None else []), *request.columns)))


def batch_rows_of(request: BatchRequest, *, row_bytes: int, workers: int) -> int:
    """Return how many rows a worker takes at once, so that all together keep within memory_mb."""
    if request.memory_mb is None:
        return request.batch_rows
    fitting = (request.memory_mb << 20) // (max(1, row_bytes) * workers * BATCHES_HELD)
    return max(min(BATCH_ROWS_LEAST, request.batch_rows), min(request.batch_rows, fitting))


def _target(folder: Path, number: int) -> str:
    return str(folder / f"shard-{number:06d}.parquet")


def _pin(ws: Workspace, request: BatchRequest) -> _Job:
    subject = of_endpoint(ws, request.endpoint) if request.endpoint is not None else of_model(ws, str(request.model))
    spec = read_spec(bundle_folder(ws, subject))
    check_runtime(spec, ws.settings.trusted_runtimes)
    source = _source(ws, request)
    service = read_service(ws, spec.feature_service) if spec.feature_service is not None else None
    sources = sorted({view.definition.source for view in service.views}) if service is not None else []
    events = {name: read_dataset(ws, name) for name in sources}
    if service is not None and request.at is None:
        raise Invalid(
            f"model {subject.reference} looks features up (service {service.reference}) as of a moment of each row; "
            f"name the column that holds it with --at"
        )
    threshold = subject.threshold if subject.threshold is not None else spec.threshold
    said = {
        "format": FORMAT, "project": ws.project, "to": request.to, "bundle": subject.bundle, "model": subject.reference,
        "threshold": threshold, "input": source.identity, "key": request.key, "columns": kept_of(request), "at": request.at,
        "on_bad": request.on_bad, "shard_rows": request.shard_rows, "features": service.reference if service is not None else None,
        "events": {name: version.digest for name, version in events.items()},
    }  # fmt: skip
    return _Job(
        request=request, subject=subject, spec=spec, source=source, service=service, events=events, threshold=threshold,
        digest=digest_value(said),
    )  # fmt: skip


def _source(ws: Workspace, request: BatchRequest) -> Source:
    if request.sql is not None:
        return from_query(ws, request.sql)
    return from_file(Path(str(request.data))) if request.reads_file else from_dataset(ws, str(request.data))


def _published(ws: Workspace, job: _Job) -> BatchResult | None:
    """Return what came of the job if it was published, and end its run should that have been cut off."""
    try:
        run = read_run(ws, job.run)
    except NotFound:
        return None
    with ws.catalog.reading() as tx:
        edges = walk(tx, ws.project, run.node, direction="downstream", depth=1)
    made = next((edge.target for edge in edges if edge.target.startswith(f"dataset:{job.request.to}@") and edge.relation == "wrote"), None)
    if made is None:
        return None
    version = read_dataset(ws, made.partition(":")[2])
    if run.status != "finished":
        update_run(ws, job.run, status="finished")
    return BatchResult(
        run=job.run, dataset=version.name, version=version.version, digest=version.digest, rows=version.rows,
        refused=int(run.metrics.get("refused", 0)), shards=0, resumed=0, seconds=0.0, again=True,
    )  # fmt: skip


def _check_columns(job: _Job, schema: pa.Schema) -> None:
    """Raise ColumnsRefused for a table that cannot be scored, whatever its rows hold."""
    looked_up = {name: pa.float64() if kind == "double" else pa.string() for name, kind in _feature_kinds(job.service)}
    own = [field for field in schema if field.name not in looked_up]
    joined = pa.schema([*own, *(pa.field(name, kind) for name, kind in looked_up.items())])
    faults = ModelColumns(job.spec, looked_up=tuple(looked_up)).refused(joined)
    keys = [] if job.service is None else [key for view in job.service.views for key in view.definition.entity]
    keys += job.service.on_demand.request if job.service is not None else ()
    wanted = dict.fromkeys((*kept_of(job.request), *keys, *([job.request.at] if job.service is not None and job.request.at else [])))
    faults += [f"column {name!r} is missing" for name in wanted if name not in schema.names]
    made = output_schema(pa.schema([]), kept=(), threshold=job.threshold, on_bad=job.request.on_bad, others=job.spec.others).names
    faults += [f"column {name!r} would stand beside the output's own of that name" for name in kept_of(job.request) if name in made]
    if faults:
        raise ColumnsRefused(job.source.text, job.subject.reference, list(dict.fromkeys(faults)))


def _feature_kinds(service: ServiceVersion | None) -> list[tuple[str, str]]:
    if service is None:
        return []
    wanted = set(service.feature_names)
    found = [(feature.name, feature.kind) for view in service.views for feature in view.definition.features if feature.name in wanted]
    return [*found, *service.on_demand.kinds.items()]


def _scoring(ws: Workspace, job: _Job, *, batch_rows: int) -> Scoring:
    return Scoring(
        bundle=str(bundle_folder(ws, job.subject)), model=job.subject.model, version=job.subject.version,
        trusted=ws.settings.trusted_runtimes, deadline_s=ws.settings.model_deadline_s, threshold=job.threshold,
        kept=kept_of(job.request), on_bad=job.request.on_bad, batch_rows=batch_rows, look_up=_look_up(ws, job),
        others=job.spec.others,
    )  # fmt: skip


def _look_up(ws: Workspace, job: _Job) -> LookUp | None:
    if job.service is None:
        return None
    return LookUp(
        views=tuple(view.definition for view in job.service.views),
        names=job.service.feature_names,
        events={name: tuple(map(str, paths(ws, version))) for name, version in job.events.items()},
        timestamp=str(job.request.at),
        on_demand=job.service.on_demand,
    )


def _open_run(ws: Workspace, job: _Job) -> Run:
    params = {"model": job.subject.reference, "input": job.source.text, "to": job.request.to, "on_bad": job.request.on_bad}
    name = f"{job.subject.reference} on {job.source.text}"
    run = start_run(ws, EXPERIMENT, name=name, kind="batch", params=params, sources=job.nodes, run_id=job.run)
    return run if run.status == "running" else update_run(ws, job.run, status="running")


def _work(ws: Workspace, job: _Job, folder: Path, *, watch: Watch | None, began: float) -> BatchResult:
    files = spooled(ws, job.source, folder)
    schema, rows = schema_of(files)
    _check_columns(job, schema)
    _open_run(ws, job)
    try:
        return _run(ws, job, shards_of(files, rows, folder, shard_rows=job.request.shard_rows), watch=watch, began=began)
    except BaseException as error:
        update_run(ws, job.run, status="failed" if isinstance(error, Exception) else "killed")
        raise


def _run(ws: Workspace, job: _Job, shards: list[Shard], *, watch: Watch | None, began: float) -> BatchResult:
    done: dict[str, ShardDone] = {shard.target: there for shard in shards if (there := finished(shard)) is not None}
    resumed, total = len(done), sum(shard.rows for shard in shards)
    before = sum(each.rows for each in done.values())
    left = [shard for shard in shards if shard.target not in done]
    if left:
        with closing(open_executor(job.request.executor or ws.settings.executor)) as executor:
            at_once = batch_rows_of(job.request, row_bytes=_row_bytes(left), workers=min(executor.workers, len(left)))
            scoring = _scoring(ws, job, batch_rows=at_once)
            rows = before
            for shard, found in zip(left, _scored(executor, scoring, left), strict=True):
                done[shard.target] = found
                rows += found.rows
                if watch is not None:
                    watch(rows, before, total, elapsed() - began)
    check_unchanged(job.source)
    refused = sum(each.refused for each in done.values())
    seconds = elapsed() - began
    log_metrics(ws, job.run, {"rows": float(total), "refused": float(refused), "seconds": seconds})
    made = add_parts(
        ws, job.request.to, [Path(shard.target) for shard in shards], rows=total, beside=partial(_tell, ws, job, total, refused)
    )  # fmt: skip
    end_run(ws, job.run)
    return BatchResult(
        run=job.run, dataset=made.name, version=made.version, digest=made.digest, rows=total, refused=refused, shards=len(shards),
        resumed=resumed, seconds=seconds, again=False,
    )  # fmt: skip


def _scored(executor: Executor, scoring: Scoring, shards: Sequence[Shard]) -> Iterator[ShardDone]:
    return executor.map(score_shard, (ShardWork(scoring=scoring, shard=shard) for shard in shards))


def _row_bytes(shards: Sequence[Shard]) -> int:
    """Return about how many bytes a row takes in memory, by what the files say of themselves."""
    metadata = pq.read_metadata(shards[0].path)
    size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    return int(2 * size / max(1, metadata.num_rows))  # as columns, and as the matrix made of them


def _tell(ws: Workspace, job: _Job, rows: int, refused: int, tx: Connection, made: DatasetVersion) -> None:
    link(tx, ws.project, source=f"run:{job.run}", target=made.node, relation="wrote", at=ws.clock.now())
    event = BatchScored(
        run=job.run, model=job.subject.model, model_version=job.subject.version, dataset=made.name, version=made.version, rows=rows,
        refused=refused,
    )  # fmt: skip
    ws.record(tx, event, subject=f"dataset:{made.name}")
