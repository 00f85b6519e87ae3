"""The overview: what serves, what is being tried, what went wrong, what happened last."""

from collections.abc import Mapping
from datetime import datetime

from tidemill.automate.controller import ControllerState, read_controller
from tidemill.catalog.events import Event
from tidemill.catalog.jobs import Job, list_jobs
from tidemill.core.values import Value
from tidemill.datasets.versions import list_datasets
from tidemill.deploy.endpoints import Endpoint, list_endpoints, route_history
from tidemill.deploy.rollouts import Rollout, list_rollouts
from tidemill.govern.audit import list_events
from tidemill.govern.workspace import Workspace
from tidemill.monitor.alerts import Alert, list_alerts
from tidemill.registry.aliases import read_aliases
from tidemill.registry.models import list_models
from tidemill.registry.versions import list_versions
from tidemill.server.web.page import Page

# What a reader wants to hear of; the audit page tells the rest.
NOTEWORTHY = (
    "alert.opened",
    "alert.resolved",
    "api_key.issued",
    "dataset.added",
    "endpoint.created",
    "endpoint.routed",
    "features.applied",
    "job.ended",
    "model.promoted",
    "model.registered",
    "monitor.set",
    "role.granted",
    "rollout.advanced",
    "rollout.ended",
    "rollout.started",
    "rule.fired",
    "rule.set",
    "workspace.created",
)


class ServedEndpoint(Value, frozen=True, kw_only=True):
    """An endpoint with the rollout that it is in, if any. since: when its route last changed."""

    endpoint: Endpoint
    rollout: Rollout | None
    since: datetime
    routes: int


class ModelLine(Value, frozen=True, kw_only=True):
    """A model with its aliases and newest version."""

    name: str
    aliases: dict[str, int]
    newest: int
    made_at: datetime | None


class OverviewPage(Value, frozen=True, kw_only=True):
    """Context of the overview."""

    endpoints: tuple[ServedEndpoint, ...]
    alerts: tuple[Alert, ...]
    rollouts: tuple[Rollout, ...]
    models: tuple[ModelLine, ...]
    events: tuple[Event, ...]
    jobs: tuple[Job, ...]
    controller: ControllerState
    datasets: int


def build(ws: Workspace, _path: Mapping[str, str], _query: Mapping[str, str]) -> OverviewPage:
    """Build the overview's context."""
    running = {rollout.endpoint: rollout for rollout in list_rollouts(ws, state="running")}
    with ws.catalog.reading() as tx:
        jobs = list_jobs(tx, ws.project, limit=6)
    return OverviewPage(
        endpoints=tuple(_served(ws, endpoint, running.get(endpoint.name)) for endpoint in list_endpoints(ws)),
        alerts=tuple(list_alerts(ws, state="open", limit=20)),
        rollouts=tuple(list_rollouts(ws, limit=8)),
        models=tuple(_line(ws, model.name) for model in list_models(ws)),
        events=tuple(list_events(ws, kinds=NOTEWORTHY, limit=14)),
        jobs=tuple(jobs),
        controller=read_controller(ws),
        datasets=len(list_datasets(ws)),
    )


def _served(ws: Workspace, endpoint: Endpoint, rollout: Rollout | None) -> ServedEndpoint:
    routes = route_history(ws, endpoint.name)
    return ServedEndpoint(endpoint=endpoint, rollout=rollout, since=routes[0].valid_from, routes=len(routes))


def _line(ws: Workspace, name: str) -> ModelLine:
    newest = list_versions(ws, name, limit=1)
    return ModelLine(
        name=name,
        aliases=read_aliases(ws, name),
        newest=newest[0].version if newest else 0,
        made_at=newest[0].created_at if newest else None,
    )


PAGE = Page(path="", template="overview.html", section="overview", build=build, title=lambda _: "Overview", context=OverviewPage)
