"""Who uses features: from a view's versions through services and model versions to the endpoints behind which these run now."""

from collections.abc import Iterator
from contextlib import suppress

from sqlalchemy import Connection

from tidemill.catalog.lineage import walk
from tidemill.core.errors import NotFound
from tidemill.core.values import Value, replace
from tidemill.deploy.places import Place, Role, where_runs
from tidemill.features.definitions import list_views, read_view, view_versions
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import read_version


class FeatureUse(Value, frozen=True, kw_only=True):
    """One way in which a version of a view is used; what is None leads no further. role, share: of the model behind the endpoint."""

    view: str
    service: str | None = None
    model: str | None = None
    endpoint: str | None = None
    role: Role | None = None
    share: float | None = None


def feature_use(ws: Workspace, reference: str | None = None) -> list[FeatureUse]:
    """Return who uses a view (`NAME`: all its versions, or `NAME@V`), or all views unless told. Raises DefinitionNotFound."""
    if reference is not None and "@" in reference:
        views = [read_view(ws, reference)]
    else:
        names = [reference] if reference is not None else [view.name for view in list_views(ws)]
        views = [view for name in names for view in view_versions(ws, name)]
    with ws.catalog.reading() as tx:
        chains = [chain for view in views for chain in _chains(tx, ws.project, view.node)]
    return [use for view, service, model in chains for use in _uses(ws, view, service, model)]


def _chains(tx: Connection, project: str, view: str) -> Iterator[tuple[str, str | None, str | None]]:
    for service in _next(tx, project, view, "service:"):
        for model in _next(tx, project, service, "model:"):
            yield view, service, model


def _next(tx: Connection, project: str, node: str | None, kind: str) -> list[str | None]:
    """Return the nodes of a kind that a node leads to, None where it leads to none."""
    edges = walk(tx, project, node, direction="downstream", depth=1) if node is not None else ()
    return [*sorted({edge.target for edge in edges if edge.target.startswith(kind)})] or [None]


def _uses(ws: Workspace, view: str, service: str | None, model: str | None) -> Iterator[FeatureUse]:
    names = [node.partition(":")[2] if node is not None else None for node in (view, service, model)]
    use = FeatureUse(view=str(names[0]), service=names[1], model=names[2])
    places: list[Place] = []
    if use.model is not None:
        with suppress(NotFound):  # a version that was removed since answers nowhere
            places = where_runs(ws, read_version(ws, use.model))
    yield from (replace(use, endpoint=place.endpoint, role=place.role, share=place.share) for place in places)
    if not places:
        yield use
