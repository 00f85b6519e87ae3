"""Rows that arrive in portions go both ways: into their dataset, and online into the feature views that stand on it.

What goes online is what the dataset took: it is owed from the transaction that makes it rows of the dataset until it is online, so that
nobody who is killed in between leaves the two apart. A view of aggregations without an event key could count a row twice: it is left out.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection

from tidemill.core.clock import micros
from tidemill.core.codec import decode, encode_text
from tidemill.core.errors import Invalid, Unavailable
from tidemill.core.ids import Digest, EventId, new_id
from tidemill.core.values import replace
from tidemill.datasets.intake import OnBad, Taken, take
from tidemill.datasets.keys import read_key
from tidemill.datasets.marks import AlreadyTaken, Mark, forget_marks, forget_older, marked_datasets, read_marks, write_marks
from tidemill.datasets.rows import Misfit
from tidemill.deploy.publish import fed_views
from tidemill.features.online import Push, ViewPlan
from tidemill.features.sourced import from_table
from tidemill.features.stored import Form
from tidemill.govern.workspace import Workspace
from tidemill.serving.config import load

LOG = logging.getLogger("tidemill.arrivals")
OWED, CALLS = "owed online", "calls"
CALLS_KEPT = timedelta(days=7)
BATCH_ROWS = 20_000


def arrive(
    ws: Workspace, name: str, rows: pa.Table | Sequence[Any], *, on_bad: OnBad = "refuse", marks: Sequence[Mark] = (),
    once: str | None = None, reason: str = "", cause: EventId | None = None,
) -> tuple[Taken, list[Misfit]]:  # fmt: skip
    """Take rows into a dataset as `datasets.intake.take` does; where it has a declared key, into the views on it as well.

    marks: how far their source is taken with them. once: what a caller calls this, who asks again when he had no answer: he gets the first
    one, for a week. An online store that cannot be reached stops nothing: the rows are owed to it, and go there with the next ones or by
    the controller. Raises what `take` does, and AlreadyTaken.
    """
    if once is not None and (answered := read_marks(ws, name, CALLS).get(once)) is not None:
        return decode(answered, Taken, what="an earlier answer"), []
    plans = _plans(ws, name) if read_key(ws, name) is not None else []
    feeds = [plan for plan in plans if _takes_portions(plan)]
    needed = list(dict.fromkeys(str(plan.view.event_key) for plan in feeds if plan.view.event_key is not None))
    online, left = ([plan.reference for plan in those] for those in (feeds, [plan for plan in plans if plan not in feeds]))

    def beside(tx: Connection, taken: Taken, part: Digest | None) -> None:
        told = list(marks)
        if once is not None:
            forget_older(tx, ws, name, CALLS, CALLS_KEPT)
            told.append(Mark(source=CALLS, mark=once, before=None, told=encode_text(_with_views(taken, online, left))))
        if feeds and part is not None:
            told.append(Mark(source=OWED, mark=f"{part} {new_id()}", before=None, told=""))
        write_marks(tx, ws, name, told)

    try:
        taken, misfits = take(ws, name, rows, on_bad=on_bad, needed=needed, reason=reason, cause=cause, beside=beside)
    except AlreadyTaken as error:
        if error.mark.source == CALLS:  # the caller's two tries came at once
            return arrive(ws, name, rows, on_bad=on_bad, once=once)
        raise
    _settle(ws, name, feeds)
    return _with_views(taken, online, left), misfits


def settle_owed(ws: Workspace) -> None:
    """Bring online what is owed there of this project's datasets: rows whose taker was killed, or could not reach the online store."""
    for name in marked_datasets(ws, OWED):
        _settle(ws, name, [plan for plan in _plans(ws, name) if _takes_portions(plan)])


def _settle(ws: Workspace, name: str, plans: Sequence[ViewPlan]) -> None:
    """Bring online what is owed of a dataset, as far as the online store can be reached."""
    for mark in sorted(read_marks(ws, name, OWED), key=lambda mark: mark.partition(" ")[2]):
        try:
            with pq.ParquetFile(ws.objects.local_path(Digest(mark.partition(" ")[0]))) as part:
                for batch in part.iter_batches(BATCH_ROWS):
                    _store(ws, name, plans, pa.Table.from_batches([batch]))
        except Unavailable as error:
            LOG.warning("rows of dataset %s are not online yet: %s", name, error)
            return
        forget_marks(ws, name, OWED, [mark])


def _store(ws: Workspace, name: str, plans: Sequence[ViewPlan], rows: pa.Table) -> None:
    now = micros(ws.clock.now())
    for plan in plans:
        form = Form(plan.view)
        try:
            incoming = from_table(form, plan.key_kinds, plan.event_key_kind, rows)
        except Invalid as error:
            LOG.error("feature view %s does not take rows of %s: %s; apply it again", plan.reference, name, error)
            continue
        Push(plan, form, incoming, now).store(ws.online)


def _with_views(taken: Taken, online: Sequence[str], left: Sequence[str]) -> Taken:
    return replace(taken, online=tuple(online), not_online=tuple(left))


def _plans(ws: Workspace, name: str) -> list[ViewPlan]:
    served = load(ws.state)
    return [plan for plan in fed_views(ws, served.endpoints if served is not None else ()) if plan.view.source == name]


def _takes_portions(plan: ViewPlan) -> bool:
    """Return whether storing an event again changes nothing."""
    return plan.view.event_key is not None or not plan.view.windowed
