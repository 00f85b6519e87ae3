"""Fill the online store with what a view's source holds, so that a look-up finds what history would."""

from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.catalog.events import EventBody
from tidemill.core.clock import utc
from tidemill.core.values import Value
from tidemill.datasets.versions import open_table, read_version
from tidemill.features.definitions import read_view, view_plan
from tidemill.features.online import Pushed, push
from tidemill.features.views import FeatureView
from tidemill.govern.workspace import Workspace

CHUNK_ROWS = 20_000


class Materialized(Value, frozen=True, kw_only=True):
    """Outcome of materialising a view: what was read and how many events went online."""

    view: str
    source: str
    until: datetime
    stored: int
    skipped: int


class ViewMaterialized(EventBody, frozen=True, kw_only=True, tag="view.materialized"):
    """A view's values went online."""

    view: str
    source: str
    until: datetime
    stored: int


def materialize(ws: Workspace, view: str, until: datetime | None = None, *, source: str | None = None, reason: str = "") -> Materialized:
    """Put a view's events up to `until` (now unless told) online, from the newest version of its source or from `NAME@V`.

    Reads from `until` on then equal history's. A view with an event key adds to what is there, so that pushes meanwhile are not lost and
    doing it again changes nothing; one without starts from nothing. Raises DefinitionNotFound.
    """
    ws.require("features.write", view)
    found, end = read_view(ws, view), utc(until) if until is not None else ws.clock.now()
    definition, plan = found.definition, view_plan(ws.project, found)
    version = read_version(ws, source or definition.source)
    events = relevant(definition, open_table(ws, version, columns=definition.needs), end)
    if definition.event_key is None:
        ws.online.clear(plan.namespace)
    outcomes = [
        push(ws.online, plan, {name: chunk.column(name).to_pylist() for name in chunk.column_names}, now=end)
        for chunk in (events.slice(start, CHUNK_ROWS) for start in range(0, events.num_rows, CHUNK_ROWS))
    ]
    done = _total(outcomes)
    with ws.catalog.transaction() as tx:
        body = ViewMaterialized(view=f"{found.name}@{found.version}", source=version.node, until=end, stored=done.stored)
        ws.record(tx, body, subject=f"view:{found.name}", reason=reason)
    return Materialized(view=f"{found.name}@{found.version}", source=version.node, until=end, stored=done.stored, skipped=done.skipped)


def relevant(view: FeatureView, events: pa.Table, until: datetime) -> pa.Table:
    """Return the events, in the source's order, that a read at `until` or later may see and that have happened by then."""
    times = events.column(view.event_timestamp)
    keep = pc.less_equal(times, pa.scalar(until, times.type))
    longest = _longest(view)
    if longest is not None:
        keep = pc.and_(keep, pc.greater(times, pa.scalar(until - longest, times.type)))
    return events.filter(keep)


def _longest(view: FeatureView) -> timedelta | None:
    windows = [feature.aggregation.window for feature in view.features if feature.aggregation is not None]
    return max(windows) if windows else view.ttl


def _total(outcomes: list[Pushed]) -> Pushed:
    return Pushed(stored=sum(each.stored for each in outcomes), skipped=sum(each.skipped for each in outcomes))
