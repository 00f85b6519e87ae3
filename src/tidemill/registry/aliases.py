"""Aliases: names like `champion` that point at a version, with their whole history. Owns their table."""

from datetime import datetime

from sqlalchemy import Column, Connection, Index, Integer, PrimaryKeyConstraint, Table, insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, Moment, Text, as_of, current
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import EventId, ModelName, check_name
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.registry.versions import ModelVersion, fetch_version, list_versions

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


class AliasNotFound(NotFound):
    """The registered model exists; the alias does not."""

    def __init__(self, model: str, alias: str, known: list[str]) -> None:
        self.model, self.alias, self.known = model, alias, tuple(known)
        has = ", ".join(sorted(known)) or "none"
        super().__init__(
            f"registered model {model!r} has no alias {alias!r} (it has: {has}); set it with: tidemill model alias {model} {alias} VERSION"
        )


class ChecksFailed(Conflict):
    """The version did not pass its checks."""

    def __init__(self, model: str, version: int) -> None:
        self.model, self.version = model, version
        super().__init__(
            f"model {model}@{version} failed its checks and cannot be promoted; see why with: tidemill model show {model}@{version}; "
            "an approver may override with --override and a reason"
        )


def promote(
    ws: Workspace, model: str, version: int, *, alias: str, reason: str = "", override: bool = False, cause: EventId | None = None
) -> ModelVersion:
    """Point an alias at a version. Raises ChecksFailed for one whose checks failed, unless an approver overrides with a reason."""
    ws.require("registry.approve" if override else "registry.write", model)
    check_name(alias, "alias")
    if override and not reason:
        raise Invalid("an override needs a reason; say why with --reason")
    with ws.catalog.transaction() as tx:
        candidate = fetch_version(tx, ws.project, model, version)
        if candidate.verdict == "fail" and not override:
            raise ChecksFailed(model, version)
        write_alias(ws, tx, candidate, alias=alias, reason=reason, cause=cause)
    return candidate


def write_alias(ws: Workspace, tx: Connection, candidate: ModelVersion, *, alias: str, reason: str, cause: EventId | None = None) -> None:
    """Close the span of an alias and open the next, with its event, in the caller's transaction."""
    now = ws.clock.now()
    held = (ALIASES.c.project == ws.project) & (ALIASES.c.model == candidate.name) & (ALIASES.c.alias == alias) & current(ALIASES)
    before = tx.execute(select(ALIASES.c.version, ALIASES.c.valid_from).where(held)).one_or_none()
    if before is not None and before.version == candidate.version:
        return
    values = {"version": candidate.version, "actor": ws.actor.id, "reason": reason}
    if before is not None and before.valid_from == now:  # moved twice in one moment: the last word counts
        tx.execute(update(ALIASES).where(held).values(**values))
    else:
        tx.execute(update(ALIASES).where(held).values(valid_to=now))
        tx.execute(insert(ALIASES).values(project=ws.project, model=candidate.name, alias=alias, valid_from=now, **values))
    event = Promoted(model=candidate.name, version=candidate.version, alias=alias, previous=before.version if before else None)
    ws.record(tx, event, subject=f"model:{candidate.name}", reason=reason, cause=cause)


def read_aliases(ws: Workspace, model: str, *, at: datetime | None = None) -> dict[str, int]:
    """Return alias -> version as it is, or as it was at a moment."""
    ws.require("registry.read", model)
    query = select(ALIASES.c.alias, ALIASES.c.version).where(ALIASES.c.project == ws.project, ALIASES.c.model == model, as_of(ALIASES, at))
    with ws.catalog.reading() as tx:
        return {row.alias: row.version for row in tx.execute(query.order_by(ALIASES.c.alias))}


def alias_history(ws: Workspace, model: str) -> list[AliasSet]:
    """Return every span of every alias of a model, newest first."""
    ws.require("registry.read", model)
    query = select(ALIASES).where(ALIASES.c.project == ws.project, ALIASES.c.model == model).order_by(ALIASES.c.valid_from.desc())
    with ws.catalog.reading() as tx:
        return [AliasSet(**{name: getattr(row, name) for name in AliasSet.__struct_fields__}) for row in tx.execute(query)]


def find_alias(ws: Workspace, model: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias points at, None while there is no such alias or model."""
    version = read_aliases(ws, model).get(alias)
    return None if version is None else read_version(ws, f"{model}@{version}")


def read_version(ws: Workspace, reference: str) -> ModelVersion:
    """Return the version that `NAME@3` or `NAME@alias` names; `NAME` is its newest. Raises ModelNotFound, AliasNotFound."""
    ws.require("registry.read", reference)
    name, _, wanted = reference.partition("@")
    if not wanted:
        newest = list_versions(ws, name, limit=1)
        wanted = str(newest[0].version) if newest else "0"
    number = wanted.removeprefix("v")
    if not number.isdigit():
        aliases = read_aliases(ws, name)
        if wanted not in aliases:
            raise AliasNotFound(name, wanted, list(aliases))
        number = str(aliases[wanted])
    with ws.catalog.reading() as tx:
        return fetch_version(tx, ws.project, name, int(number))
