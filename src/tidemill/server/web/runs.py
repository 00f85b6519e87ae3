"""Runs: the newest of them, and one with its params, metrics, steps and artifacts."""

import math
from collections.abc import Mapping
from datetime import timedelta

from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.server.web.charts import Chart, Series
from tidemill.server.web.page import Page
from tidemill.tracking.points import sample
from tidemill.tracking.runs import Run, list_runs, metric_history, read_run

CHARTS = 6
SHOWN_METRICS = 4
CHART_POINTS = 2000


class RunsPage(Value, frozen=True, kw_only=True):
    """Context of the list of runs. Steps and trials stand on the page of the run that they are part of."""

    runs: tuple[Run, ...]


class RunPage(Value, frozen=True, kw_only=True):
    """Context of one run's page. parts: runs that are part of it, in the order in which they began."""

    run: Run
    seconds: timedelta | None
    parent: Run | None
    parts: tuple[Run, ...]
    charts: tuple[Chart, ...]


def build_list(ws: Workspace, _path: Mapping[str, str], _query: Mapping[str, str]) -> RunsPage:
    """Build the list's context."""
    return RunsPage(runs=tuple(list_runs(ws, kinds=("run", "pipeline", "batch"), limit=100, metrics=SHOWN_METRICS)))


def build(ws: Workspace, path: Mapping[str, str], _query: Mapping[str, str]) -> RunPage:
    """Build one run's context. Raises RunNotFound."""
    run = read_run(ws, path["run"])
    return RunPage(
        run=run,
        seconds=run.ended_at - run.started_at if run.ended_at is not None else None,
        parent=read_run(ws, run.parent) if run.parent is not None else None,
        parts=tuple(reversed(list_runs(ws, parent=run.id, limit=200, metrics=SHOWN_METRICS))),
        charts=tuple(chart for key in list(run.metrics)[:CHARTS] if (chart := _history(ws, run, key)) is not None),
    )


def _history(ws: Workspace, run: Run, key: str) -> Chart | None:
    points = sample(metric_history(ws, run.id, key), CHART_POINTS)
    if len(points) < 2:
        return None
    values = tuple(value if math.isfinite(value) else None for value in points.values.tolist())
    return Chart(title=key, kind="line", x=tuple(points.steps.tolist()), series=(Series(name=key, values=values),))


LIST = Page(path="/runs", template="runs.html", section="runs", build=build_list, title=lambda _: "Runs", context=RunsPage)
PAGE = Page(
    path="/runs/{run}", template="run.html", section="runs", build=build, title=lambda page: f"Run {page.run.name}", context=RunPage
)
