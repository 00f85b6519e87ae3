"""Removing traces for good, with all that belongs to them."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select

from tidemill.catalog.events import EventBody
from tidemill.govern.workspace import Workspace
from tidemill.tracking.assessments import ASSESSMENTS
from tidemill.tracking.files import FILES, within
from tidemill.tracking.traces import FACTS, SPANS, TAGS, TRACE_RUNS, TRACES

_AT_ONCE = 500


class TracesDeleted(EventBody, frozen=True, kw_only=True, tag="traces.deleted"):
    """Traces of an experiment were removed for good."""

    experiment: int
    traces: int


def delete_traces(
    ws: Workspace, experiment: int, *, traces: Sequence[str] = (), until: datetime | None = None, limit: int | None = None
) -> int:
    """Remove traces of an experiment, oldest first: those named, or all until a moment; return how many.

    They are held first, so that spans which come meanwhile wait, and begin them anew.
    """
    ws.require("tracking.write", str(experiment))
    query = select(TRACES.c.id).where(TRACES.c.project == ws.project, TRACES.c.experiment_id == experiment)
    if traces:
        query = query.where(TRACES.c.id.in_(traces))
    if until is not None:
        query = query.where(TRACES.c.requested_at <= until)
    with ws.catalog.transaction() as tx:
        gone = list(tx.execute(query.order_by(TRACES.c.requested_at, TRACES.c.id).limit(limit).with_for_update()).scalars())
        for start in range(0, len(gone), _AT_ONCE):
            some = gone[start : start + _AT_ONCE]
            for table in (TAGS, FACTS, SPANS, TRACE_RUNS, ASSESSMENTS):
                tx.execute(delete(table).where(table.c.project == ws.project, table.c.trace.in_(some)))
            for trace in some:
                tx.execute(delete(FILES).where(within(ws.project, f"{experiment}/traces/{trace}")))
            tx.execute(delete(TRACES).where(TRACES.c.project == ws.project, TRACES.c.id.in_(some)))
        if gone:
            ws.record(tx, TracesDeleted(experiment=experiment, traces=len(gone)), subject=f"experiment:{experiment}")
    return len(gone)
