"""Environments: where in its life a version stands, from dev over staging to production, with the whole history. Owns their table."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import Column, Connection, Index, Integer, PrimaryKeyConstraint, Table, func, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, Moment, Text, as_of, current, upsert
from tidemill.core.errors import Invalid
from tidemill.core.ids import EventId, ModelName
from tidemill.core.values import Value, fields_of
from tidemill.govern.workspace import Workspace
from tidemill.registry.locks import check_unlocked
from tidemill.registry.models import RegisteredModel, batched, fetch_model, hold_registry, touch_model
from tidemill.registry.promotion import check_override, check_promotable, permission
from tidemill.registry.versions import (
    MODEL_VERSIONS,
    Environment,
    ModelVersion,
    fetch_key,
    fetch_version,
    living_versions,
    touch_version,
    versions_of,
)

PRODUCTION: Environment = "production"
ARCHIVED: Environment = "archived"
ENVIRONMENTS: tuple[Environment, ...] = get_args(Environment)

SPANS = Table(
    "model_environments",
    METADATA,
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("environment", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("valid_from", Moment, nullable=False),
    Column("valid_to", Moment),
    PrimaryKeyConstraint("project", "model", "version", "valid_from"),
    Index("ix_model_environments_current", "project", "model", "valid_to"),
)


class Stay(Value, frozen=True, kw_only=True):
    """A span in which a version stood in one environment."""

    version: int
    environment: Environment
    actor: str
    reason: str
    valid_from: datetime
    valid_to: datetime | None


class ModelMoved(EventBody, frozen=True, kw_only=True, tag="model.moved"):
    """A version stands in another environment now; an empty one is none."""

    model: ModelName
    version: int
    environment: Environment
    previous: Environment


def check_environment(environment: str) -> Environment:
    """Return environment if there is one of that name. Raises Invalid."""
    for known in ENVIRONMENTS:
        if environment == known:
            return known
    names = ", ".join(name for name in ENVIRONMENTS if name)
    raise Invalid(f"environment {environment!r} is not known; expected one of {names}, or nothing for none of them")


def move(
    ws: Workspace,
    model: str,
    version: int,
    *,
    environment: str,
    reason: str = "",
    override: bool = False,
    archive: bool = False,
    cause: EventId | None = None,
) -> ModelVersion:
    """Move a version to an environment; with archive, those that stood there are archived.

    Production wants checks that did not fail, as an alias does. Raises ChecksFailed, VersionLocked, ModelNotFound, Invalid.
    """
    ws.require(permission(override=override), model)
    wanted = check_environment(environment)
    check_override(override=override, reason=reason)
    if archive and wanted in ("", ARCHIVED):
        raise Invalid(f"nothing can be archived by a move to {wanted or 'no environment'!r}; expected dev, staging or production")
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        candidate = fetch_version(tx, ws.project, model, version)
        if wanted == PRODUCTION:
            check_promotable(candidate, override=override)
        for other in _standing(tx, ws.project, candidate, wanted) if archive else ():
            write_move(ws, tx, other, ARCHIVED, reason=f"version {candidate.version} takes its place in {wanted}", cause=cause)
        write_move(ws, tx, candidate, wanted, reason=reason, cause=cause)
        return fetch_key(tx, ws.project, candidate.key, candidate.version)


def write_move(
    ws: Workspace, tx: Connection, version: ModelVersion, environment: Environment, *, reason: str, cause: EventId | None = None
) -> None:
    """Close the span of a version's environment and open the next, with its event, in the caller's transaction. Raises VersionLocked."""
    now = ws.clock.now()
    if version.environment != environment:
        check_unlocked(tx, ws.project, version)
        same = {"project": ws.project, "model": version.key, "version": version.version}
        mine = (SPANS.c.project == ws.project) & (SPANS.c.model == version.key) & (SPANS.c.version == version.version)
        tx.execute(update(SPANS).where(mine, current(SPANS)).values(valid_to=now))
        if environment:  # moved twice in one moment: the last word counts
            span = {"environment": environment, "actor": ws.actor.id, "reason": reason, "valid_from": now, "valid_to": None}
            upsert(tx, SPANS, [{**same, **span}])
        event = ModelMoved(model=version.name, version=version.version, environment=environment, previous=version.environment)
        ws.record(tx, event, subject=version.subject, reason=reason, cause=cause)
    touch_version(tx, ws.project, version, at=now, environment=environment)
    touch_model(tx, ws.project, version.key, at=now)


def read_environments(ws: Workspace, model: str, *, at: datetime | None = None) -> dict[int, Environment]:
    """Return version -> environment of those that stand in one, as it is or as it was at a moment."""
    ws.require("registry.read", model)
    with ws.catalog.reading() as tx:
        key = fetch_model(tx, ws.project, model).key
        query = select(SPANS.c.version, SPANS.c.environment).where(SPANS.c.project == ws.project, SPANS.c.model == key, as_of(SPANS, at))
        return {row.version: row.environment for row in tx.execute(query.order_by(SPANS.c.version))}


def environment_history(ws: Workspace, model: str) -> list[Stay]:
    """Return every span in which a version of a model stood in an environment, newest first."""
    ws.require("registry.read", model)
    with ws.catalog.reading() as tx:
        key = fetch_model(tx, ws.project, model).key
        query = select(SPANS).where(SPANS.c.project == ws.project, SPANS.c.model == key)
        rows = tx.execute(query.order_by(SPANS.c.valid_from.desc(), SPANS.c.version.desc()))
        return [_stay(row) for row in rows]


def newest_versions(ws: Workspace, models: Sequence[RegisteredModel]) -> list[ModelVersion]:
    """Return the newest version in each environment of these models, by model."""
    ws.require("registry.read")
    with ws.catalog.reading() as tx:
        return newest_by_environment(tx, ws.project, [model.key for model in models])


def newest_by_environment(tx: Connection, project: str, keys: Sequence[str]) -> list[ModelVersion]:
    """Return the newest version in each environment of the models of these keys, that of no environment among them."""
    living = (MODEL_VERSIONS.c.project == project) & MODEL_VERSIONS.c.deleted_at.is_(None)
    mine = (MODEL_VERSIONS.c.model, MODEL_VERSIONS.c.environment)
    found: list[Any] = []
    for some in batched(keys):
        newest = select(MODEL_VERSIONS.c.model, func.max(MODEL_VERSIONS.c.version).label("version"))
        top = newest.where(living, MODEL_VERSIONS.c.model.in_(some)).group_by(*mine).subquery()
        same = (MODEL_VERSIONS.c.model == top.c.model) & (MODEL_VERSIONS.c.version == top.c.version)
        found += tx.execute(living_versions(project).join(top, same).order_by(*mine)).all()
    return versions_of(tx, project, found)


def _standing(tx: Connection, project: str, candidate: ModelVersion, environment: Environment) -> list[ModelVersion]:
    there = (MODEL_VERSIONS.c.model == candidate.key) & (MODEL_VERSIONS.c.environment == environment)
    others = living_versions(project).where(there, MODEL_VERSIONS.c.version != candidate.version)
    return versions_of(tx, project, tx.execute(others.order_by(MODEL_VERSIONS.c.version)).all())


def _stay(row: Any) -> Stay:
    return Stay(**{name: getattr(row, name) for name in fields_of(Stay)})
