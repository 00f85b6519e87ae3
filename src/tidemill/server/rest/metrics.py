"""Routes of metrics: points in, histories out."""

from collections.abc import Sequence
from typing import Annotated

from tidemill.core.clock import from_micros
from tidemill.core.ids import RunId
from tidemill.core.values import Meta, Value
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import Chunks, Route
from tidemill.tracking import batches, charts, runs
from tidemill.tracking.batches import Metric, Series
from tidemill.tracking.charts import Drawn


class LogSeries(Value, frozen=True, kw_only=True):
    """Columns of points. writer: who sends them; number: how many of them this writer has sent, so that a resend counts once."""

    writer: Annotated[str, Meta(min_length=1, max_length=64)]
    number: Annotated[int, Meta(ge=1)]
    series: tuple[Series, ...]


def log_metrics(ws: Workspace, run: RunId, *, body: tuple[Metric, ...]) -> None:
    """Add points to the histories of metrics, in order."""
    batches.log_metrics(ws, run, body)


def log_series(ws: Workspace, run: RunId, *, body: LogSeries) -> None:
    """Add columns of points to the histories of metrics; what was sent before counts once."""
    batches.log_series(ws, run, body.series, writer=body.writer, number=body.number)


def metric_history(ws: Workspace, run: RunId, key: str) -> list[Metric]:
    """List all points of a metric in the order in which they were logged."""
    points = runs.metric_history(ws, run, key)
    rows = zip(points.values.tolist(), points.steps.tolist(), points.times.tolist(), strict=True)
    return [Metric(key=key, value=value, step=step, at=from_micros(at)) for value, step, at in rows]


def history_blocks(ws: Workspace, run: RunId, key: str) -> Chunks:
    """Return all points of a metric as blocks of columns.

    A block is a count (uint32), then as many values (float64), steps and times (int64, microseconds since 1970), little-endian.
    """
    return charts.history_blocks(ws, run, key)


def sample_history(ws: Workspace, *, key: str, runs: Sequence[str], points: int = 2000) -> list[Drawn]:
    """Return the histories of a metric in some runs, thinned for a chart."""
    return charts.sample_history(ws, runs, key, points=points)


ROUTES = (
    Route("POST", "/runs/{run}/metrics", log_metrics),
    Route("POST", "/runs/{run}/series", log_series),
    Route("GET", "/runs/{run}/metrics/{key:path}", metric_history),
    Route("GET", "/runs/{run}/history/{key:path}", history_blocks),
    Route("GET", "/run-charts", sample_history),
)
