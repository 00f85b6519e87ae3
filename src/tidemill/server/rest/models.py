"""Routes of registered models: names, aliases, tags, environments, locks, comments, the trash."""

from collections.abc import Sequence
from datetime import datetime

from tidemill.core.pages import Page
from tidemill.core.values import Value, field
from tidemill.govern.workspace import Workspace
from tidemill.registry import aliases, comments, describe, environments, locks, models, search, trash
from tidemill.registry.aliases import AliasSet
from tidemill.registry.comments import Comment
from tidemill.registry.environments import Stay
from tidemill.registry.locks import Lock
from tidemill.registry.models import RegisteredModel
from tidemill.registry.search import View
from tidemill.registry.versions import Environment, ModelVersion
from tidemill.server.rest.route import Limit, Route


class CreateModel(Value, frozen=True, kw_only=True):
    """A name to keep versions under."""

    name: str
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    reason: str = ""


class ChangeModel(Value, frozen=True, kw_only=True):
    """What to change of a model; what is left out stays as it is."""

    name: str | None = None
    description: str | None = None
    owner: str | None = None
    reason: str = ""


class SetTags(Value, frozen=True, kw_only=True):
    """Tags to write, replacing those of the same key."""

    tags: dict[str, str]
    reason: str = ""


class PointAlias(Value, frozen=True, kw_only=True):
    """Where an alias shall point, and why. override: an approver takes a version whose checks failed."""

    version: int
    reason: str = ""
    override: bool = False


class LockModel(Value, frozen=True, kw_only=True):
    """What to lock, or unlock: a version, or without one the model with all its versions."""

    version: int | None = None
    reason: str = ""


class Say(Value, frozen=True, kw_only=True):
    """What to say of a version, or without one of the model."""

    text: str
    version: int | None = None


class Reword(Value, frozen=True, kw_only=True):
    """What a comment shall say instead."""

    text: str


class Trash(Value, frozen=True, kw_only=True):
    """What was deleted and can be restored, the last deleted first."""

    models: list[RegisteredModel]
    versions: list[ModelVersion]


def list_models(ws: Workspace) -> list[RegisteredModel]:
    """List registered models by name."""
    return models.list_models(ws)


def search_models(
    ws: Workspace,
    *,
    filter: str = "",  # noqa: A002 (as MLflow's clients call it)
    order_by: Sequence[str] = (),
    view: View = "active",
    limit: Limit = 100,
    page_token: str | None = None,
) -> Page[RegisteredModel]:
    """Search registered models, as in name LIKE 'delay%' AND tags.team = 'ops'; a page at a time."""
    return search.search_models(ws, filter=filter, order_by=order_by, view=view, limit=limit, page_token=page_token)


def create_model(ws: Workspace, *, body: CreateModel) -> RegisteredModel:
    """Make a registered model, without versions yet."""
    return models.create_model(ws, body.name, description=body.description, tags=body.tags, reason=body.reason)


def get_model(ws: Workspace, name: str) -> RegisteredModel:
    """Return a registered model."""
    return models.read_model(ws, name)


def change_model(ws: Workspace, name: str, *, body: ChangeModel) -> RegisteredModel:
    """Rename a model, describe it, or give it to another owner."""
    return describe.change_model(ws, name, new_name=body.name, description=body.description, owner=body.owner, reason=body.reason)


def delete_model(ws: Workspace, name: str, *, reason: str = "") -> None:
    """Put a model with all its versions into the trash; its name is free at once."""
    trash.delete_model(ws, name, reason=reason)


def restore_model(ws: Workspace, name: str, *, reason: str = "") -> RegisteredModel:
    """Bring the model that was last deleted under a name back."""
    return trash.restore_model(ws, name, reason=reason)


def list_trash(ws: Workspace) -> Trash:
    """List the models and versions in the trash."""
    found, versions = trash.list_trash(ws)
    return Trash(models=found, versions=versions)


def tag_model(ws: Workspace, name: str, *, body: SetTags) -> None:
    """Write tags of a model."""
    describe.tag_model(ws, name, body.tags, reason=body.reason)


