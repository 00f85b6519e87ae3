"""The trash: models and versions that were deleted, can be restored, and are removed for good by `purge`."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import IntegrityError

from tidemill.catalog.events import EventBody
from tidemill.core.errors import NotFound
from tidemill.core.ids import EventId, ModelName
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import ALIASES, aliases_of, close_alias
from tidemill.registry.comments import COMMENTS
from tidemill.registry.environments import SPANS, write_move
from tidemill.registry.locks import LOCKS, check_all_unlocked, check_unlocked
from tidemill.registry.models import (
    MODEL_TAGS,
    MODELS,
    ModelExists,
    RegisteredModel,
    fetch_model,
    find_model,
    hold_registry,
    models_of,
    touch_model,
)
from tidemill.registry.versions import (
    MODEL_VERSIONS,
    VERSION_TAGS,
    ModelVersion,
    fetch_key,
    fetch_version,
    named_versions,
    touch_version,
    versions_of,
)


class ModelDeleted(EventBody, frozen=True, kw_only=True, tag="model.deleted"):
    """A model (version: none) or a version went to the trash."""

    model: ModelName
    version: int | None


class ModelRestored(EventBody, frozen=True, kw_only=True, tag="model.restored"):
    """A model (version: none) or a version came back from the trash."""

    model: ModelName
    version: int | None


class ModelPurged(EventBody, frozen=True, kw_only=True, tag="model.purged"):
    """A model (version: none) or a version was removed from the trash for good."""

    model: ModelName
    version: int | None


class NotInTrash(NotFound):
    """Nothing of that name was deleted."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        super().__init__(f"there is no model {reference!r} in the trash; see what is with: tidemill model list --deleted")


def delete_model(ws: Workspace, name: str, *, reason: str = "", cause: EventId | None = None) -> RegisteredModel:
    """Put a model with all its versions into the trash; its name is free at once. Raises ModelNotFound, VersionLocked."""
    ws.require("registry.write", name)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        model = fetch_model(tx, ws.project, name)
        check_all_unlocked(tx, ws.project, model)
        now = ws.clock.now()
        touch_model(tx, ws.project, model.key, at=now, deleted_at=now)
        ws.record(tx, ModelDeleted(model=model.name, version=None), subject=model.subject, reason=reason, cause=cause)
    return model


def restore_model(ws: Workspace, name: str, *, reason: str = "", cause: EventId | None = None) -> RegisteredModel:
    """Bring the model that was last deleted under a name back, with all that it had. Raises NotInTrash, ModelExists."""
    ws.require("registry.write", name)
    try:
        with ws.catalog.transaction() as tx:
            hold_registry(tx, ws.project)
            model = _deleted_model(tx, ws.project, name)
            if find_model(tx, ws.project, model.name) is not None:
                raise ModelExists(model.name)
            touch_model(tx, ws.project, model.key, at=ws.clock.now(), deleted_at=None)
            ws.record(tx, ModelRestored(model=model.name, version=None), subject=model.subject, reason=reason, cause=cause)
            return fetch_model(tx, ws.project, model.name)
    except IntegrityError:  # somebody made one of that name at the same moment
        raise ModelExists(name) from None


def delete_version(ws: Workspace, name: str, version: int, *, reason: str = "", cause: EventId | None = None) -> ModelVersion:
    """Put a version into the trash; its aliases end, it leaves its environment, its number is not used again.

    Raises ModelNotFound, VersionLocked.
    """
    ws.require("registry.write", name)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        found = fetch_version(tx, ws.project, name, version)
        check_unlocked(tx, ws.project, found)
        for alias, number in aliases_of(tx, ws.project, [found.name]).get(found.name, {}).items():
            if number == version:
                close_alias(ws, tx, found, alias=alias, reason=reason or "the version was deleted", cause=cause)
        write_move(ws, tx, found, "", reason=reason or "the version was deleted", cause=cause)
        now = ws.clock.now()
        touch_version(tx, ws.project, found, at=now, deleted_at=now)
        ws.record(tx, ModelDeleted(model=found.name, version=version), subject=found.subject, reason=reason, cause=cause)
    return found


