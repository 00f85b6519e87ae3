"""Routes of registered models, their versions and aliases."""

from datetime import datetime
from pathlib import Path

from tidemill.checks import check
from tidemill.checks.check import CheckRecord
from tidemill.core.errors import NotFound
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.registry import aliases, models, versions
from tidemill.registry.aliases import AliasSet
from tidemill.registry.models import RegisteredModel
from tidemill.registry.versions import ModelVersion
from tidemill.server.rest.route import Limit, Route


class PointAlias(Value, frozen=True, kw_only=True):
    """Where an alias shall point, and why. override: an approver takes a version whose checks failed."""

    version: int
    reason: str = ""
    override: bool = False


def list_models(ws: Workspace) -> list[RegisteredModel]:
    """List registered models by name."""
    return models.list_models(ws)


def list_versions(ws: Workspace, name: str, *, limit: Limit = 100) -> list[ModelVersion]:
    """List the versions of a model, newest first."""
    return versions.list_versions(ws, name, limit=limit)


def get_version(ws: Workspace, reference: str) -> ModelVersion:
    """Return the version that NAME@VERSION or NAME@alias names; for NAME the newest."""
    return aliases.read_version(ws, reference)


def get_card(ws: Workspace, reference: str) -> Path:
    """Return the model card of a version, as Markdown."""
    found = aliases.read_version(ws, reference)
    if found.card is None:
        raise NotFound(f"model {found.name}@{found.version} has no card; one is written when a pipeline registers the version")
    return ws.objects.local_path(found.card)


def list_checks(ws: Workspace, reference: str) -> list[CheckRecord]:
    """List what was found about a version, newest first, with the evidence."""
    return check.list_checks(ws, aliases.read_version(ws, reference).node)


def list_aliases(ws: Workspace, name: str, *, at: datetime | None = None) -> dict[str, int]:
    """Return alias and version as they are, or as they were at a moment."""
    return aliases.read_aliases(ws, name, at=at)


def alias_history(ws: Workspace, name: str) -> list[AliasSet]:
    """List every span of every alias of a model, newest first."""
    return aliases.alias_history(ws, name)


def promote(ws: Workspace, name: str, alias: str, *, body: PointAlias) -> ModelVersion:
    """Point an alias at a version."""
    return aliases.promote(ws, name, body.version, alias=alias, reason=body.reason, override=body.override)


ROUTES = (
    Route("GET", "/models", list_models),
    Route("GET", "/models/{name}/versions", list_versions),
    Route("GET", "/models/{name}/aliases", list_aliases),
    Route("GET", "/models/{name}/alias-history", alias_history),
    Route("PUT", "/models/{name}/aliases/{alias}", promote),
    Route("GET", "/model-versions/{reference}", get_version),
    Route("GET", "/model-versions/{reference}/card", get_card),
    Route("GET", "/model-versions/{reference}/checks", list_checks),
)
