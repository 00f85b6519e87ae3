"""Experiments: the names that runs are grouped under, with their trash and how long it is kept. Owns their tables."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    bindparam,
    delete,
    func,
    select,
    update,
)

from tidemill.catalog.conditions import compare_number, compare_text, refuse_key
from tidemill.catalog.events import EventBody
from tidemill.catalog.prepared import Prepared
from tidemill.catalog.schema import METADATA, Moment, Text, insert_new, upsert
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.filters import Comparison, Order, parse_filter, parse_order
from tidemill.core.ids import check_experiment, check_key
from tidemill.core.pages import Page, question, read_token, token_after
from tidemill.core.values import Value, field
from tidemill.govern.workspace import DEFAULT_PROJECT, Workspace

View = Literal["active", "deleted", "all"]

DEFAULT_NAME = "Default"
TAG_MAX = 20_000

EXPERIMENTS = Table(
    "experiments",
    METADATA,
    Column("project", Text, nullable=False),
    Column("id", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("keep_days", Integer),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("deleted_at", Moment),
    PrimaryKeyConstraint("project", "id"),
    # A name is taken by what is not in the trash.
    Index("uq_experiments_name", "project", "name", unique=True, sqlite_where=Column("deleted_at").is_(None),
          postgresql_where=Column("deleted_at").is_(None)),
)  # fmt: skip

EXPERIMENT_TAGS = Table(
    "experiment_tags",
    METADATA,
    Column("project", Text, nullable=False),
    Column("experiment_id", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("project", "experiment_id", "key"),
)

_HERE = select(EXPERIMENTS.c.id).where(EXPERIMENTS.c.project == bindparam("project"), EXPERIMENTS.c.deleted_at.is_(None))
_IN_USE = Prepared(_HERE.where(EXPERIMENTS.c.id == bindparam("id")))
_NAMED = Prepared(_HERE.where(EXPERIMENTS.c.name == bindparam("name")))

_ENTITIES = {"attribute": "attribute", "attributes": "attribute", "attr": "attribute", "tag": "tag", "tags": "tag"}
_COLUMNS = {
    "name": EXPERIMENTS.c.name,
    "experiment_id": EXPERIMENTS.c.id,
    "creation_time": EXPERIMENTS.c.created_at,
    "last_update_time": EXPERIMENTS.c.updated_at,
}
_TEXTS = ("name",)


class Experiment(Value, frozen=True, kw_only=True):
    """A group of runs. location: where clients put artifacts, "" when this server keeps them. keep_days: how long its trash is kept."""

    id: int
    name: str
    location: str = ""
    keep_days: int | None = None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def lifecycle(self) -> Literal["active", "deleted"]:
        return "active" if self.deleted_at is None else "deleted"


class ExperimentCreated(EventBody, frozen=True, kw_only=True, tag="experiment.created"):
    """A group of runs was made."""

    id: int
    name: str


class ExperimentChanged(EventBody, frozen=True, kw_only=True, tag="experiment.changed"):
    """An experiment was renamed, put into the trash or taken out of it, or its retention was set."""

    id: int
    name: str
    change: Literal["renamed", "deleted", "restored", "kept"]


class ExperimentNotFound(NotFound):
    """No experiment of that id or name."""

    def __init__(self, experiment: int | str) -> None:
        self.experiment = experiment
        super().__init__(f"there is no experiment {experiment!r} in this project; list them with: tidemill run experiments")


class ExperimentExists(Conflict):
    """The name is taken."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"experiment {name!r} exists already; use it as it is, or choose another name")


