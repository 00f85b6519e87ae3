"""Aliases: names like `champion` that point at a version, with their whole history. Owns their table."""

import re
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Column, Connection, Index, Integer, PrimaryKeyConstraint, Table, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, Moment, Text, as_of, current, upsert
from tidemill.core.errors import NotFound
from tidemill.core.ids import EventId, ModelName
from tidemill.core.values import Value, fields_of
from tidemill.govern.workspace import Workspace
from tidemill.registry.locks import check_unlocked
from tidemill.registry.models import MODELS, RegisteredModel, fetch_model, find_key, find_model, hold_registry, missing
from tidemill.registry.names import check_alias
from tidemill.registry.promotion import check_override, check_promotable, permission
from tidemill.registry.versions import MODEL_VERSIONS, ModelVersion, fetch_key, fetch_version, living_versions, versions_of

_NUMBER = re.compile(r"[0-9]{1,9}")

ALIASES = Table(
    "aliases",
    METADATA,
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("valid_from", Moment, nullable=False),
    Column("valid_to", Moment),
    PrimaryKeyConstraint("project", "model", "alias", "valid_from"),
    Index("ix_aliases_current", "project", "model", "valid_to"),
)


class AliasSet(Value, frozen=True, kw_only=True):
    """One span in which an alias pointed at one version."""

    alias: str
    version: int
    actor: str
    reason: str
    valid_from: datetime
    valid_to: datetime | None


class Promoted(EventBody, frozen=True, kw_only=True, tag="model.promoted"):
    """An alias points at another version now."""

    model: ModelName
    version: int
    alias: str
    previous: int | None


class AliasRemoved(EventBody, frozen=True, kw_only=True, tag="model.alias_removed"):
    """An alias points nowhere any more."""

    model: ModelName
    alias: str
    previous: int


class AliasNotFound(NotFound):
    """The registered model exists; the alias does not."""

    def __init__(self, model: str, alias: str, known: list[str], *, at: datetime | None = None) -> None:
        self.model, self.alias, self.known = model, alias, tuple(known)
        has = ", ".join(sorted(known)) or "none"
        if at is not None:
            then = f"{at:%Y-%m-%d %H:%M} UTC"
            super().__init__(
                f"registered model {model!r} had no alias {alias!r} at {then} (it had: {has}); see: tidemill model history {model}"
            )
            return
        super().__init__(
            f"registered model {model!r} has no alias {alias!r} (it has: {has}); set it with: tidemill model alias {model} {alias} VERSION"
        )


def promote(
    ws: Workspace, model: str, version: int, *, alias: str, reason: str = "", override: bool = False, cause: EventId | None = None
) -> ModelVersion:
    """Point an alias at a version. Raises ChecksFailed for one whose checks failed, unless an approver overrides with a reason."""
    ws.require(permission(override=override), model)
    check_alias(alias)
    check_override(override=override, reason=reason)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        candidate = fetch_version(tx, ws.project, model, version)
        check_promotable(candidate, override=override)
        write_alias(ws, tx, candidate, alias=alias, reason=reason, cause=cause)
    return candidate


def remove_alias(ws: Workspace, model: str, alias: str, *, reason: str = "", cause: EventId | None = None) -> None:
    """Let an alias point nowhere. Raises AliasNotFound, VersionLocked when the version that it points at is locked."""
    ws.require("registry.write", model)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        there = fetch_model(tx, ws.project, model)
        held = _held(tx, ws.project, there.key)
        if alias not in held:
            raise AliasNotFound(there.name, alias, list(held))
        version = fetch_key(tx, ws.project, there.key, held[alias])
        check_unlocked(tx, ws.project, version)
        close_alias(ws, tx, version, alias=alias, reason=reason, cause=cause)


def write_alias(ws: Workspace, tx: Connection, candidate: ModelVersion, *, alias: str, reason: str, cause: EventId | None = None) -> None:
    """Close the span of an alias and open the next, with its event, in the caller's transaction. Raises VersionLocked."""
    hold_registry(tx, ws.project)
    now = ws.clock.now()
    before = _held(tx, ws.project, candidate.key).get(alias)
    if before == candidate.version:
        return
    for version in (candidate, *([] if before is None else [fetch_key(tx, ws.project, candidate.key, before)])):
        check_unlocked(tx, ws.project, version)
    mine = (ALIASES.c.project == ws.project) & (ALIASES.c.model == candidate.key) & (ALIASES.c.alias == alias) & current(ALIASES)
    tx.execute(update(ALIASES).where(mine).values(valid_to=now))
    span = {"version": candidate.version, "actor": ws.actor.id, "reason": reason, "valid_from": now, "valid_to": None}
    # Moved twice in one moment: the last word counts.
    upsert(tx, ALIASES, [{"project": ws.project, "model": candidate.key, "alias": alias, **span}])
    event = Promoted(model=candidate.name, version=candidate.version, alias=alias, previous=before)
    ws.record(tx, event, subject=candidate.subject, reason=reason, cause=cause)


def close_alias(ws: Workspace, tx: Connection, version: ModelVersion, *, alias: str, reason: str, cause: EventId | None = None) -> None:
    """Close the span of an alias, with its event, in the caller's transaction."""
    mine = (ALIASES.c.project == ws.project) & (ALIASES.c.model == version.key) & (ALIASES.c.alias == alias) & current(ALIASES)
    tx.execute(update(ALIASES).where(mine).values(valid_to=ws.clock.now()))
    event = AliasRemoved(model=version.name, alias=alias, previous=version.version)
    ws.record(tx, event, subject=version.subject, reason=reason, cause=cause)


