"""Logged models: a model that a run made, before anybody registers it, with its params, tags and metrics. Owns their tables."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Column, Connection, Float, Index, PrimaryKeyConstraint, Table, delete, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.schema import METADATA, Moment, Text, insert_new, upsert
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import new_id
from tidemill.core.values import Value, field
from tidemill.govern.workspace import Workspace
from tidemill.tracking.experiments import EXPERIMENTS, write_experiment
from tidemill.tracking.runs import find_run

ModelStatus = Literal["pending", "ready", "failed"]
NAME_MAX, TYPE_MAX = 500, 500
_NOT_IN_NAMES = "/:.%\"'"

LOGGED_MODELS = Table(
    "logged_models",
    METADATA,
    Column("project", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("experiment_id", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("model_type", Text, nullable=False),
    Column("source_run", Text),
    Column("message", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("deleted_at", Moment),
    PrimaryKeyConstraint("project", "id"),
    Index("ix_logged_models_experiment", "project", "experiment_id", "created_at", "id"),
    Index("ix_logged_models_run", "project", "source_run"),
)


def _texts(name: str) -> Table:
    keys = (Column(key, Text, nullable=False) for key in ("project", "model", "key", "value"))
    return Table(name, METADATA, *keys, PrimaryKeyConstraint("project", "model", "key"))


PARAMS = _texts("logged_model_params")
TAGS = _texts("logged_model_tags")
# value: NULL for NaN. dataset, digest: "" when it was measured on nothing that has a name.
METRICS = Table(
    "logged_model_metrics",
    METADATA,
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("run", Text, nullable=False),
    Column("value", Float(53)),
    Column("dataset", Text, nullable=False),
    Column("digest", Text, nullable=False),
    PrimaryKeyConstraint("project", "model", "key", "at", "step", "run"),
    Index("ix_logged_model_metrics_value", "project", "key", "value", "model"),
    Index("ix_logged_model_metrics_run", "project", "run"),
)


class ModelPoint(Value, frozen=True, kw_only=True):
    """One point of a metric of a logged model: in which run it was measured, and on which dataset."""

    key: str
    value: float
    step: int
    at: datetime
    run: str
    dataset: str = ""
    digest: str = ""


class LoggedModel(Value, frozen=True, kw_only=True):
    """A model as a run logged it. location: where its experiment's files lie, "" with this server."""

    id: str
    experiment_id: int
    location: str
    name: str
    status: ModelStatus
    model_type: str
    source_run: str | None
    message: str
    actor: str
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: tuple[ModelPoint, ...] = ()

    @property
    def node(self) -> str:
        """The name of this model in lineage."""
        return f"logged-model:{self.id}"


class ModelLogged(EventBody, frozen=True, kw_only=True, tag="logged_model.created"):
    """A run began to log a model."""

    model: str
    name: str


class ModelFinished(EventBody, frozen=True, kw_only=True, tag="logged_model.finished"):
    """A logged model is whole, or will never be."""

    model: str
    name: str
    status: ModelStatus


class ModelMoved(EventBody, frozen=True, kw_only=True, tag="logged_model.moved"):
    """A logged model was put into the trash, or taken out of it."""

    model: str
    name: str
    to: Literal["trash", "use"]


class LoggedModelNotFound(NotFound):
    """No logged model of that id, or it is in the trash."""

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(f"there is no logged model {model!r} in this project; search for it by its name or run")


class ModelParamRewritten(Conflict):
    """A param is written once."""

    def __init__(self, model: str, key: str) -> None:
        self.model, self.key = model, key
        super().__init__(f"param {key!r} of logged model {model} has another value already; log a value that changes as a tag")


def create_logged_model(
    ws: Workspace,
    experiment: int,
    *,
    name: str,
    model_type: str = "",
    source_run: str | None = None,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    model_id: str | None = None,
) -> LoggedModel:
    """Begin to log a model: it is pending until it is finished. Raises ExperimentNotFound, ExperimentInTrash, Invalid."""
    ws.require("tracking.write", str(experiment))
    _check_name(name, model_type)
    made, now = model_id or f"m-{new_id()}", whole_millis(ws.clock.now())
    with ws.catalog.transaction() as tx:
        write_experiment(ws, tx, experiment)
        row = {
            "project": ws.project, "id": made, "experiment_id": experiment, "name": name, "status": "pending", "model_type": model_type,
            "source_run": source_run or None, "message": "", "actor": ws.actor.id, "created_at": now, "updated_at": now,
        }  # fmt: skip
        if insert_new(tx, LOGGED_MODELS, [row]):
            _write_texts(tx, PARAMS, ws.project, made, params or {})
            _write_texts(tx, TAGS, ws.project, made, tags or {})
            if source_run:
                link(tx, ws.project, source=f"run:{source_run}", target=f"logged-model:{made}", relation="made", at=now)
            ws.record(tx, ModelLogged(model=made, name=name), subject=f"logged-model:{made}")
        return fetch_logged_model(tx, ws.project, made)