class ExperimentInTrash(Conflict):
    """The experiment was deleted."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        super().__init__(f"experiment {experiment.name!r} ({experiment.id}) is in the trash; restore it first, then try again")


def create_experiment(
    ws: Workspace, name: str, *, location: str = "", tags: Mapping[str, str] | None = None, wanted: int | None = None
) -> Experiment:
    """Make an experiment, under the id that is wanted if none has it yet. Raises ExperimentExists."""
    ws.require("tracking.write", name)
    check_experiment(name)
    _check_tags(tags or {})
    with ws.catalog.transaction() as tx:
        if _find(tx, ws.project, name) is not None:
            raise ExperimentExists(name)
        made = _insert(ws, tx, name, location=location, wanted=wanted)
        _write_tags(tx, ws.project, made, tags or {})
        return fetch_experiment(tx, ws.project, made)


def write_experiment(ws: Workspace, tx: Connection, experiment: str | int) -> int:
    """Return the id of an experiment, made when its name is new, in the caller's transaction.

    Raises ExperimentNotFound, ExperimentInTrash, Invalid.
    """
    if isinstance(experiment, int):
        if _IN_USE.run(tx, {"project": ws.project, "id": experiment}).fetchone() is None:
            raise ExperimentInTrash(fetch_experiment(tx, ws.project, experiment))
        return experiment
    known = _find(tx, ws.project, experiment)
    if known is None:
        check_experiment(experiment)
        known = _insert(ws, tx, experiment)
    return known


def ensure_default(ws: Workspace) -> None:
    """Make the experiment `Default`, number 0 in the default project, which MLflow's clients take for granted."""
    with ws.catalog.reading() as tx:
        there = tx.execute(select(EXPERIMENTS.c.id).where(EXPERIMENTS.c.project == ws.project, EXPERIMENTS.c.name == DEFAULT_NAME)).first()
    if there is None:
        with ws.catalog.transaction() as tx:
            if _find(tx, ws.project, DEFAULT_NAME) is None:
                _insert(ws, tx, DEFAULT_NAME)


def read_experiment(ws: Workspace, experiment: int) -> Experiment:
    """Return an experiment, deleted or not. Raises ExperimentNotFound."""
    ws.require("tracking.read", str(experiment))
    with ws.catalog.reading() as tx:
        return fetch_experiment(tx, ws.project, experiment)


def find_experiment(ws: Workspace, name: str) -> Experiment | None:
    """Return the experiment of a name: the one in use, else the newest in the trash, None when there never was one."""
    ws.require("tracking.read", name)
    newest_last = EXPERIMENTS.c.deleted_at.is_(None).desc(), EXPERIMENTS.c.id.desc()
    query = select(EXPERIMENTS.c.id).where(EXPERIMENTS.c.project == ws.project, EXPERIMENTS.c.name == name).order_by(*newest_last).limit(1)
    with ws.catalog.reading() as tx:
        found = tx.execute(query).scalar_one_or_none()
        return None if found is None else fetch_experiment(tx, ws.project, found)


def list_experiments(ws: Workspace) -> list[Experiment]:
    """Return the experiments of this project that are in use, by id."""
    return list(search_experiments(ws, order_by=("experiment_id",), limit=100_000).items)


def search_experiments(
    ws: Workspace,
    *,
    filter: str = "",  # noqa: A002 (the word that every client of MLflow knows)
    order_by: Sequence[str] = (),
    view: View = "active",
    limit: int = 1000,
    page_token: str | None = None,
) -> Page[Experiment]:
    """Return the experiments that a filter over name, times and tags picks, newest first unless told otherwise.

    Raises FilterRefused, TokenRefused.
    """
    ws.require("tracking.read")
    scope = question("experiments", ws.project, filter, list(order_by), view)
    conditions = [_condition(filter, item) for item in parse_filter(filter, entities=_ENTITIES, default="attribute")]
    orders = parse_order(order_by, entities=_ENTITIES, default="attribute")
    columns = [(_column(item), item.ascending) for item in orders]
    if not any(item.key == "creation_time" for item in orders):
        columns.append((EXPERIMENTS.c.created_at, False))
    columns.append((EXPERIMENTS.c.id, False))
    query = select(EXPERIMENTS.c.id).where(EXPERIMENTS.c.project == ws.project, *_viewed(view), *conditions)
    offset = read_token(page_token, scope)[0] if page_token else 0
    query = query.order_by(*(column if ascending else column.desc() for column, ascending in columns)).limit(limit + 1).offset(offset)
    with ws.catalog.reading() as tx:
        ids = list(tx.execute(query).scalars())
        found = _fetch_many(tx, ws.project, ids[:limit])
    # Experiments are few: counting them off costs nothing.
    return Page(items=tuple(found), next=token_after(scope, offset + limit) if len(ids) > limit else None)


