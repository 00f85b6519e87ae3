"""Deployment locks: what is locked is not changed, moved, deleted or re-aliased by anyone until it is unlocked. Owns their table."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Index, Integer, PrimaryKeyConstraint, Table, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, Moment, Text, current, upsert
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import EventId, ModelName
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.registry.models import RegisteredModel, fetch_model, hold_registry
from tidemill.registry.versions import ModelVersion, fetch_version

WHOLE = 0  # the version that stands for the model as such

LOCKS = Table(
    "model_locks",
    METADATA,
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("valid_from", Moment, nullable=False),
    Column("valid_to", Moment),
    Column("opened_by", Text),
    PrimaryKeyConstraint("project", "model", "version", "valid_from"),
    Index("ix_model_locks_current", "project", "model", "valid_to"),
)


class Lock(Value, frozen=True, kw_only=True):
    """A span in which a version (None: the model with all its versions) was locked, by whom and why, and who ended it."""

    version: int | None
    actor: str
    reason: str
    valid_from: datetime
    valid_to: datetime | None
    opened_by: str | None


class ModelLocked(EventBody, frozen=True, kw_only=True, tag="model.locked"):
    """A version, or a model with all its versions, may not be changed any more."""

    model: ModelName
    version: int | None


class ModelUnlocked(EventBody, frozen=True, kw_only=True, tag="model.unlocked"):
    """A lock was taken away."""

    model: ModelName
    version: int | None
    locked_by: str


class VersionLocked(Conflict):
    """Somebody locked it."""

    def __init__(self, what: str, lock: Lock) -> None:
        self.what, self.lock = what, lock
        super().__init__(
            f"{what} is locked by {lock.actor!r} since {lock.valid_from:%Y-%m-%d %H:%M} UTC ({lock.reason}) and cannot be changed; "
            f"an approver can unlock it with: tidemill model unlock {what.removeprefix('model ')}"
        )


def lock(ws: Workspace, model: str, version: int | None = None, *, reason: str, cause: EventId | None = None) -> Lock:
    """Lock a version, or with None a model and all its versions; new versions may still be registered. Raises VersionLocked, Invalid."""
    ws.require("registry.write", model)
    if not reason.strip():
        raise Invalid("a lock needs a reason, so that others know what to wait for; say why with --reason")
    now = ws.clock.now()
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        key, name, number = _place(tx, ws.project, model, version)
        held = _held(tx, ws.project, key, number)
        if held is not None:
            raise VersionLocked(_called(name, number), held)
        held_now = {"actor": ws.actor.id, "reason": reason, "valid_from": now, "valid_to": None, "opened_by": None}
        upsert(tx, LOCKS, [{"project": ws.project, "model": key, "version": number, **held_now}])  # unlocked in this moment: it goes on
        ws.record(tx, ModelLocked(model=name, version=version), subject=f"model:{key}", reason=reason, cause=cause)
    return Lock(version=version, actor=ws.actor.id, reason=reason, valid_from=now, valid_to=None, opened_by=None)


def unlock(ws: Workspace, model: str, version: int | None = None, *, reason: str = "", cause: EventId | None = None) -> Lock:
    """Take the lock of a version, or with None that of the whole model, away. Raises NotFound when it is not locked."""
    ws.require("registry.approve", model)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        key, name, number = _place(tx, ws.project, model, version)
        held = _held(tx, ws.project, key, number)
        if held is None:
            whole = "" if number == WHOLE or _held(tx, ws.project, key, WHOLE) is None else f"; the whole model is: unlock {name}"
            raise NotFound(f"{_called(name, number)} is not locked{whole}; see what is with: tidemill model history {name}")
        now = ws.clock.now()
        mine = (LOCKS.c.project == ws.project) & (LOCKS.c.model == key) & (LOCKS.c.version == number) & current(LOCKS)
        tx.execute(update(LOCKS).where(mine).values(valid_to=now, opened_by=ws.actor.id))
        event = ModelUnlocked(model=name, version=version, locked_by=held.actor)
        ws.record(tx, event, subject=f"model:{key}", reason=reason, cause=cause)
    return Lock(version=version, actor=held.actor, reason=held.reason, valid_from=held.valid_from, valid_to=now, opened_by=ws.actor.id)


def check_unlocked(tx: Connection, project: str, version: ModelVersion) -> None:
    """Raises VersionLocked when a version, or the whole model, is locked."""
    for number in (version.version, WHOLE):
        held = _held(tx, project, version.key, number)
        if held is not None:
            raise VersionLocked(_called(version.name, number), held)


def check_all_unlocked(tx: Connection, project: str, model: RegisteredModel) -> None:
    """Raises VersionLocked when a model or any of its versions is locked: what is done to the whole is done to each."""
    mine = (LOCKS.c.project == project) & (LOCKS.c.model == model.key) & current(LOCKS)
    row = tx.execute(select(LOCKS).where(mine).order_by(LOCKS.c.version).limit(1)).one_or_none()
    if row is not None:
        raise VersionLocked(_called(model.name, row.version), _lock(row))


def check_model_unlocked(tx: Connection, project: str, model: RegisteredModel) -> None:
    """Raises VersionLocked when the model as such is locked."""
    held = _held(tx, project, model.key, WHOLE)
    if held is not None:
        raise VersionLocked(_called(model.name, WHOLE), held)


def lock_history(ws: Workspace, model: str) -> list[Lock]:
    """Return every span in which a model or a version of it was locked, newest first."""
    ws.require("registry.read", model)
    with ws.catalog.reading() as tx:
        key = fetch_model(tx, ws.project, model).key
        mine = (LOCKS.c.project == ws.project) & (LOCKS.c.model == key)
        rows = tx.execute(select(LOCKS).where(mine).order_by(LOCKS.c.valid_from.desc(), LOCKS.c.version))
        return [_lock(row) for row in rows]


def read_lock(ws: Workspace, version: ModelVersion) -> Lock | None:
    """Return the lock that keeps a version as it is, its own or the model's, None while there is none."""
    ws.require("registry.read", version.name)
    with ws.catalog.reading() as tx:
        return _held(tx, ws.project, version.key, version.version) or _held(tx, ws.project, version.key, WHOLE)


def _place(tx: Connection, project: str, name: str, version: int | None) -> tuple[ModelName, ModelName, int]:
    if version is None:
        model = fetch_model(tx, project, name)
        return model.key, model.name, WHOLE
    found = fetch_version(tx, project, name, version)
    return found.key, found.name, found.version


def _held(tx: Connection, project: str, key: str, number: int) -> Lock | None:
    mine = (LOCKS.c.project == project) & (LOCKS.c.model == key) & (LOCKS.c.version == number) & current(LOCKS)
    row = tx.execute(select(LOCKS).where(mine)).one_or_none()
    return None if row is None else _lock(row)


def _lock(row: Any) -> Lock:
    names = ("actor", "reason", "valid_from", "valid_to", "opened_by")
    return Lock(version=row.version or None, **{name: getattr(row, name) for name in names})


def _called(name: str, number: int) -> str:
    return f"model {name}@{number}" if number != WHOLE else f"model {name}"
