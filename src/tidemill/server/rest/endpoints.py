"""Routes of endpoints and rollouts."""

from datetime import datetime
from typing import Any

from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.core.window import Window
from tidemill.deploy import endpoints, performance, publish, rollouts, trace
from tidemill.deploy.endpoints import Endpoint, RouteSpan
from tidemill.deploy.performance import JournalCount, Span, SpanPerformance
from tidemill.deploy.plans import RolloutPlan, canary_plan
from tidemill.deploy.rollouts import Rollout, State
from tidemill.deploy.skew import SkewReport
from tidemill.deploy.skew import skew as replay
from tidemill.deploy.trace import Trace
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import Limit, Route


class CreateEndpoint(Value, frozen=True, kw_only=True):
    """A name for callers. model: NAME@VERSION or NAME@alias. benchmark: one that scores along and never answers."""

    name: str
    model: str
    sticky_by: str | None = None
    benchmark: str | None = None
    reason: str = ""


class ChangeEndpoint(Value, frozen=True, kw_only=True):
    """What is to be different of how an endpoint serves, by the names of its options."""

    options: dict[str, Any]
    reason: str = ""


class StartRollout(Value, frozen=True, kw_only=True):
    """A challenger and the plan by which it may take over; without a plan it is a canary."""

    model: str
    plan: RolloutPlan | None = None
    reason: str = ""
    override: bool = False


class Because(Value, frozen=True, kw_only=True):
    """Why something is done."""

    reason: str


def list_endpoints(ws: Workspace) -> list[Endpoint]:
    """List endpoints by name."""
    return endpoints.list_endpoints(ws)


def create_endpoint(ws: Workspace, *, body: CreateEndpoint) -> Endpoint:
    """Make an endpoint that one model version answers alone; the answer comes when it is served."""
    return publish.create_and_serve(ws, body.name, body.model, sticky_by=body.sticky_by, benchmark=body.benchmark, reason=body.reason)


def change_endpoint(ws: Workspace, name: str, *, body: ChangeEndpoint) -> Endpoint:
    """Change how an endpoint serves; the answer comes when it does."""
    return publish.change_and_serve(ws, name, body.options, reason=body.reason)


def get_endpoint(ws: Workspace, name: str, *, at: datetime | None = None) -> Endpoint:
    """Return an endpoint as it is, or as it was at a moment."""
    return endpoints.read_endpoint(ws, name, at=at)


def list_routes(ws: Workspace, name: str) -> list[RouteSpan]:
    """List every route that an endpoint had, newest first."""
    return endpoints.route_history(ws, name)


def start_rollout(ws: Workspace, name: str, *, body: StartRollout) -> Rollout:
    """Set a model version against the one that leads an endpoint."""
    plan = body.plan if body.plan is not None else canary_plan()
    return rollouts.start_rollout(ws, name, body.model, plan=plan, reason=body.reason, override=body.override)


def list_rollouts(ws: Workspace, *, endpoint: str | None = None, state: State | None = None, limit: Limit = 100) -> list[Rollout]:
    """List rollouts, newest first."""
    return rollouts.list_rollouts(ws, endpoint=endpoint, state=state, limit=limit)


def roll_back(ws: Workspace, name: str, *, body: Because) -> Endpoint:
    """Take the newest change of an endpoint back."""
    return rollouts.roll_back(ws, name, reason=body.reason)


def get_performance(
    ws: Workspace, name: str, *, by: Span = "month", zone: str = "UTC", start: datetime | None = None, end: datetime | None = None
) -> list[SpanPerformance]:
    """Say how an endpoint did in each span of local time: what callers were told, and each variant."""
    return performance.read_performance(ws, name, by=by, zone=zone, start=start, end=end)


def get_skew(
    ws: Workspace, name: str, *, last: int | None = None, start: datetime | None = None, end: datetime | None = None,
    tolerance: float = 0.0, complete: bool = False,
) -> SkewReport:  # fmt: skip
    """Hold what an endpoint looked up for its answers against what history says of the same rows."""
    if (start is None) != (end is None):
        raise Invalid("only one end of the span was given; send both start and end, or neither")
    window = Window(start=start, end=end) if start is not None and end is not None else None
    return replay(ws, name, last=last, window=window, tolerance=tolerance, complete=complete)


def get_journal(ws: Workspace, name: str) -> JournalCount:
    """Count the answers of an endpoint that are in the journal, and those with a label."""
    return performance.count_journal(ws, name)


def get_trace(ws: Workspace, prediction: str, *, endpoint: str | None = None) -> Trace:
    """Follow one answer back to feature values, model, run, code, data, checks and the decision that released it."""
    return trace.trace(ws, prediction, endpoint=endpoint)


ROUTES = (
    Route("GET", "/endpoints", list_endpoints),
    Route("POST", "/endpoints", create_endpoint, status=201),
    Route("GET", "/endpoints/{name}", get_endpoint),
    Route("PATCH", "/endpoints/{name}", change_endpoint),
    Route("GET", "/endpoints/{name}/routes", list_routes),
    Route("POST", "/endpoints/{name}/rollouts", start_rollout, status=201),
    Route("POST", "/endpoints/{name}/rollback", roll_back),
    Route("GET", "/rollouts", list_rollouts),
    Route("GET", "/endpoints/{name}/performance", get_performance),
    Route("GET", "/endpoints/{name}/journal", get_journal),
    Route("GET", "/endpoints/{name}/skew", get_skew),
    Route("GET", "/predictions/{prediction}/trace", get_trace),
)