def rename_experiment(ws: Workspace, experiment: int, name: str) -> Experiment:
    """Give an experiment another name. Raises ExperimentNotFound, ExperimentInTrash, ExperimentExists."""
    check_experiment(name)
    return _change(ws, experiment, "renamed", name=name)


def delete_experiment(ws: Workspace, experiment: int) -> Experiment:
    """Put an experiment into the trash; its name is free at once. Raises ExperimentNotFound, ExperimentInTrash."""
    return _change(ws, experiment, "deleted", deleted_at=ws.clock.now())


def restore_experiment(ws: Workspace, experiment: int) -> Experiment:
    """Take an experiment out of the trash. Raises ExperimentNotFound, ExperimentExists when its name was given away."""
    return _change(ws, experiment, "restored", deleted_at=None)


def keep_for(ws: Workspace, experiment: int, days: int | None) -> Experiment:
    """Say for how long the deleted runs of an experiment are kept before `gc` removes them; None: as long as the setting says."""
    if days is not None and days < 0:
        raise Invalid(f"deleted runs cannot be kept for {days} days; expected 0 or more, or nothing for the setting's default")
    return _change(ws, experiment, "kept", keep_days=days)


def set_experiment_tags(ws: Workspace, experiment: int, tags: Mapping[str, str]) -> None:
    """Write tags, replacing those of the same key. Raises ExperimentNotFound, ExperimentInTrash."""
    ws.require("tracking.write", str(experiment))
    _check_tags(tags)
    with ws.catalog.transaction() as tx:
        _active(tx, ws.project, experiment)
        _write_tags(tx, ws.project, experiment, tags)


def delete_experiment_tag(ws: Workspace, experiment: int, key: str) -> None:
    """Remove a tag. Raises ExperimentNotFound, NotFound when there is no such tag."""
    ws.require("tracking.write", str(experiment))
    mine = (EXPERIMENT_TAGS.c.project == ws.project) & (EXPERIMENT_TAGS.c.experiment_id == experiment) & (EXPERIMENT_TAGS.c.key == key)
    with ws.catalog.transaction() as tx:
        _active(tx, ws.project, experiment)
        if tx.execute(delete(EXPERIMENT_TAGS).where(mine)).rowcount == 0:
            raise NotFound(f"experiment {experiment} has no tag {key!r}; nothing was removed")


def fetch_experiment(tx: Connection, project: str, experiment: int) -> Experiment:
    """Return an experiment, in the caller's transaction. Raises ExperimentNotFound."""
    found = _fetch_many(tx, project, [experiment])
    if not found:
        raise ExperimentNotFound(experiment)
    return found[0]


def _change(ws: Workspace, experiment: int, change: Literal["renamed", "deleted", "restored", "kept"], **values: Any) -> Experiment:
    ws.require("tracking.write", str(experiment))
    with ws.catalog.transaction() as tx:
        before = fetch_experiment(tx, ws.project, experiment)
        if change == "restored" and before.deleted_at is None:
            return before
        if change in ("renamed", "deleted") and before.deleted_at is not None:
            raise ExperimentInTrash(before)
        name = values.get("name", before.name)
        if change in ("renamed", "restored") and _find(tx, ws.project, name) not in (None, experiment):
            raise ExperimentExists(name)
        mine = (EXPERIMENTS.c.project == ws.project) & (EXPERIMENTS.c.id == experiment)
        tx.execute(update(EXPERIMENTS).where(mine).values(**values, updated_at=ws.clock.now()))
        ws.record(tx, ExperimentChanged(id=experiment, name=name, change=change), subject=f"experiment:{experiment}")
        return fetch_experiment(tx, ws.project, experiment)


def _active(tx: Connection, project: str, experiment: int) -> Experiment:
    found = fetch_experiment(tx, project, experiment)
    if found.deleted_at is not None:
        raise ExperimentInTrash(found)
    return found


def _find(tx: Connection, project: str, name: str) -> int | None:
    found = _NAMED.run(tx, {"project": project, "name": name}).fetchone()
    return None if found is None else int(found[0])