def untag_model(ws: Workspace, name: str, key: str, *, reason: str = "") -> None:
    """Take a tag of a model away."""
    describe.untag_model(ws, name, key, reason=reason)


def list_aliases(ws: Workspace, name: str, *, at: datetime | None = None) -> dict[str, int]:
    """Return alias and version as they are, or as they were at a moment."""
    return aliases.read_aliases(ws, name, at=at)


def alias_history(ws: Workspace, name: str) -> list[AliasSet]:
    """List every span of every alias of a model, newest first."""
    return aliases.alias_history(ws, name)


def promote(ws: Workspace, name: str, alias: str, *, body: PointAlias) -> ModelVersion:
    """Point an alias at a version."""
    return aliases.promote(ws, name, body.version, alias=alias, reason=body.reason, override=body.override)


def remove_alias(ws: Workspace, name: str, alias: str, *, reason: str = "") -> None:
    """Let an alias point nowhere."""
    aliases.remove_alias(ws, name, alias, reason=reason)


def list_environments(ws: Workspace, name: str, *, at: datetime | None = None) -> dict[int, Environment]:
    """Return version and environment of those that stand in one, as it is, or as it was at a moment."""
    return environments.read_environments(ws, name, at=at)


def environment_history(ws: Workspace, name: str) -> list[Stay]:
    """List every span in which a version of a model stood in an environment, newest first."""
    return environments.environment_history(ws, name)


def lock(ws: Workspace, name: str, *, body: LockModel) -> Lock:
    """Lock a version, or a model with all its versions: nobody changes it until it is unlocked."""
    return locks.lock(ws, name, body.version, reason=body.reason)


def unlock(ws: Workspace, name: str, *, body: LockModel) -> Lock:
    """Take a lock away, as an approver."""
    return locks.unlock(ws, name, body.version, reason=body.reason)


def lock_history(ws: Workspace, name: str) -> list[Lock]:
    """List every span in which a model or a version of it was locked, newest first."""
    return locks.lock_history(ws, name)


def list_comments(ws: Workspace, name: str, *, version: int | None = None) -> list[Comment]:
    """List what was said of a model and its versions, or of one version, oldest first."""
    return comments.list_comments(ws, name, version=version)


def add_comment(ws: Workspace, name: str, *, body: Say) -> Comment:
    """Say something of a model or a version."""
    return comments.comment(ws, name, body.text, version=body.version)


def edit_comment(ws: Workspace, comment: str, *, body: Reword) -> Comment:
    """Change what one's own comment says; what it said before is kept."""
    return comments.edit_comment(ws, comment, body.text)


def delete_comment(ws: Workspace, comment: str) -> None:
    """Take a comment back."""
    comments.delete_comment(ws, comment)


ROUTES = (
    Route("GET", "/models", list_models),
    Route("POST", "/models", create_model, status=201),
    Route("GET", "/model-search", search_models),
    Route("GET", "/model-trash", list_trash),
    Route("GET", "/models/{name}", get_model),
    Route("PATCH", "/models/{name}", change_model),
    Route("DELETE", "/models/{name}", delete_model),
    Route("POST", "/models/{name}/restore", restore_model),
    Route("PUT", "/models/{name}/tags", tag_model),
    Route("DELETE", "/models/{name}/tags/{key:path}", untag_model),
    Route("GET", "/models/{name}/aliases", list_aliases),
    Route("GET", "/models/{name}/alias-history", alias_history),
    Route("PUT", "/models/{name}/aliases/{alias}", promote),
    Route("DELETE", "/models/{name}/aliases/{alias}", remove_alias),
    Route("GET", "/models/{name}/environments", list_environments),
    Route("GET", "/models/{name}/environment-history", environment_history),
    Route("POST", "/models/{name}/lock", lock),
    Route("POST", "/models/{name}/unlock", unlock),
    Route("GET", "/models/{name}/lock-history", lock_history),
    Route("GET", "/models/{name}/comments", list_comments),
    Route("POST", "/models/{name}/comments", add_comment, status=201),
    Route("PUT", "/model-comments/{comment}", edit_comment),
    Route("DELETE", "/model-comments/{comment}", delete_comment),
)
