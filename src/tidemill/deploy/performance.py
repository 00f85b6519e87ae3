"""How an endpoint does: what it answered and what came true, by span of time and by variant, from the journal."""

from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import duckdb
import numpy as np
import pyarrow as pa

from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.core.window import Window
from tidemill.deploy.endpoints import read_endpoint
from tidemill.govern.workspace import Workspace
from tidemill.serving.config import endpoint_key
from tidemill.serving.history import count_pending, read_labels, read_predictions
from tidemill.stats.arrays import OneClass
from tidemill.stats.scores import auc, brier

LIVE = "live"
Span = Literal["day", "week", "month"]
# What callers were told counts as "live"; besides, each variant counts with all that it scored, answered or not.
_SCORED = """
WITH told AS (
    SELECT * FROM predictions
    UNION ALL BY NAME SELECT * REPLACE ('live' AS variant) FROM predictions WHERE NOT shadow
)
SELECT date_trunc($by, timezone($zone, told.at)) AS start, variant, count(*) AS predictions, count(value) AS labels,
    list(score ORDER BY told.at, id) FILTER (value IS NOT NULL) AS scores,
    list(value ORDER BY told.at, id) FILTER (value IS NOT NULL) AS truths,
    quantile_cont(latency_ms, 0.5) AS p50_ms, quantile_cont(latency_ms, 0.99) AS p99_ms
FROM told LEFT JOIN labels USING (id) GROUP BY ALL ORDER BY start, variant
"""


class SpanPerformance(Value, frozen=True, kw_only=True):
    """One span of local time, of what callers were told ("live") or of all that one variant scored.

    auc and brier are None where no label has come (auc also where only one kind has).
    """

    start: datetime
    variant: str
    predictions: int
    labels: int
    positive_share: float | None
    auc: float | None
    brier: float | None
    p50_ms: float
    p99_ms: float


class JournalCount(Value, frozen=True, kw_only=True):
    """How many answers of an endpoint are in the journal, each once, and how many of them have a label.

    pending: keys that labels have come for, and no prediction yet.
    """

    predictions: int
    labelled: int
    pending: int


def read_performance(
    ws: Workspace, endpoint: str, *, by: Span = "month", zone: str = "UTC", start: datetime | None = None, end: datetime | None = None
) -> list[SpanPerformance]:
    """Return how an endpoint did in each span of local time. start and end bound the time of predictions.

    Raises EndpointNotFound, and Invalid for a time zone that is not known.
    """
    read_endpoint(ws, endpoint)
    try:
        local = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise Invalid(f"time zone {zone!r} is not known; expected an IANA name such as America/New_York") from error
    window = Window(start=start or datetime.min.replace(tzinfo=UTC), end=end or ws.clock.now()) if start or end else None
    with duckdb.connect() as connection:
        connection.register("predictions", _predictions(ws, endpoint, window))
        connection.register("labels", read_labels(ws.state, objects=ws.objects).select(["id", "value"]))
        found = connection.execute(_SCORED, {"by": by, "zone": zone})
        names = [column[0] for column in found.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return [_span(row, local) for row in rows]


def count_journal(ws: Workspace, endpoint: str) -> JournalCount:
    """Count the answers of an endpoint that are in the journal."""
    read_endpoint(ws, endpoint)
    with duckdb.connect() as connection:
        connection.register("predictions", _predictions(ws, endpoint, None).select(["id", "shadow"]))
        connection.register("labels", read_labels(ws.state, objects=ws.objects).select(["id", "value"]))
        query = "SELECT count(*), count(value) FROM predictions LEFT JOIN labels USING (id) WHERE NOT shadow"
        predictions, labelled = connection.execute(query).fetchone() or (0, 0)
    pending = count_pending(ws.state, endpoint_key(ws.project, endpoint), objects=ws.objects)
    return JournalCount(predictions=predictions, labelled=labelled, pending=pending)


def _predictions(ws: Workspace, endpoint: str, window: Window | None) -> pa.Table:
    return read_predictions(ws.state, endpoint_key(ws.project, endpoint), window, with_inputs=False, objects=ws.objects)


def _span(row: dict[str, Any], zone: ZoneInfo) -> SpanPerformance:
    truths, scores = np.asarray(row.pop("truths") or []), np.asarray(row.pop("scores") or [])
    seen = len(truths) > 0
    try:
        ranked = auc(truths > 0.5, scores) if seen else None
    except OneClass:
        ranked = None
    start = row.pop("start").replace(tzinfo=zone).astimezone(UTC)
    return SpanPerformance(
        **row,
        start=start,
        positive_share=float(truths.mean()) if seen else None,
        auc=ranked,
        brier=brier(truths > 0.5, scores) if seen else None,
    )