def read_aliases(ws: Workspace, model: str, *, at: datetime | None = None) -> dict[str, int]:
    """Return alias -> version as it is, or as it was at a moment; none for a model that is not there."""
    ws.require("registry.read", model)
    with ws.catalog.reading() as tx:
        return aliases_of(tx, ws.project, [model], at=at).get(model, {})


def list_aliases(ws: Workspace, models: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return name of the model -> alias -> version of these models, as they are."""
    ws.require("registry.read")
    with ws.catalog.reading() as tx:
        return aliases_of(tx, ws.project, models)


def aliases_of(tx: Connection, project: str, models: Sequence[str], *, at: datetime | None = None) -> dict[str, dict[str, int]]:
    """Return name of the model -> alias -> version."""
    joined = (MODELS.c.project == ALIASES.c.project) & (MODELS.c.key == ALIASES.c.model)
    query = select(MODELS.c.name, ALIASES.c.alias, ALIASES.c.version).join(MODELS, joined)
    query = query.where(ALIASES.c.project == project, MODELS.c.name.in_(models), MODELS.c.deleted_at.is_(None), as_of(ALIASES, at))
    found: dict[str, dict[str, int]] = {}
    for row in tx.execute(query.order_by(ALIASES.c.alias)):
        found.setdefault(row.name, {})[row.alias] = row.version
    return found


def alias_history(ws: Workspace, model: str) -> list[AliasSet]:
    """Return every span of every alias of a model, newest first."""
    ws.require("registry.read", model)
    with ws.catalog.reading() as tx:
        key = fetch_model(tx, ws.project, model).key
        query = select(ALIASES).where(ALIASES.c.project == ws.project, ALIASES.c.model == key)
        rows = tx.execute(query.order_by(ALIASES.c.valid_from.desc(), ALIASES.c.alias))
        return [AliasSet(**{name: getattr(row, name) for name in fields_of(AliasSet)}) for row in rows]


def find_alias(ws: Workspace, model: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias points at, None while there is no such alias or model."""
    version = read_aliases(ws, model).get(alias)
    return None if version is None else read_version(ws, f"{model}@{version}")


def read_version(ws: Workspace, reference: str, *, at: datetime | None = None) -> ModelVersion:
    """Return the version that `NAME@3` or `NAME@alias` names; `NAME` is its newest. at: where the alias pointed at that moment.

    NAME may also be a model's key, as lineage has it, while no model has that name. Raises ModelNotFound, AliasNotFound.
    """
    ws.require("registry.read", reference)
    with ws.catalog.reading() as tx:
        model, wanted = _split(tx, ws.project, reference)
        if wanted in ("", "latest"):
            return _newest(tx, ws.project, model, reference, at=at)
        number, held = wanted.removeprefix("v"), _held(tx, ws.project, model.key, at=at)
        if wanted in held and not _is_version(tx, ws.project, model, number):
            return fetch_key(tx, ws.project, model.key, held[wanted])  # it may be in the trash by now
        if not _NUMBER.fullmatch(number):
            raise AliasNotFound(model.name, wanted, list(held), at=at)
        return fetch_version(tx, ws.project, model.name, int(number), shown=reference)


def resolve(ws: Workspace, reference: str) -> tuple[str, int | None]:
    """Return the model that `NAME` names and no version, or the model and version that `NAME@3` or `NAME@alias` names."""
    ws.require("registry.read", reference)
    with ws.catalog.reading() as tx:
        model, wanted = _split(tx, ws.project, reference)
    return model.name, read_version(ws, reference).version if wanted else None


def _split(tx: Connection, project: str, reference: str) -> tuple[RegisteredModel, str]:
    """Return the model and what stands behind the last @ of a reference; a name may hold an @ itself."""
    name, at, wanted = reference.rpartition("@")
    for named, rest in ((name, wanted), (reference, "")) if at else ((reference, ""),):
        model = find_model(tx, project, named) or find_key(tx, project, named)
        if model is not None and model.deleted_at is None:
            return model, rest
    raise missing(tx, project, reference, name or reference)


def _newest(tx: Connection, project: str, model: RegisteredModel, reference: str, *, at: datetime | None) -> ModelVersion:
    query = living_versions(project).where(MODELS.c.key == model.key).order_by(MODEL_VERSIONS.c.version.desc()).limit(1)
    found = tx.execute(query if at is None else query.where(MODEL_VERSIONS.c.created_at <= at)).all()
    if not found:
        raise missing(tx, project, reference, model.name)
    return versions_of(tx, project, found)[0]


def _is_version(tx: Connection, project: str, model: RegisteredModel, number: str) -> bool:
    if not _NUMBER.fullmatch(number):
        return False
    query = living_versions(project).where(MODELS.c.key == model.key, MODEL_VERSIONS.c.version == int(number))
    return tx.execute(query).first() is not None


def _held(tx: Connection, project: str, key: str, *, at: datetime | None = None) -> dict[str, int]:
    """Return the aliases of the model of a key."""
    query = select(ALIASES.c.alias, ALIASES.c.version).where(ALIASES.c.project == project, ALIASES.c.model == key, as_of(ALIASES, at))
    return {row.alias: row.version for row in tx.execute(query)}
