"""One metric of one run: its chart, thinned as far as nobody sees, and its numbers."""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from tidemill.core.errors import NotFound
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.server.web.charts import Chart, Series
from tidemill.server.web.page import Page
from tidemill.tracking.points import Points, sample
from tidemill.tracking.runs import Run, metric_history, read_head

CHART_POINTS = 1000
LISTED_POINTS = 200


class Listed(Value, frozen=True, kw_only=True):
    """A point of a metric, as a table shows it."""

    step: int
    value: float


class MetricPage(Value, frozen=True, kw_only=True):
    """Context of a metric's page. logged: how many points it has in truth; low, high: of those that are finite.

    counts: what a point is known by: its step, or its number where nobody counted steps.
    """

    run: Run
    key: str
    logged: int
    counts: Literal["step", "point"]
    latest: Listed
    low: float | None
    high: float | None
    chart: Chart
    listed: tuple[Listed, ...]


def build(ws: Workspace, path: Mapping[str, str], query: Mapping[str, str]) -> MetricPage:
    """Build a metric's context. Raises RunNotFound, NotFound for a metric that the run does not have."""
    run, key = read_head(ws, path["run"]), query.get("key", "")
    points = metric_history(ws, run.id, key)
    if not len(points):
        raise NotFound(f"run {run.id} has no metric {key!r}; see the metrics that it has on its page")
    counted = len(points) == 1 or bool(np.any(points.steps != points.steps[0]))
    history = by_step(points) if counted else Points(points.values, np.arange(1, len(points) + 1), points.times)
    finite = history.values[np.isfinite(history.values)]
    listed = _listed(sample(history, LISTED_POINTS))
    return MetricPage(
        run=run,
        key=key,
        logged=len(history),
        counts="step" if counted else "point",
        latest=listed[-1],
        low=float(finite.min()) if finite.size else None,
        high=float(finite.max()) if finite.size else None,
        chart=line(key, sample(history, CHART_POINTS)),
        listed=listed,
    )


def by_step(points: Points) -> Points:
    """Return points in the order of their steps."""
    order = np.argsort(points.steps, kind="stable")
    return Points(points.values[order], points.steps[order], points.times[order])


def line(name: str, points: Points) -> Chart:
    """Return points as a chart of one line."""
    values = tuple(value if math.isfinite(value) else None for value in points.values.tolist())
    return Chart(title=name, kind="line", x=tuple(points.steps.tolist()), series=(Series(name=name, values=values),))


def _listed(points: Points) -> tuple[Listed, ...]:
    return tuple(Listed(step=step, value=value) for step, value in zip(points.steps.tolist(), points.values.tolist(), strict=True))


PAGE = Page(
    path="/runs/{run}/metric",
    template="metric.html",
    section="runs",
    build=build,
    title=lambda page: f"{page.key} of {page.run.name}",
    context=MetricPage,
)