def _insert(ws: Workspace, tx: Connection, name: str, *, location: str = "", wanted: int | None = None) -> int:
    now = ws.clock.now()
    row = {"project": ws.project, "name": name, "location": location, "created_at": now, "updated_at": now}
    while True:
        # Ids are one sequence for all projects, so that an id alone names an experiment; 0 is the default project's `Default`.
        newest = tx.execute(select(func.max(EXPERIMENTS.c.id))).scalar_one_or_none() or 0
        chosen = 0 if name == DEFAULT_NAME and ws.project == DEFAULT_PROJECT and not _taken(tx, ws.project, 0) else newest + 1
        if wanted is not None and tx.execute(select(EXPERIMENTS.c.id).where(EXPERIMENTS.c.id == wanted)).first() is None:
            chosen, wanted = wanted, None
        if insert_new(tx, EXPERIMENTS, [{**row, "id": chosen}]):
            break
        if _find(tx, ws.project, name) is not None:  # another connection was quicker with the name
            raise ExperimentExists(name)
    ws.record(tx, ExperimentCreated(id=chosen, name=name), subject=f"experiment:{chosen}")
    return chosen


def _taken(tx: Connection, project: str, experiment: int) -> bool:
    query = select(EXPERIMENTS.c.id).where(EXPERIMENTS.c.project == project, EXPERIMENTS.c.id == experiment)
    return tx.execute(query).first() is not None


def _fetch_many(tx: Connection, project: str, ids: Sequence[int]) -> list[Experiment]:
    rows = {row.id: row for row in tx.execute(select(EXPERIMENTS).where(EXPERIMENTS.c.project == project, EXPERIMENTS.c.id.in_(ids)))}
    tags: dict[int, dict[str, str]] = {}
    mine = (EXPERIMENT_TAGS.c.project == project) & EXPERIMENT_TAGS.c.experiment_id.in_(ids)
    for row in tx.execute(select(EXPERIMENT_TAGS).where(mine).order_by(EXPERIMENT_TAGS.c.key)):
        tags.setdefault(row.experiment_id, {})[row.key] = row.value
    names = ("id", "name", "location", "keep_days", "created_at", "updated_at", "deleted_at")
    return [Experiment(**{name: getattr(rows[i], name) for name in names}, tags=tags.get(i, {})) for i in ids if i in rows]


def _write_tags(tx: Connection, project: str, experiment: int, tags: Mapping[str, str]) -> None:
    upsert(tx, EXPERIMENT_TAGS, [{"project": project, "experiment_id": experiment, "key": key, "value": tags[key]} for key in tags])


def _viewed(view: View) -> list[ColumnElement[bool]]:
    if view == "all":
        return []
    return [EXPERIMENTS.c.deleted_at.is_(None) if view == "active" else EXPERIMENTS.c.deleted_at.is_not(None)]


def _condition(text: str, item: Comparison) -> ColumnElement[bool]:
    if item.entity == "tag":
        tags = select(EXPERIMENT_TAGS.c.experiment_id).where(
            EXPERIMENT_TAGS.c.project == EXPERIMENTS.c.project, EXPERIMENT_TAGS.c.key == item.key
        )
        if item.op in ("IS NULL", "IS NOT NULL"):
            there = EXPERIMENTS.c.id.in_(tags)
            return ~there if item.op == "IS NULL" else there
        return EXPERIMENTS.c.id.in_(tags.where(compare_text(EXPERIMENT_TAGS.c.value, item, text)))
    column = _COLUMNS.get(item.key)
    if column is None:
        refuse_key(text, item, _COLUMNS)
    return compare_text(column, item, text) if item.key in _TEXTS else compare_number(column, item, text)


def _column(item: Order) -> Any:
    if item.entity != "attribute" or item.key not in _COLUMNS:
        raise Invalid(f"experiments cannot be ordered by {item.key!r}; expected one of {', '.join(_COLUMNS)}")
    return _COLUMNS[item.key]


def _check_tags(tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        check_key("tag", key)
        if len(value) > TAG_MAX or "\0" in value:
            raise Invalid(
                f"the value of tag {key!r} of an experiment is not usable; expected at most {TAG_MAX} characters, none of them NUL"
            )
