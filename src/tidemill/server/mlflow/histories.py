"""Histories of metrics as MLflow's clients read them: whole, in pages, of several runs, and thinned out for a chart."""

from typing import Annotated

import numpy as np

from tidemill.core.errors import Invalid
from tidemill.core.pages import question, read_token, token_after
from tidemill.core.values import UNSET, Meta, UnsetType, Wire
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.runs import WireMetric
from tidemill.server.mlflow.wire import Filled, Int64, told_number
from tidemill.tracking import runs
from tidemill.tracking.points import Points
from tidemill.tracking.runs import RunNotFound

BULK_MAX = 25_000
BULK_RUNS_MAX = 100
THINNED_MAX = 2500


class History(Wire, frozen=True, kw_only=True):
    """Which history is asked for. Without max_results all of it comes at once."""

    run_id: Filled
    metric_key: Filled
    page_token: str = ""
    max_results: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class Bulk(Wire, frozen=True, kw_only=True):
    """The histories of several runs."""

    run_id: tuple[str, ...] = ()
    metric_key: Filled
    max_results: Int64 = BULK_MAX


class Thinned(Wire, frozen=True, kw_only=True):
    """Points of several runs for a chart."""

    run_ids: Annotated[tuple[str, ...], Meta(min_length=1, max_length=BULK_RUNS_MAX)]
    metric_key: Filled
    start_step: Int64 | None = None
    end_step: Int64 | None = None
    max_results: Annotated[int, Meta(ge=1, le=THINNED_MAX)] = THINNED_MAX


class RunPoint(WireMetric, frozen=True, kw_only=True):
    """A point, and whose it is."""

    run_id: str


class Page(Wire, frozen=True, kw_only=True):
    """Points of one run."""

    metrics: tuple[WireMetric, ...] | UnsetType = UNSET
    next_page_token: str | UnsetType = UNSET


class RunPoints(Wire, frozen=True, kw_only=True):
    """Points of several runs."""

    metrics: tuple[RunPoint, ...] | UnsetType = UNSET


def history(ws: Workspace, request: History) -> Page:
    """Return the history of a metric, or a page of it."""
    points = _by_time(_read(ws, request.run_id, request.metric_key))
    scope = question("history", ws.project, request.run_id, request.metric_key)
    start = int(read_token(request.page_token, scope)[0]) if request.page_token else 0
    end = len(points) if request.max_results is None else start + request.max_results
    page = Points(points.values[start:end], points.steps[start:end], points.times[start:end])
    told = tuple(
        WireMetric(key=request.metric_key, value=told_number(value), timestamp=at // 1000, step=step)
        for value, step, at in zip(page.values.tolist(), page.steps.tolist(), page.times.tolist(), strict=True)
    )
    return Page(metrics=told or UNSET, next_page_token=token_after(scope, end) if end < len(points) else UNSET)


def bulk(ws: Workspace, request: Bulk) -> RunPoints:
    """Return the histories of several runs, by id, up to a number of points in all."""
    if not 1 <= len(request.run_id) <= BULK_RUNS_MAX:
        raise Invalid(f"GetMetricHistoryBulk takes 1 to {BULK_RUNS_MAX} run ids, got {len(request.run_id)}")
    told: list[RunPoint] = []
    most = min(request.max_results, BULK_MAX)
    for run in sorted(set(request.run_id)):
        if len(told) < most:
            told += _told(run, request.metric_key, _by_time(_read(ws, run, request.metric_key)))
    return RunPoints(metrics=tuple(told[:most]))


def thinned(ws: Workspace, request: Thinned) -> RunPoints:
    """Return evenly spread points of several runs, the first and the last of each among them."""
    if (request.start_step is None) != (request.end_step is None):
        raise Invalid("If either start step or end step is given, both must be; send start_step and end_step")
    if request.start_step is not None and request.end_step is not None and request.start_step > request.end_step:
        raise Invalid(f"end_step must not lie before start_step, got {request.start_step} .. {request.end_step}")
    told: list[RunPoint] = []
    for run in request.run_ids:
        points = _by_step(_read(ws, run, request.metric_key))
        if request.start_step is not None and request.end_step is not None:
            within = (points.steps >= request.start_step) & (points.steps <= request.end_step)
            points = Points(points.values[within], points.steps[within], points.times[within])
        told += _told(run, request.metric_key, _spread(points, request.max_results))
    return RunPoints(metrics=tuple(told) or UNSET)


def _read(ws: Workspace, run: str, key: str) -> Points:
    try:
        return runs.metric_history(ws, run, key)
    except RunNotFound:  # MLflow passes over it
        return Points(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))


def _by_time(points: Points) -> Points:
    """Return points in MLflow's order: by millisecond, step and value. Points that are alike in all three count once, as there."""
    values = np.nan_to_num(points.values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return _once(points, np.lexsort((values, points.steps, points.times // 1000)))


def _by_step(points: Points) -> Points:
    values = np.nan_to_num(points.values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return _once(points, np.lexsort((values, points.times // 1000, points.steps)))


def _once(points: Points, order: "np.typing.NDArray[np.intp]") -> Points:
    values, steps, times = points.values[order], points.steps[order], points.times[order] // 1000 * 1000
    if len(values) > 1:
        alike = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
        fresh = np.concatenate([[True], ~(alike & (steps[1:] == steps[:-1]) & (times[1:] == times[:-1]))])
        values, steps, times = values[fresh], steps[fresh], times[fresh]
    return Points(values, steps, times)


def _spread(points: Points, count: int) -> Points:
    """Return the first point of each of `count` equal stretches, and the last of all."""
    total = len(points)
    if total <= count:
        return points
    short, longer = divmod(total, count)
    stretches = np.arange(count)
    chosen = stretches * short + np.minimum(stretches, longer)
    chosen[-1] = total - 1
    return Points(points.values[chosen], points.steps[chosen], points.times[chosen])


def _told(run: str, key: str, points: Points) -> list[RunPoint]:
    return [
        RunPoint(run_id=run, key=key, value=told_number(value), timestamp=at // 1000, step=step)
        for value, step, at in zip(points.values.tolist(), points.steps.tolist(), points.times.tolist(), strict=True)
    ]


ENDPOINTS = (
    Endpoint("GET", "/mlflow/metrics/get-history", History, history),
    Endpoint("GET", "/mlflow/metrics/get-history-bulk", Bulk, bulk),
    Endpoint("GET", "/mlflow/metrics/get-history-bulk-interval", Thinned, thinned),
)
