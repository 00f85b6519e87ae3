"""What people say of models and versions: names, descriptions, owners, tags. A version's files and measures never change."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete
from sqlalchemy.exc import IntegrityError

from tidemill.catalog.events import EventBody
from tidemill.core.errors import Invalid
from tidemill.core.ids import EventId, ModelName
from tidemill.govern.workspace import Workspace
from tidemill.registry.locks import check_all_unlocked, check_model_unlocked, check_unlocked
from tidemill.registry.models import (
    MODEL_TAGS,
    ModelExists,
    RegisteredModel,
    fetch_model,
    find_model,
    hold_registry,
    touch_model,
    write_model_tags,
)
from tidemill.registry.names import check_model_name, check_tag, check_text
from tidemill.registry.versions import VERSION_TAGS, ModelVersion, fetch_key, fetch_version, touch_version, write_version_tags


class ModelDescribed(EventBody, frozen=True, kw_only=True, tag="model.described"):
    """A model (version: none) or a version got another description."""

    model: ModelName
    version: int | None


class ModelRenamed(EventBody, frozen=True, kw_only=True, tag="model.renamed"):
    """A model got another name; versions and history follow it."""

    model: ModelName
    previous: ModelName


class ModelOwned(EventBody, frozen=True, kw_only=True, tag="model.owned"):
    """A model got another owner."""

    model: ModelName
    owner: str
    previous: str


class ModelTagged(EventBody, frozen=True, kw_only=True, tag="model.tagged"):
    """Tags of a model (version: none) or a version were set or taken away."""

    model: ModelName
    version: int | None
    set: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def change_model(
    ws: Workspace,
    name: str,
    *,
    new_name: str | None = None,
    description: str | None = None,
    owner: str | None = None,
    reason: str = "",
    cause: EventId | None = None,
) -> RegisteredModel:
    """Rename a model, describe it, give it to another owner: all that is given, or nothing of it.

    A renamed model takes versions, aliases, lineage and history along. Raises ModelExists, ModelNotFound, VersionLocked, Invalid.
    """
    ws.require("registry.write", name)
    if new_name is not None:
        check_model_name(new_name)
    if description is not None:
        check_text(description, "description")
    if owner is not None and (not owner.strip() or len(owner) > 256 or not owner.isprintable()):
        raise Invalid(f"owner {owner[:80]!r} is not usable; expected the name of a person or team, of 1 to 256 characters")
    try:
        with ws.catalog.transaction() as tx:
            hold_registry(tx, ws.project)
            return _change(
                ws,
                tx,
                _open_model(tx, ws.project, name),
                new_name=new_name,
                description=description,
                owner=owner,
                reason=reason,
                cause=cause,
            )
    except IntegrityError:  # somebody made one of that name at the same moment
        raise ModelExists(new_name or name) from None


def describe_model(ws: Workspace, name: str, description: str, *, reason: str = "", cause: EventId | None = None) -> RegisteredModel:
    """Write what a model is. Raises ModelNotFound, VersionLocked."""
    return change_model(ws, name, description=description, reason=reason, cause=cause)


def rename_model(ws: Workspace, name: str, new_name: str, *, reason: str = "", cause: EventId | None = None) -> RegisteredModel:
    """Give a model another name; versions, aliases, lineage and history follow. Raises ModelExists, ModelNotFound, VersionLocked."""
    return change_model(ws, name, new_name=new_name, reason=reason, cause=cause)


def give_model(ws: Workspace, name: str, owner: str, *, reason: str = "", cause: EventId | None = None) -> RegisteredModel:
    """Make somebody the owner of a model: who is asked about it. Raises ModelNotFound, VersionLocked, Invalid."""
    return change_model(ws, name, owner=owner, reason=reason, cause=cause)


def _change(
    ws: Workspace,
    tx: Connection,
    model: RegisteredModel,
    *,
    new_name: str | None,
    description: str | None,
    owner: str | None,
    reason: str,
    cause: EventId | None,
) -> RegisteredModel:
    changed: dict[str, str] = {}
    told: list[EventBody] = []
    if description is not None:
        changed["description"] = description
        if description != model.description:
            told.append(ModelDescribed(model=model.name, version=None))
    if owner is not None and owner != model.owner:
        changed["owner"] = owner
        told.append(ModelOwned(model=model.name, owner=owner, previous=model.owner))
    if new_name is not None and new_name != model.name:
        check_all_unlocked(tx, ws.project, model)
        if find_model(tx, ws.project, new_name) is not None:
            raise ModelExists(new_name)
        changed["name"] = new_name
        told.append(ModelRenamed(model=ModelName(new_name), previous=model.name))
    if changed:
        touch_model(tx, ws.project, model.key, at=ws.clock.now(), **changed)
    for body in told:
        ws.record(tx, body, subject=model.subject, reason=reason, cause=cause)
    return fetch_model(tx, ws.project, changed.get("name", model.name))


def describe_version(
    ws: Workspace, name: str, version: int, description: str, *, reason: str = "", cause: EventId | None = None
) -> ModelVersion:
    """Write what a version is. Raises ModelNotFound, VersionLocked."""
    ws.require("registry.write", name)
    check_text(description, "description")
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        found = _open_version(tx, ws.project, name, version)
        touch_version(tx, ws.project, found, at=ws.clock.now(), description=description)
        if description != found.description:
            ws.record(tx, ModelDescribed(model=found.name, version=version), subject=found.subject, reason=reason, cause=cause)
        return fetch_key(tx, ws.project, found.key, version)


def tag_model(ws: Workspace, name: str, tags: Mapping[str, str], *, reason: str = "", cause: EventId | None = None) -> None:
    """Write tags of a model, replacing those of the same key. Raises ModelNotFound, VersionLocked, Invalid."""
    ws.require("registry.write", name)
    for key, value in tags.items():
        check_tag(key, value)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        model = _open_model(tx, ws.project, name)
        write_model_tags(tx, ws.project, model.key, tags)
        ws.record(tx, ModelTagged(model=model.name, version=None, set=tuple(tags)), subject=model.subject, reason=reason, cause=cause)


def untag_model(ws: Workspace, name: str, key: str, *, reason: str = "", cause: EventId | None = None) -> bool:
    """Take a tag of a model away; return whether it was there. Raises ModelNotFound, VersionLocked."""
    ws.require("registry.write", name)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        model = _open_model(tx, ws.project, name)
        mine = (MODEL_TAGS.c.project == ws.project) & (MODEL_TAGS.c.model == model.key) & (MODEL_TAGS.c.tag == key)
        there = bool(tx.execute(delete(MODEL_TAGS).where(mine)).rowcount)
        if there:
            event = ModelTagged(model=model.name, version=None, removed=(key,))
            ws.record(tx, event, subject=model.subject, reason=reason, cause=cause)
    return there


def tag_version(ws: Workspace, name: str, version: int, tags: Mapping[str, str], *, reason: str = "", cause: EventId | None = None) -> None:
    """Write tags of a version, replacing those of the same key. Raises ModelNotFound, VersionLocked, Invalid."""
    ws.require("registry.write", name)
    for key, value in tags.items():
        check_tag(key, value)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        found = _open_version(tx, ws.project, name, version)
        write_version_tags(tx, ws.project, found, tags)
        ws.record(tx, ModelTagged(model=found.name, version=version, set=tuple(tags)), subject=found.subject, reason=reason, cause=cause)


def untag_version(ws: Workspace, name: str, version: int, key: str, *, reason: str = "", cause: EventId | None = None) -> bool:
    """Take a tag of a version away; return whether it was there. Raises ModelNotFound, VersionLocked."""
    ws.require("registry.write", name)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        found = _open_version(tx, ws.project, name, version)
        mine: Any = (VERSION_TAGS.c.project == ws.project) & (VERSION_TAGS.c.model == found.key) & (VERSION_TAGS.c.version == version)
        there = bool(tx.execute(delete(VERSION_TAGS).where(mine, VERSION_TAGS.c.tag == key)).rowcount)
        if there:
            event = ModelTagged(model=found.name, version=version, removed=(key,))
            ws.record(tx, event, subject=found.subject, reason=reason, cause=cause)
    return there


def _open_model(tx: Connection, project: str, name: str) -> RegisteredModel:
    """Return a model that may be changed."""
    model = fetch_model(tx, project, name)
    check_model_unlocked(tx, project, model)
    return model


def _open_version(tx: Connection, project: str, name: str, version: int) -> ModelVersion:
    """Return a version that may be changed."""
    found = fetch_version(tx, project, name, version)
    check_unlocked(tx, project, found)
    return found
