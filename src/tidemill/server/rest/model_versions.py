"""Routes of the versions of registered models."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tidemill.checks import check
from tidemill.checks.check import CheckRecord
from tidemill.core.errors import NotFound
from tidemill.core.ids import Digest, RunId
from tidemill.core.pages import Page
from tidemill.core.values import Value, field
from tidemill.deploy import origins, places
from tidemill.deploy import versions as sides
from tidemill.deploy.origins import Origins
from tidemill.deploy.places import Place
from tidemill.deploy.versions import VersionComparison
from tidemill.govern.workspace import Workspace
from tidemill.registry import aliases, bundles, describe, environments, search, trash, versions
from tidemill.registry.bundles import Described
from tidemill.registry.search import View
from tidemill.registry.versions import ModelVersion, Origin
from tidemill.server.rest.models import SetTags
from tidemill.server.rest.route import Limit, Route


class CreateVersion(Value, frozen=True, kw_only=True):
    """A version of a model that is there. bundle: a stored tree of its files; without one, source says where they lie."""

    bundle: Digest | None = None
    source: str = ""
    run: RunId | None = None
    logged_model: str | None = None
    sources: tuple[str, ...] = ()
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    reason: str = ""


class ChangeVersion(Value, frozen=True, kw_only=True):
    """What to change of a version."""

    description: str
    reason: str = ""


class MoveVersion(Value, frozen=True, kw_only=True):
    """Where a version shall stand, "" for no environment. archive: what stands there is archived."""

    environment: str
    reason: str = ""
    override: bool = False
    archive: bool = False


def list_versions(ws: Workspace, name: str, *, limit: Limit = 100) -> list[ModelVersion]:
    """List the versions of a model, newest first."""
    return versions.list_versions(ws, name, limit=limit)


def search_versions(
    ws: Workspace,
    *,
    filter: str = "",  # noqa: A002 (as MLflow's clients call it)
    order_by: Sequence[str] = (),
    view: View = "active",
    limit: Limit = 100,
    page_token: str | None = None,
) -> Page[ModelVersion]:
    """Search versions of all models, as in name = 'delay' AND environment = 'production'; a page at a time."""
    return search.search_versions(ws, filter=filter, order_by=order_by, view=view, limit=limit, page_token=page_token)


def create_version(ws: Workspace, name: str, *, body: CreateVersion) -> ModelVersion:
    """Make a version of stored files, or of files that lie elsewhere."""
    origin = Origin(source=body.source, run=body.run, logged_model=body.logged_model, sources=body.sources)
    return versions.create_version(
        ws, name, origin=origin, bundle=body.bundle, description=body.description, tags=body.tags, reason=body.reason
    )


def get_version(ws: Workspace, reference: str, *, at: datetime | None = None) -> ModelVersion:
    """Return the version that NAME@VERSION or NAME@alias names; for NAME the newest; as it was at a moment."""
    return aliases.read_version(ws, reference, at=at)


def change_version(ws: Workspace, name: str, version: int, *, body: ChangeVersion) -> ModelVersion:
    """Describe a version."""
    return describe.describe_version(ws, name, version, body.description, reason=body.reason)


def delete_version(ws: Workspace, name: str, version: int, *, reason: str = "") -> None:
    """Put a version into the trash; its aliases end."""
    trash.delete_version(ws, name, version, reason=reason)


def restore_version(ws: Workspace, name: str, version: int, *, reason: str = "") -> ModelVersion:
    """Bring a version back from the trash."""
    return trash.restore_version(ws, name, version, reason=reason)


def tag_version(ws: Workspace, name: str, version: int, *, body: SetTags) -> None:
    """Write tags of a version."""
    describe.tag_version(ws, name, version, body.tags, reason=body.reason)


def untag_version(ws: Workspace, name: str, version: int, key: str, *, reason: str = "") -> None:
    """Take a tag of a version away."""
    describe.untag_version(ws, name, version, key, reason=reason)


def move_version(ws: Workspace, name: str, version: int, *, body: MoveVersion) -> ModelVersion:
    """Move a version to an environment: dev, staging, production, archived."""
    return environments.move(
        ws, name, version, environment=body.environment, reason=body.reason, override=body.override, archive=body.archive
    )


def get_card(ws: Workspace, reference: str) -> Path:
    """Return the model card of a version, as Markdown."""
    found = aliases.read_version(ws, reference)
    if found.card is None:
        raise NotFound(f"model {found.reference} has no card; one is written when a pipeline registers the version")
    return ws.objects.local_path(found.card)


def list_checks(ws: Workspace, reference: str) -> list[CheckRecord]:
    """List what was found about a version, newest first, with the evidence."""
    return check.list_checks(ws, aliases.read_version(ws, reference).node)


def get_files(ws: Workspace, reference: str) -> Described:
    """Say what the files of a version are: a bundle, an MLflow model, or others."""
    return bundles.describe_bundle(ws, versions.bundle_of(aliases.read_version(ws, reference)))


def get_origins(ws: Workspace, reference: str) -> Origins:
    """Say what a version came of: runs, code, data, features."""
    return origins.read_origins(ws, aliases.read_version(ws, reference))


def list_places(ws: Workspace, reference: str, *, past: bool = False) -> list[Place]:
    """List the endpoints behind which a version runs, or ran."""
    return places.where_runs(ws, aliases.read_version(ws, reference), past=past)


def compare_versions(ws: Workspace, *, reference: Sequence[str]) -> VersionComparison:
    """Set versions side by side."""
    return sides.compare_versions(ws, reference)


ROUTES = (
    Route("GET", "/models/{name}/versions", list_versions),
    Route("POST", "/models/{name}/versions", create_version, status=201),
    Route("GET", "/model-version-search", search_versions),
    Route("GET", "/model-version-comparison", compare_versions),
    Route("PATCH", "/models/{name}/versions/{version}", change_version),
    Route("DELETE", "/models/{name}/versions/{version}", delete_version),
    Route("POST", "/models/{name}/versions/{version}/restore", restore_version),
    Route("PUT", "/models/{name}/versions/{version}/tags", tag_version),
    Route("DELETE", "/models/{name}/versions/{version}/tags/{key:path}", untag_version),
    Route("POST", "/models/{name}/versions/{version}/move", move_version),
    Route("GET", "/model-versions/{reference}", get_version),
    Route("GET", "/model-versions/{reference}/card", get_card),
    Route("GET", "/model-versions/{reference}/checks", list_checks),
    Route("GET", "/model-versions/{reference}/files", get_files),
    Route("GET", "/model-versions/{reference}/origins", get_origins),
    Route("GET", "/model-versions/{reference}/places", list_places),
)
