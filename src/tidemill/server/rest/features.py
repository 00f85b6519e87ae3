"""Routes of feature views and services."""

from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Literal

from tidemill.core.values import Value
from tidemill.datasets.content import read_files
from tidemill.datasets.versions import DatasetVersion
from tidemill.deploy.feature_use import FeatureUse, feature_use
from tidemill.features import applied, definitions, history, lookup, materialize, sources
from tidemill.features.applied import FeaturePlan
from tidemill.features.definitions import ServiceVersion, ViewVersion
from tidemill.features.lookup import LookedUp
from tidemill.features.materialize import Materialized
from tidemill.features.sources import DeclaredSource
from tidemill.features.views import FeatureService, FeatureView, Missing
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import Chunks, Route

Form = Literal["parquet", "csv", "tsv"]
PIECE_BYTES = 1 << 20


class Definitions(Value, frozen=True, kw_only=True):
    """Views and services as they shall be."""

    views: tuple[FeatureView, ...] = ()
    services: tuple[FeatureService, ...] = ()
    reason: str = ""


class Materialize(Value, frozen=True, kw_only=True):
    """Up to when, and from which version of the source. full: from nothing, not only what came since the last time."""

    until: datetime | None = None
    source: str | None = None
    full: bool = False
    reason: str = ""


class Rollback(Value, frozen=True, kw_only=True):
    """The version of the service to go back to."""

    version: int
    reason: str = ""


class Asked(Value, frozen=True, kw_only=True):
    """Rows of join keys and of what features are computed from; as of when, now unless told; what becomes of features without a value: as
    the service says unless told.
    """

    entities: tuple[dict[str, str | int | float | None], ...]
    at: datetime | None = None
    missing: Missing | None = None


def get_features(ws: Workspace, name: str, *, body: Asked) -> LookedUp:
    """Return the features of a service for rows of join keys from the online store."""
    return lookup.features_get(ws, body.entities, name, at=body.at, missing=body.missing)


def list_views(ws: Workspace, *, search: str = "") -> list[ViewVersion]:
    """List the newest version of each view, or of those that mention all words of a search."""
    return definitions.list_views(ws, search=search)


def list_services(ws: Workspace, *, search: str = "") -> list[ServiceVersion]:
    """List the newest version of each service, or of those that mention all words of a search."""
    return definitions.list_services(ws, search=search)


def list_versions(ws: Workspace, name: str) -> list[ViewVersion]:
    """List all versions of a view, the newest first."""
    return definitions.view_versions(ws, name)


def list_sources(ws: Workspace) -> list[DeclaredSource]:
    """List the sources that are declared, and the newest version of each one's dataset."""
    return sources.list_sources(ws)


def refresh_source(ws: Workspace, name: str, *, reason: str = "") -> DatasetVersion:
    """Take what a declared source holds by now into its dataset; the same content is the same version."""
    return applied.refresh(ws, name, reason=reason)


def usage(ws: Workspace, *, view: str | None = None) -> list[FeatureUse]:
    """List the services, models and endpoints that use the versions of a view, or of all views."""
    return feature_use(ws, view)


def rollback_service(ws: Workspace, name: str, *, body: Rollback) -> FeaturePlan:
    """Make what a version of a service was the newest again: it and its views get new versions where they differ."""
    return applied.rollback(ws, f"{name}@{body.version}", reason=body.reason)


def plan_features(ws: Workspace, *, body: Definitions) -> FeaturePlan:
    """Say what applying these definitions would change."""
    return applied.plan(ws, body.views, body.services)


def apply_features(ws: Workspace, *, body: Definitions) -> FeaturePlan:
    """Make these definitions hold; applying them again changes nothing."""
    return applied.apply(ws, body.views, body.services, reason=body.reason)


def history_of_rows(
    ws: Workspace, name: str, *, body: Path, form: Form = "parquet", timestamp: str = "event_timestamp"
) -> Chunks:  # fmt: skip
    """Return the rows sent, in their order, with the features of a service as of each row's timestamp, as a Parquet file."""
    rows = [body] if form == "parquet" else read_files(body.rename(body.with_suffix(f".{form}")))
    made = body.with_name("features.parquet")
    history.history_to(ws, rows, name, made, timestamp=timestamp)
    file = made.open("rb")
    made.unlink()
    return _pieces(file)


def _pieces(file: BinaryIO) -> Chunks:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def materialize_view(ws: Workspace, name: str, *, body: Materialize) -> Materialized:
    """Put a view's events online."""
    return materialize.materialize(ws, name, body.until, source=body.source, full=body.full, reason=body.reason)


ROUTES = (
    Route("PUT", "/features", apply_features),
    Route("POST", "/features/plan", plan_features),
    Route("GET", "/features/views", list_views),
    Route("GET", "/features/views/{name}/versions", list_versions),
    Route("GET", "/features/services", list_services),
    Route("GET", "/features/sources", list_sources),
    Route("POST", "/features/sources/{name}/refresh", refresh_source),
    Route("GET", "/features/usage", usage),
    Route("POST", "/features/services/{name}/rollback", rollback_service),
    Route("POST", "/features/services/{name}/values", get_features),
    Route("POST", "/features/services/{name}/history", history_of_rows),
    Route("PUT", "/features/views/{name}/materialized", materialize_view),
)
