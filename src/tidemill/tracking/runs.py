"""Runs: one execution of anything, with params written once, metrics, tags and artifacts. Owns their tables."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Column, Connection, Float, Index, PrimaryKeyConstraint, Table, func, insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.schema import METADATA, Moment, Text, insert_new, upsert
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import Digest, EventId, RunId, new_run_id
from tidemill.core.values import Value, field
from tidemill.govern.workspace import Workspace
from tidemill.tracking.experiments import EXPERIMENTS, write_experiment

RunKind = Literal["run", "pipeline", "step", "trial", "batch", "window"]
RunStatus = Literal["running", "finished", "failed", "killed"]

RUNS = Table(
    "runs",
    METADATA,
    Column("project", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("experiment_id", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("parent", Text),
    Column("status", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("message", Text, nullable=False),
    PrimaryKeyConstraint("project", "id"),
    Index("ix_runs_experiment", "project", "experiment_id", "started_at"),
    Index("ix_runs_parent", "project", "parent"),
)


def _by_key(name: str, *columns: Any, also_key: tuple[str, ...] = ()) -> Table:
    """A table of what a run has under a key."""
    keys = (Column("project", Text, nullable=False), Column("run", Text, nullable=False), Column("key", Text, nullable=False))
    return Table(name, METADATA, *keys, *columns, PrimaryKeyConstraint("project", "run", "key", *also_key))


def _point() -> tuple[Any, ...]:
    return Column("value", Float(53), nullable=False), Column("step", BigInteger, nullable=False), Column("at", Moment, nullable=False)


PARAMS = _by_key("params", Column("value", Text, nullable=False))
TAGS = _by_key("run_tags", Column("value", Text, nullable=False))
# The latest point of each key: what lists and searches read.
METRICS = _by_key("metrics", *_point(), Index("ix_metrics_value", "project", "key", "value"))
METRIC_POINTS = _by_key("metric_points", Column("number", BigInteger, nullable=False), *_point(), also_key=("number",))
RUN_ARTIFACTS = Table(
    "run_artifacts",
    METADATA,
    Column("project", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("project", "run", "path"),
)


class Metric(Value, frozen=True, kw_only=True):
    """One point of one metric."""

    key: str
    value: float
    step: int = 0
    at: datetime | None = None


class RunArtifact(Value, frozen=True, kw_only=True):
    """A file that a run left."""

    path: str
    digest: Digest
    size_bytes: int


class Run(Value, frozen=True, kw_only=True):
    """One execution, with the latest value of each metric."""

    id: RunId
    experiment: str
    name: str
    kind: RunKind
    parent: RunId | None
    status: RunStatus
    actor: str
    started_at: datetime
    ended_at: datetime | None
    message: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: tuple[RunArtifact, ...] = ()

    @property
    def node(self) -> str:
        """The name of this run in lineage."""
        return f"run:{self.id}"


class RunStarted(EventBody, frozen=True, kw_only=True, tag="run.started"):
    """Something began to execute."""

    run: RunId
    name: str
    run_kind: RunKind


class RunEnded(EventBody, frozen=True, kw_only=True, tag="run.ended"):
    """An execution came to its end."""

    run: RunId
    name: str
    run_kind: RunKind
    status: RunStatus
    message: str = ""


class RunNotFound(NotFound):
    """No run of that id."""

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__(f"there is no run {run!r} in this project; list them with: tidemill run list")


class ParamRewritten(Conflict):
    """A param is written once."""

    def __init__(self, run: str, key: str, before: str, after: str) -> None:
        self.run, self.key, self.before, self.after = run, key, before, after
        super().__init__(
            f"param {key!r} of run {run} is {before!r} already and cannot become {after!r}; log a value that changes as a metric or tag"
        )


def start_run(
    ws: Workspace,
    experiment: str,
    *,
    name: str,
    kind: RunKind = "run",
    parent: RunId | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    sources: Sequence[str] = (),
    run_id: RunId | None = None,
    cause: EventId | None = None,
) -> Run:
    """Begin a run. sources are lineage nodes that it reads. With a run_id that is there already, return that run (a retry)."""
    ws.require("tracking.write", experiment)
    run_id, now = run_id or new_run_id(), ws.clock.now()
    with ws.catalog.transaction() as tx:
        row = {
            "project": ws.project, "id": run_id, "experiment_id": write_experiment(tx, ws.project, experiment, at=now), "name": name,
            "kind": kind, "parent": parent, "status": "running", "actor": ws.actor.id, "started_at": now, "message": "",
        }  # fmt: skip
        if insert_new(tx, RUNS, [row]):
            _write_params(tx, ws.project, run_id, params or {})
            _write_tags(tx, ws.project, run_id, tags or {})
            for source in sources:
                link(tx, ws.project, source=source, target=f"run:{run_id}", relation="read", at=now)
            if parent is not None:
                link(tx, ws.project, source=f"run:{run_id}", target=f"run:{parent}", relation="part of", at=now)
            ws.record(tx, RunStarted(run=run_id, name=name, run_kind=kind), subject=f"run:{run_id}", cause=cause)
        return _read(tx, ws.project, run_id)


def log_params(ws: Workspace, run: RunId, params: Mapping[str, Any]) -> None:
    """Write params once. Raises ParamRewritten for another value under a key."""
    ws.require("tracking.write", run)
    with ws.catalog.transaction() as tx:
        _check_there(tx, ws.project, run)
        _write_params(tx, ws.project, run, params)


def log_metrics(ws: Workspace, run: RunId, metrics: Sequence[Metric] | Mapping[str, float]) -> None:
    """Add points to the histories of metrics, in order."""
    ws.require("tracking.write", run)
    now = ws.clock.now()
    points = [Metric(key=key, value=float(value)) for key, value in metrics.items()] if isinstance(metrics, Mapping) else list(metrics)
    for point in points:
        if math.isnan(point.value):
            raise Invalid(
                f"metric {point.key!r} of run {run} is NaN at step {point.step}; log a number, or leave the point out; nothing was logged"
            )
    with ws.catalog.transaction() as tx:
        _check_there(tx, ws.project, run)
        mine = (METRIC_POINTS.c.project == ws.project) & (METRIC_POINTS.c.run == run)
        counts = {row[0]: row[1] for row in tx.execute(select(METRIC_POINTS.c.key, func.count()).where(mine).group_by(METRIC_POINTS.c.key))}
        rows = []
        for point in points:
            counts[point.key] = number = counts.get(point.key, 0) + 1
            rows.append(
                {
                    "project": ws.project,
                    "run": run,
                    "key": point.key,
                    "number": number,
                    "value": point.value,
                    "step": point.step,
                    "at": point.at or now,
                }
            )
        if rows:
            tx.execute(insert(METRIC_POINTS), rows)
            latest = {row["key"]: {name: value for name, value in row.items() if name != "number"} for row in rows}
            upsert(tx, METRICS, list(latest.values()))


def set_tags(ws: Workspace, run: RunId, tags: Mapping[str, str]) -> None:
    """Write tags, replacing those of the same key."""
    ws.require("tracking.write", run)
    with ws.catalog.transaction() as tx:
        _check_there(tx, ws.project, run)
        _write_tags(tx, ws.project, run, tags)


def log_artifact(ws: Workspace, run: RunId, path: str, data: bytes) -> RunArtifact:
    """Keep bytes under a path of a run."""
    ws.require("tracking.write", run)
    artifact = RunArtifact(path=path, digest=ws.objects.put(data), size_bytes=len(data))
    with ws.catalog.transaction() as tx:
        _check_there(tx, ws.project, run)
        row = {"project": ws.project, "run": run, "path": path, "digest": artifact.digest, "size_bytes": artifact.size_bytes}
        upsert(tx, RUN_ARTIFACTS, [row])
        link(tx, ws.project, source=f"run:{run}", target=f"artifact:{artifact.digest}", relation="wrote", at=ws.clock.now())
    return artifact


def end_run(ws: Workspace, run: RunId, *, status: RunStatus = "finished", message: str = "", cause: EventId | None = None) -> Run:
    """Record how a run ended. Ending an ended run again changes nothing."""
    ws.require("tracking.write", run)
    with ws.catalog.transaction() as tx:
        before = _read(tx, ws.project, run)
        if before.status == "running":
            ended = update(RUNS).where(RUNS.c.project == ws.project, RUNS.c.id == run)
            tx.execute(ended.values(status=status, ended_at=ws.clock.now(), message=message))
            event = RunEnded(run=run, name=before.name, run_kind=before.kind, status=status, message=message)
            ws.record(tx, event, subject=f"run:{run}", cause=cause)
        return _read(tx, ws.project, run)


def read_run(ws: Workspace, run: str) -> Run:
    """Return a run by its id. Raises RunNotFound."""
    ws.require("tracking.read", run)
    with ws.catalog.reading() as tx:
        return _read(tx, ws.project, RunId(run))


def metric_history(ws: Workspace, run: str, key: str) -> list[Metric]:
    """Return all points of a metric in the order in which they were logged."""
    ws.require("tracking.read", run)
    points = METRIC_POINTS.c
    query = select(METRIC_POINTS).where(points.project == ws.project, points.run == run, points.key == key).order_by(points.number)
    with ws.catalog.reading() as tx:
        return [Metric(key=row.key, value=row.value, step=row.step, at=row.at) for row in tx.execute(query)]


def list_runs(
    ws: Workspace, *, experiment: str | None = None, kinds: Sequence[RunKind] = (), parent: str | None = None, limit: int = 100
) -> list[Run]:
    """Return runs, newest first."""
    ws.require("tracking.read")
    query = select(RUNS.c.id).where(RUNS.c.project == ws.project).order_by(RUNS.c.started_at.desc(), RUNS.c.id.desc()).limit(limit)
    if experiment is not None:
        named = select(EXPERIMENTS.c.id).where(EXPERIMENTS.c.project == ws.project, EXPERIMENTS.c.name == experiment)
        query = query.where(RUNS.c.experiment_id.in_(named))
    if kinds:
        query = query.where(RUNS.c.kind.in_(kinds))
    if parent is not None:
        query = query.where(RUNS.c.parent == parent)
    with ws.catalog.reading() as tx:
        return _read_many(tx, ws.project, list(tx.execute(query).scalars()))


def _check_there(tx: Connection, project: str, run: RunId) -> None:
    if tx.execute(select(RUNS.c.id).where(RUNS.c.project == project, RUNS.c.id == run)).first() is None:
        raise RunNotFound(run)


def _write_params(tx: Connection, project: str, run: RunId, params: Mapping[str, Any]) -> None:
    rows = [{"project": project, "run": run, "key": key, "value": str(value)} for key, value in params.items()]
    if insert_new(tx, PARAMS, rows) == len(rows):
        return
    written = tx.execute(select(PARAMS.c.key, PARAMS.c.value).where(PARAMS.c.project == project, PARAMS.c.run == run))
    before = {row.key: row.value for row in written}
    for row in rows:
        if before[row["key"]] != row["value"]:
            raise ParamRewritten(run, row["key"], before[row["key"]], row["value"])


def _write_tags(tx: Connection, project: str, run: RunId, tags: Mapping[str, str]) -> None:
    upsert(tx, TAGS, [{"project": project, "run": run, "key": key, "value": value} for key, value in tags.items()])


def _read(tx: Connection, project: str, run: RunId) -> Run:
    found = _read_many(tx, project, [run])
    if not found:
        raise RunNotFound(run)
    return found[0]


def _read_many(tx: Connection, project: str, ids: Sequence[str]) -> list[Run]:
    if not ids:
        return []
    named = RUNS.join(EXPERIMENTS, (EXPERIMENTS.c.project == RUNS.c.project) & (EXPERIMENTS.c.id == RUNS.c.experiment_id))
    query = select(RUNS, EXPERIMENTS.c.name.label("experiment")).select_from(named).where(RUNS.c.project == project, RUNS.c.id.in_(ids))
    rows = {row.id: row for row in tx.execute(query)}
    details: dict[str, dict[str, Any]] = {"params": {}, "tags": {}, "metrics": {}}
    for name, table in (("params", PARAMS), ("tags", TAGS), ("metrics", METRICS)):
        for row in tx.execute(
            select(table.c.run, table.c.key, table.c.value).where(table.c.project == project, table.c.run.in_(ids)).order_by(table.c.key)
        ):
            details[name].setdefault(row.run, {})[row.key] = row.value
    files: dict[str, list[RunArtifact]] = {}
    for row in tx.execute(
        select(RUN_ARTIFACTS).where(RUN_ARTIFACTS.c.project == project, RUN_ARTIFACTS.c.run.in_(ids)).order_by(RUN_ARTIFACTS.c.path)
    ):
        files.setdefault(row.run, []).append(RunArtifact(path=row.path, digest=Digest(row.digest), size_bytes=row.size_bytes))
    runs = []
    for run in (i for i in ids if i in rows):
        own: dict[str, Any] = {name: by_run.get(run, {}) for name, by_run in details.items()}
        runs.append(_run(rows[run], artifacts=tuple(files.get(run, ())), **own))
    return runs


def _run(row: Any, **details: Any) -> Run:
    names = ("id", "experiment", "name", "kind", "parent", "status", "actor", "started_at", "ended_at", "message")
    return Run(**{name: getattr(row, name) for name in names}, **details)
