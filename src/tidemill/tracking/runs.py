"""Runs: one execution of anything, with params written once, metrics, tags and artifacts. Owns their table."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    Table,
    UniqueConstraint,
    bindparam,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import insert as insert_or  # what is used of it here reads the same on SQLite

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.prepared import Prepared
from tidemill.catalog.schema import METADATA, Moment, Text
from tidemill.core.clock import from_micros, micros, utc
from tidemill.core.errors import Conflict, NotFound
from tidemill.core.ids import Digest, EventId, RunId, new_run_id
from tidemill.core.values import Value, field, replace
from tidemill.govern.workspace import Workspace
from tidemill.tracking import facts, files, points
from tidemill.tracking.experiments import EXPERIMENTS, View, write_experiment
from tidemill.tracking.points import Points

RunKind = Literal["run", "pipeline", "step", "trial", "batch", "window"]
RunStatus = Literal["scheduled", "running", "finished", "failed", "killed"]
Details = Literal["all", "metrics", "tags", "none"]  # which of what a run has under keys is read with it
OPEN: tuple[RunStatus, ...] = ("scheduled", "running")

RUNS = Table(
    "runs",
    METADATA,
    # The short number that a run's rows elsewhere go by; never told to anybody.
    Column("no", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
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
    Column("deleted_at", Moment),
    Column("message", Text, nullable=False),
    UniqueConstraint("project", "id"),
    Index("ix_runs_experiment", "project", "experiment_id", "deleted_at", "started_at", "id"),
    Index("ix_runs_started", "project", "deleted_at", "started_at"),
    Index("ix_runs_parent", "project", "parent"),
)

_OWN = ("id", "experiment_id", "name", "kind", "parent", "status", "actor", "started_at", "ended_at", "deleted_at", "message")
_MOMENTS = ("started_at", "ended_at", "deleted_at")
_GIVEN = ("project", "id", "experiment_id", "name", "kind", "parent", "status", "actor", "started_at", "message")


class Seen(Value, frozen=True, kw_only=True, array_like=True):
    """Where the latest point of a metric lies. at_ms: milliseconds since 1970, as its protocols tell times of points."""

    step: int
    at_ms: int


class RunArtifact(Value, frozen=True, kw_only=True):
    """A file that a run left, by its path among them."""

    path: str
    digest: Digest
    size_bytes: int


class Run(Value, frozen=True, kw_only=True):
    """One execution, with the latest value of each metric (that of its highest step) and where it lies.

    location: where its experiment's clients put artifacts, "" when this server keeps them.
    """

    id: RunId
    experiment: str
    experiment_id: int
    location: str
    name: str
    kind: RunKind
    parent: RunId | None
    status: RunStatus
    actor: str
    started_at: datetime
    ended_at: datetime | None
    deleted_at: datetime | None
    message: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    last: dict[str, Seen] = field(default_factory=dict)
    artifacts: tuple[RunArtifact, ...] = ()

    @property
    def node(self) -> str:
        """The name of this run in lineage."""
        return f"run:{self.id}"

    @property
    def lifecycle(self) -> Literal["active", "deleted"]:
        return "active" if self.deleted_at is None else "deleted"


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


class RunMoved(EventBody, frozen=True, kw_only=True, tag="run.moved"):
    """A run was put into the trash, or taken out of it."""

    run: RunId
    name: str
    to: Literal["trash", "use"]


class RunNotFound(NotFound):
    """No run of that id."""

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__(f"there is no run {run!r} in this project; list them with: tidemill run list")


class RunInTrash(Conflict):
    """The run was deleted."""

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__(f"run {run} is in the trash and takes nothing; restore it with: tidemill run restore {run}")


class _Found(Value, frozen=True, kw_only=True):
    """What writing to a run has to know."""

    no: int
    experiment_id: int


_FIND = Prepared(
    select(RUNS.c.no, RUNS.c.experiment_id, RUNS.c.deleted_at).where(RUNS.c.project == bindparam("project"), RUNS.c.id == bindparam("id"))
)
_ADD = Prepared(
    insert_or(RUNS)
    .values({name: bindparam(name) for name in _GIVEN})
    .on_conflict_do_nothing(index_elements=["project", "id"])
    .returning(RUNS.c.no)
)
_SET_STATUS = Prepared(
    update(RUNS)
    .where(RUNS.c.no == bindparam("of"))
    .values(status=bindparam("status"), ended_at=bindparam("ended_at"), message=bindparam("message"))
)
_READ = (
    select(*(type_coerce(RUNS.c[name], BigInteger) if name.endswith("_at") else RUNS.c[name] for name in ("no", *_OWN)))
    .add_columns(EXPERIMENTS.c.name, EXPERIMENTS.c.location)
    .select_from(RUNS.join(EXPERIMENTS, (EXPERIMENTS.c.project == RUNS.c.project) & (EXPERIMENTS.c.id == RUNS.c.experiment_id)))
)
_READ_ONE = Prepared(_READ.where(RUNS.c.project == bindparam("project"), RUNS.c.id == bindparam("id")))


def start_run(
    ws: Workspace,
    experiment: str | int,
    *,
    name: str,
    kind: RunKind = "run",
    parent: RunId | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    sources: Sequence[str] = (),
    run_id: RunId | None = None,
    started_at: datetime | None = None,
    cause: EventId | None = None,
) -> Run:
    """Begin a run of an experiment (a name, made when new, or an id).

    sources are lineage nodes that it reads. With a run_id that is there already, return that run (a retry).
    Raises ExperimentNotFound, ExperimentInTrash, Invalid.
    """
    ws.require("tracking.write", str(experiment))
    run_id, now = run_id or new_run_id(), ws.clock.now()
    with ws.catalog.transaction() as tx:
        belongs = write_experiment(ws, tx, experiment)
        row = {
            "project": ws.project, "id": run_id, "experiment_id": belongs, "name": name, "kind": kind, "parent": parent,
            "status": "running", "actor": ws.actor.id, "started_at": micros(started_at or now), "message": "",
        }  # fmt: skip
        added = _ADD.run(tx, row).fetchall()
        if not added:
            return _read(tx, ws.project, run_id)
        no = added[0][0]
        facts.write_params(tx, no, belongs, params or {}, run=run_id)
        facts.write_tags(tx, no, belongs, tags or {})
        for source in sources:
            link(tx, ws.project, source=source, target=f"run:{run_id}", relation="read", at=now)
        if parent is not None:
            link(tx, ws.project, source=f"run:{run_id}", target=f"run:{parent}", relation="part of", at=now)
        ws.record(tx, RunStarted(run=run_id, name=name, run_kind=kind), subject=f"run:{run_id}", cause=cause)
        made = read_many(tx, ws.project, [run_id], details="none")[0]
    given = {key: str(value) for key, value in sorted((params or {}).items())}
    return replace(made, params=given, tags=dict(sorted((tags or {}).items())))


def delete_tag(ws: Workspace, run: str, key: str) -> None:
    """Remove a tag. Raises RunNotFound, RunInTrash, NotFound when there is no such tag."""
    ws.require("tracking.write", run)
    with ws.catalog.transaction() as tx:
        if not facts.remove_tag(tx, find_run(tx, ws.project, run).no, key):
            raise NotFound(f"run {run} has no tag {key!r}; nothing was removed")


def log_artifact(ws: Workspace, run: RunId, path: str, data: bytes) -> RunArtifact:
    """Keep bytes under a path of a run. Raises RunNotFound, RunInTrash, PathRefused, FileInTheWay."""
    ws.require("tracking.write", run)
    files.check_path(path)
    artifact = RunArtifact(path=path, digest=ws.objects.put(data), size_bytes=len(data))
    with ws.catalog.transaction() as tx:
        found = find_run(tx, ws.project, run)
        files.write_file(ws, tx, f"{files.run_folder(found.experiment_id, run)}/{path}", artifact.digest, artifact.size_bytes)
    return artifact


def end_run(
    ws: Workspace,
    run: RunId,
    *,
    status: RunStatus = "finished",
    message: str = "",
    ended_at: datetime | None = None,
    cause: EventId | None = None,
) -> Run:
    """Record how a run ended, now unless told when. Ending an ended run again changes nothing. Raises RunNotFound, RunInTrash."""
    ws.require("tracking.write", run)
    with ws.catalog.transaction() as tx:
        found = find_run(tx, ws.project, run)
        before = _read(tx, ws.project, run)
        if before.status not in OPEN:
            return before
        return _write_status(ws, tx, found.no, before, status=status, ended_at=ended_at or ws.clock.now(), message=message, cause=cause)


def update_run(
    ws: Workspace, run: str, *, name: str | None = None, status: RunStatus | None = None, ended_at: datetime | None = None
) -> Run:
    """Rename a run, or say anew how it stands: an ended run may be opened again. Raises RunNotFound, RunInTrash.

    Returned with its tags, without params, metrics and artifacts: nobody who ends a run asks for them.
    """
    ws.require("tracking.write", run)
    with ws.catalog.transaction() as tx:
        found = _read_numbered(tx, ws.project, [run], details="tags")
        if not found:
            raise RunNotFound(run)
        no, now = found[0]
        if now.deleted_at is not None:
            raise RunInTrash(run)
        if status is not None:
            ended = None if status in OPEN else ended_at or now.ended_at or ws.clock.now()
            now = _write_status(ws, tx, no, now, status=status, ended_at=ended)
        elif ended_at is not None:
            tx.execute(update(RUNS).where(RUNS.c.no == no).values(ended_at=ended_at))
            now = replace(now, ended_at=utc(ended_at))
        if name is not None and name != now.name:
            tx.execute(update(RUNS).where(RUNS.c.no == no).values(name=name))
            now = replace(now, name=name)
        return now


def delete_run(ws: Workspace, run: str) -> None:
    """Put a run into the trash. One that lies there already stays. Raises RunNotFound."""
    _move(ws, run, "trash")


def restore_run(ws: Workspace, run: str) -> None:
    """Take a run out of the trash. Raises RunNotFound."""
    _move(ws, run, "use")


def read_run(ws: Workspace, run: str) -> Run:
    """Return a run by its id, deleted or not, with its artifacts. Raises RunNotFound."""
    ws.require("tracking.read", run)
    with ws.catalog.reading() as tx:
        return _read(tx, ws.project, run)


def read_runs(ws: Workspace, ids: Sequence[str], *, details: Details = "all") -> list[Run]:
    """Return runs in the order of ids, those that are there, deleted or not, without their artifacts."""
    ws.require("tracking.read")
    with ws.catalog.reading() as tx:
        return read_many(tx, ws.project, ids, details=details)


def read_head(ws: Workspace, run: str) -> Run:
    """Return what a run has of its own, without params, tags, metrics and artifacts, of which it may have many. Raises RunNotFound."""
    found = read_runs(ws, [run], details="none")
    if not found:
        raise RunNotFound(run)
    return found[0]


def metric_history(ws: Workspace, run: str, key: str) -> Points:
    """Return all points of a metric in the order in which they were logged; none for a key that was never logged. Raises RunNotFound."""
    ws.require("tracking.read", run)
    with ws.catalog.reading() as tx:
        return points.read_points(tx, find_run(tx, ws.project, run, deleted=True).no, key)


def list_runs(
    ws: Workspace,
    *,
    experiment: str | None = None,
    kinds: Sequence[RunKind] = (),
    parent: str | None = None,
    view: View = "active",
    limit: int = 100,
    details: Details = "all",
    metrics: int | None = None,
) -> list[Run]:
    """Return runs, newest first. metrics: at most so many of each run, for a list that shows no more (a run may have thousands)."""
    ws.require("tracking.read")
    query = select(RUNS.c.id).where(RUNS.c.project == ws.project).order_by(RUNS.c.started_at.desc(), RUNS.c.id.desc()).limit(limit)
    if view != "all":
        query = query.where(RUNS.c.deleted_at.is_(None) if view == "active" else RUNS.c.deleted_at.is_not(None))
    if experiment is not None:
        named = select(EXPERIMENTS.c.id).where(EXPERIMENTS.c.project == ws.project, EXPERIMENTS.c.name == experiment)
        query = query.where(RUNS.c.experiment_id.in_(named))
    if kinds:
        query = query.where(RUNS.c.kind.in_(kinds))
    if parent is not None:
        query = query.where(RUNS.c.parent == parent)
    with ws.catalog.reading() as tx:
        return read_many(tx, ws.project, list(tx.execute(query).scalars()), details=details, metrics=metrics)


def find_run(tx: Connection, project: str, run: str, *, deleted: bool = False) -> _Found:
    """Return the numbers that a run's rows go by, in the caller's transaction. Raises RunNotFound, RunInTrash unless deleted ones count."""
    row = _FIND.run(tx, {"project": project, "id": run}).fetchone()
    if row is None:
        raise RunNotFound(run)
    if row[2] is not None and not deleted:
        raise RunInTrash(run)
    return _Found(no=row[0], experiment_id=row[1])


def read_many(tx: Connection, project: str, ids: Sequence[str], *, details: Details = "all", metrics: int | None = None) -> list[Run]:
    """Return runs in the order of ids, those that are there, in the caller's transaction. metrics: at most so many of each."""
    return [run for _, run in _read_numbered(tx, project, ids, details=details, metrics=metrics)]