def restore_version(ws: Workspace, name: str, version: int, *, reason: str = "", cause: EventId | None = None) -> ModelVersion:
    """Bring a version of a model back from the trash, without the aliases and the environment it had. Raises NotInTrash."""
    ws.require("registry.write", name)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        model = fetch_model(tx, ws.project, name)
        query = named_versions().where(MODEL_VERSIONS.c.project == ws.project, MODEL_VERSIONS.c.model == model.key)
        row = tx.execute(query.where(MODEL_VERSIONS.c.version == version, MODEL_VERSIONS.c.deleted_at.is_not(None))).one_or_none()
        if row is None:
            raise NotInTrash(f"{name}@{version}")
        found = versions_of(tx, ws.project, [row])[0]
        touch_version(tx, ws.project, found, at=ws.clock.now(), deleted_at=None)
        ws.record(tx, ModelRestored(model=model.name, version=version), subject=model.subject, reason=reason, cause=cause)
        return fetch_key(tx, ws.project, model.key, version)


def list_trash(ws: Workspace) -> tuple[list[RegisteredModel], list[ModelVersion]]:
    """Return the models in the trash, and the single versions, the last deleted first."""
    ws.require("registry.read")
    with ws.catalog.reading() as tx:
        gone = select(MODELS).where(MODELS.c.project == ws.project, MODELS.c.deleted_at.is_not(None)).order_by(MODELS.c.deleted_at.desc())
        models = models_of(tx, ws.project, tx.execute(gone).all())
        singles = named_versions().where(MODEL_VERSIONS.c.project == ws.project, MODEL_VERSIONS.c.deleted_at.is_not(None))
        rows = tx.execute(singles.where(MODELS.c.deleted_at.is_(None)).order_by(MODEL_VERSIONS.c.deleted_at.desc())).all()
        return models, versions_of(tx, ws.project, rows)


def purge(ws: Workspace, *, before: datetime, keep: Sequence[str] = ()) -> list[str]:
    """Remove what was deleted before a moment for good, but for the lineage nodes to keep; return the nodes removed.

    Events and lineage stay: what happened has happened. The bytes go when `gc` finds that nothing refers to them.
    """
    ws.require("registry.admin")
    kept, removed = set(keep), []
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        query = named_versions().where(MODEL_VERSIONS.c.project == ws.project)
        gone = (MODEL_VERSIONS.c.deleted_at < before) | (MODELS.c.deleted_at < before)
        query = query.where(gone).order_by(MODEL_VERSIONS.c.model, MODEL_VERSIONS.c.version)
        for version in versions_of(tx, ws.project, tx.execute(query).all()):
            if version.node not in kept:
                _purge_version(ws, tx, version)
                removed.append(version.node)
        empty = (
            ~select(MODEL_VERSIONS.c.version)
            .where(MODEL_VERSIONS.c.project == MODELS.c.project, MODEL_VERSIONS.c.model == MODELS.c.key)
            .exists()
        )
        dead = select(MODELS).where(MODELS.c.project == ws.project, MODELS.c.deleted_at < before, empty)
        for model in models_of(tx, ws.project, tx.execute(dead.order_by(MODELS.c.key)).all()):
            _purge_model(ws, tx, model)
            removed.append(model.subject)
    return removed


def _purge_version(ws: Workspace, tx: Connection, version: ModelVersion) -> None:
    for table in (VERSION_TAGS, COMMENTS, LOCKS, MODEL_VERSIONS):  # where it once stood stays part of the model's history
        tx.execute(delete(table).where(table.c.project == ws.project, table.c.model == version.key, table.c.version == version.version))
    ws.record(tx, ModelPurged(model=version.name, version=version.version), subject=version.subject)


def _purge_model(ws: Workspace, tx: Connection, model: RegisteredModel) -> None:
    for table in (MODEL_TAGS, COMMENTS, LOCKS, SPANS, ALIASES):
        tx.execute(delete(table).where(table.c.project == ws.project, table.c.model == model.key))
    tx.execute(delete(MODELS).where(MODELS.c.project == ws.project, MODELS.c.key == model.key))
    ws.record(tx, ModelPurged(model=model.name, version=None), subject=model.subject)


def _deleted_model(tx: Connection, project: str, name: str) -> RegisteredModel:
    gone = (MODELS.c.project == project) & MODELS.c.deleted_at.is_not(None) & ((MODELS.c.name == name) | (MODELS.c.key == name))
    row = tx.execute(select(MODELS).where(gone).order_by(MODELS.c.deleted_at.desc(), MODELS.c.created_at.desc()).limit(1)).one_or_none()
    if row is None:
        raise NotInTrash(name)
    return models_of(tx, project, [row])[0]
