"""One endpoint: who answers, how fast, how well, what drifted, and what was done about it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from tidemill.catalog.events import Event
from tidemill.core.values import Value
from tidemill.core.window import Window
from tidemill.deploy.endpoints import Endpoint, RouteSpan, read_endpoint, route_history
from tidemill.deploy.rollouts import Rollout, list_rollouts
from tidemill.govern.audit import list_events
from tidemill.govern.workspace import Workspace
from tidemill.monitor.alerts import Alert, list_alerts
from tidemill.server.web.charts import Mark, when
from tidemill.server.web.page import Page
from tidemill.server.web.traffic import Traffic, read_traffic
from tidemill.server.web.watch import Watched, read_watched

SPANS: Mapping[str, timedelta] = {
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=30),
    "quarter": timedelta(days=91),
}


class EndpointPage(Value, frozen=True, kw_only=True):
    """Context of an endpoint's page. span is the one of `spans` that the charts cover."""

    endpoint: Endpoint
    span: str
    spans: tuple[str, ...]
    traffic: Traffic
    watched: tuple[Watched, ...]
    alerts: tuple[Alert, ...]
    rollouts: tuple[Rollout, ...]
    routes: tuple[RouteSpan, ...]
    events: tuple[Event, ...]


def build(ws: Workspace, path: Mapping[str, str], query: Mapping[str, str]) -> EndpointPage:
    """Build an endpoint's context. Raises EndpointNotFound."""
    endpoint = read_endpoint(ws, path["endpoint"])
    span = query.get("span", "week")
    span = span if span in SPANS else "week"
    now = ws.clock.now()
    window = Window(start=now - SPANS[span], end=now + timedelta(microseconds=1))
    rollouts = tuple(list_rollouts(ws, endpoint=endpoint.name, limit=20))
    return EndpointPage(
        endpoint=endpoint,
        span=span,
        spans=tuple(SPANS),
        traffic=read_traffic(ws, endpoint.name, window),
        watched=read_watched(ws, endpoint.name, marks=_marks(rollouts)),
        alerts=tuple(list_alerts(ws, endpoint=endpoint.name, limit=20)),
        rollouts=rollouts,
        routes=tuple(route_history(ws, endpoint.name)[:20]),
        events=tuple(list_events(ws, subject=f"endpoint:{endpoint.name}", limit=40)),
    )


def _marks(rollouts: Sequence[Rollout]) -> tuple[Mark, ...]:
    """Return what a chart shows of releases: when another version took over."""
    return tuple(
        Mark(at=when([rollout.ended_at])[0], text=f"v{rollout.challenger.version}")
        for rollout in rollouts
        if rollout.ended_at is not None and rollout.state == "promoted"
    )


PAGE = Page(
    path="/endpoints/{endpoint}",
    template="endpoint.html",
    section="overview",
    build=build,
    title=lambda page: f"Endpoint {page.endpoint.name}",
    context=EndpointPage,
)