def _read_numbered(
    tx: Connection, project: str, ids: Sequence[str], *, details: Details, metrics: int | None = None
) -> list[tuple[int, Run]]:
    """Do what read_many does, and tell the numbers that the runs' rows go by."""
    if len(ids) == 1:
        rows = _READ_ONE.run(tx, {"project": project, "id": ids[0]}).fetchall()
    else:
        rows = [tuple(row) for row in tx.execute(_READ.where(RUNS.c.project == project, RUNS.c.id.in_(ids)))] if ids else []
    numbers = [row[0] for row in rows]
    tags = facts.read_texts(tx, facts.TAGS, numbers if details in ("all", "tags") else [])
    params = facts.read_texts(tx, facts.PARAMS, numbers if details == "all" else [])
    latest = facts.read_latest(tx, numbers if details in ("all", "metrics") else [], at_most=metrics)
    runs: dict[str, tuple[int, Run]] = {}
    for no, *own, experiment, location in rows:
        seen = latest.get(no, ())
        given: dict[str, Any] = dict(zip(_OWN, own, strict=True))
        given.update({name: None if given[name] is None else from_micros(given[name]) for name in _MOMENTS})
        run = Run(
            **given,
            experiment=experiment,
            location=location,
            params=params.get(no, {}),
            tags=tags.get(no, {}),
            metrics={key: value for key, value, _, _ in seen},
            last={key: Seen(step=step, at_ms=at // 1000) for key, _, step, at in seen},
        )
        runs[run.id] = (no, run)
    return [runs[i] for i in ids if i in runs]


def _move(ws: Workspace, run: str, to: Literal["trash", "use"]) -> None:
    ws.require("tracking.write", run)
    with ws.catalog.transaction() as tx:
        found = find_run(tx, ws.project, run, deleted=True)
        before = read_many(tx, ws.project, [run], details="none")[0]
        if (before.deleted_at is not None) != (to == "trash"):
            tx.execute(update(RUNS).where(RUNS.c.no == found.no).values(deleted_at=ws.clock.now() if to == "trash" else None))
            ws.record(tx, RunMoved(run=before.id, name=before.name, to=to), subject=f"run:{run}")


def _write_status(
    ws: Workspace,
    tx: Connection,
    no: int,
    before: Run,
    *,
    status: RunStatus,
    ended_at: datetime | None,
    message: str = "",
    cause: EventId | None = None,
) -> Run:
    """Write how a run stands; return it as it is now."""
    now = replace(before, status=status, ended_at=None if ended_at is None else utc(ended_at), message=message or before.message)
    ended = None if ended_at is None else micros(ended_at)
    _SET_STATUS.run(tx, {"of": no, "status": status, "ended_at": ended, "message": now.message})
    if status in OPEN:
        if before.status not in OPEN:
            ws.record(tx, RunStarted(run=before.id, name=before.name, run_kind=before.kind), subject=before.node, cause=cause)
        return now
    points.pack_rest(tx, no)
    if before.status != status:
        event = RunEnded(run=before.id, name=before.name, run_kind=before.kind, status=status, message=message)
        ws.record(tx, event, subject=before.node, cause=cause)
    return now


def _read(tx: Connection, project: str, run: str) -> Run:
    found = read_many(tx, project, [run])
    if not found:
        raise RunNotFound(run)
    return replace(found[0], artifacts=_artifacts(tx, project, found[0]))


def _artifacts(tx: Connection, project: str, run: Run) -> tuple[RunArtifact, ...]:
    folder = files.run_folder(run.experiment_id, run.id)
    return tuple(
        RunArtifact(path=file.path[len(folder) + 1 :], digest=file.digest, size_bytes=file.size_bytes)
        for file in files.read_files(tx, project, folder)
    )