def finish_logged_model(ws: Workspace, model: str, *, status: ModelStatus) -> LoggedModel:
    """Say how logging a model ended. Raises LoggedModelNotFound."""
    ws.require("tracking.write", model)
    with ws.catalog.transaction() as tx:
        before = fetch_row(tx, ws.project, model, lock=True)
        tx.execute(update(LOGGED_MODELS).where(_is(ws.project, model)).values(status=status, updated_at=whole_millis(ws.clock.now())))
        if before.status != status:
            ws.record(tx, ModelFinished(model=model, name=before.name, status=status), subject=f"logged-model:{model}")
        return fetch_logged_model(tx, ws.project, model)


def read_logged_model(ws: Workspace, model: str, *, deleted: bool = False) -> LoggedModel:
    """Return a logged model. Raises LoggedModelNotFound, for one in the trash too unless deleted ones count."""
    ws.require("tracking.read", model)
    with ws.catalog.reading() as tx:
        return fetch_logged_model(tx, ws.project, model, deleted=deleted)


def delete_logged_model(ws: Workspace, model: str) -> None:
    """Put a logged model into the trash. One that lies there already stays. Raises LoggedModelNotFound."""
    _move(ws, model, "trash")


def restore_logged_model(ws: Workspace, model: str) -> None:
    """Take a logged model out of the trash. Raises LoggedModelNotFound."""
    _move(ws, model, "use")


def log_model_params(ws: Workspace, model: str, params: Mapping[str, str]) -> None:
    """Write params once. Raises LoggedModelNotFound, ModelParamRewritten."""
    ws.require("tracking.write", model)
    with ws.catalog.transaction() as tx:
        fetch_row(tx, ws.project, model, lock=True)
        known = fetch_logged_model(tx, ws.project, model).params
        for key, value in params.items():
            if known.get(key, value) != value:
                raise ModelParamRewritten(model, key)
        _write_texts(tx, PARAMS, ws.project, model, {key: value for key, value in params.items() if key not in known})


def set_model_tags(ws: Workspace, model: str, tags: Mapping[str, str]) -> None:
    """Write tags, replacing those of the same key. Raises LoggedModelNotFound."""
    ws.require("tracking.write", model)
    with ws.catalog.transaction() as tx:
        fetch_logged_model(tx, ws.project, model)
        _write_texts(tx, TAGS, ws.project, model, tags)


def delete_model_tag(ws: Workspace, model: str, key: str) -> None:
    """Remove a tag. Raises LoggedModelNotFound, NotFound when there is no such tag."""
    ws.require("tracking.write", model)
    with ws.catalog.transaction() as tx:
        fetch_logged_model(tx, ws.project, model)
        mine = (TAGS.c.project == ws.project) & (TAGS.c.model == model) & (TAGS.c.key == key)
        if tx.execute(delete(TAGS).where(mine)).rowcount == 0:
            raise NotFound(f"logged model {model} has no tag {key!r}; nothing was removed")


def write_model_points(ws: Workspace, tx: Connection, points: Mapping[str, Sequence[ModelPoint]]) -> None:
    """Add points of metrics by logged model, in the caller's transaction; points that are there count once. Raises LoggedModelNotFound."""
    for model, added in points.items():
        fetch_row(tx, ws.project, model)
        rows = [
            {
                "project": ws.project, "model": model, "key": point.key, "at": point.at, "step": point.step, "run": point.run,
                "value": None if math.isnan(point.value) else point.value, "dataset": point.dataset, "digest": point.digest,
            }
            for point in added
        ]  # fmt: skip
        insert_new(tx, METRICS, rows)


def log_model_points(ws: Workspace, run: str, points: Mapping[str, Sequence[ModelPoint]]) -> None:
    """Add points of metrics of logged models that a run measured. Raises RunNotFound, RunInTrash, LoggedModelNotFound."""
    ws.require("tracking.write", run)
    with ws.catalog.transaction() as tx:
        find_run(tx, ws.project, run)
        write_model_points(ws, tx, points)


def fetch_logged_model(tx: Connection, project: str, model: str, *, deleted: bool = False) -> LoggedModel:
    """Return a logged model, in the caller's transaction. Raises LoggedModelNotFound."""
    fetch_row(tx, project, model, deleted=deleted)
    return fetch_many(tx, project, [model])[0]


def fetch_row(tx: Connection, project: str, model: str, *, deleted: bool = False, lock: bool = False) -> Any:
    """Return the row of a logged model; lock: others who ask for it so wait until this transaction is over. Raises LoggedModelNotFound."""
    query = select(LOGGED_MODELS).where(_is(project, model))
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None or (row.deleted_at is not None and not deleted):
        raise LoggedModelNotFound(model)
    return row


def fetch_many(tx: Connection, project: str, models: Sequence[str]) -> list[LoggedModel]:
    """Return logged models in the order of their ids given, with all that belongs to them, in the caller's transaction."""
    of = EXPERIMENTS.c.id == LOGGED_MODELS.c.experiment_id
    query = select(LOGGED_MODELS, EXPERIMENTS.c.location).select_from(
        LOGGED_MODELS.join(EXPERIMENTS, of & (EXPERIMENTS.c.project == project))
    )
    rows = {row.id: row for row in tx.execute(query.where(LOGGED_MODELS.c.project == project, LOGGED_MODELS.c.id.in_(models)))}
    params, tags = _read_texts(tx, PARAMS, project, models), _read_texts(tx, TAGS, project, models)
    points: dict[str, list[ModelPoint]] = {}
    mine = (METRICS.c.project == project) & METRICS.c.model.in_(models)
    for row in tx.execute(select(METRICS).where(mine).order_by(METRICS.c.key, METRICS.c.at, METRICS.c.step)):
        points.setdefault(row.model, []).append(_point(row))
    own = [name for name in LoggedModel.__struct_fields__ if name not in ("params", "tags", "metrics")]
    return [
        LoggedModel(
            **{name: getattr(rows[model], name) for name in own},
            params=params.get(model, {}),
            tags=tags.get(model, {}),
            metrics=tuple(points.get(model, ())),
        )
        for model in models
        if model in rows
    ]


def whole_millis(moment: datetime) -> datetime:
    """Return a moment without what is below a millisecond: clients tell and compare these times in milliseconds."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _move(ws: Workspace, model: str, to: Literal["trash", "use"]) -> None:
    ws.require("tracking.write", model)
    with ws.catalog.transaction() as tx:
        before = fetch_row(tx, ws.project, model, deleted=True, lock=True)
        if (before.deleted_at is not None) == (to == "trash"):
            return
        now = whole_millis(ws.clock.now())
        changed = update(LOGGED_MODELS).where(_is(ws.project, model))
        tx.execute(changed.values(deleted_at=now if to == "trash" else None, updated_at=now))
        ws.record(tx, ModelMoved(model=model, name=before.name, to=to), subject=f"logged-model:{model}")


def _is(project: str, model: str) -> Any:
    return (LOGGED_MODELS.c.project == project) & (LOGGED_MODELS.c.id == model)


def _write_texts(tx: Connection, table: Table, project: str, model: str, texts: Mapping[str, str]) -> None:
    upsert(tx, table, [{"project": project, "model": model, "key": key, "value": value} for key, value in texts.items()])


def _read_texts(tx: Connection, table: Table, project: str, models: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for row in tx.execute(select(table).where(table.c.project == project, table.c.model.in_(models)).order_by(table.c.key)):
        found.setdefault(row.model, {})[row.key] = row.value
    return found


def _point(row: Any) -> ModelPoint:
    value = math.nan if row.value is None else row.value
    return ModelPoint(key=row.key, value=value, step=row.step, at=row.at, run=row.run, dataset=row.dataset, digest=row.digest)


def _check_name(name: str, model_type: str) -> None:
    if not name or len(name) > NAME_MAX or "\0" in name or any(letter in name for letter in _NOT_IN_NAMES):
        raise Invalid(
            f"model name {name[:80]!r} is not usable; expected 1 to {NAME_MAX} characters, none of them {' '.join(_NOT_IN_NAMES)}"
        )
    if len(model_type) > TYPE_MAX:
        raise Invalid(f"the model type has {len(model_type)} characters; expected at most {TYPE_MAX}")
