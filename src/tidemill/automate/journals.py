"""The journals' chores: what workers have finished writing becomes few files, old days objects, and days whose time is up go."""

import logging
from datetime import timedelta

from tidemill.catalog.events import EventBody
from tidemill.core.errors import TidemillError
from tidemill.deploy.endpoints import Endpoint, list_endpoints
from tidemill.govern.workspace import Workspace
from tidemill.serving.archive import compact
from tidemill.serving.config import endpoint_key
from tidemill.serving.journal import endpoints_journaled
from tidemill.serving.retention import carry_out, forget_labels, plan_expiry

LOG = logging.getLogger("tidemill.controller")


class JournalExpired(EventBody, frozen=True, kw_only=True, tag="journal.expired"):
    """Predictions of the days before one were removed for good, as journal_days of their endpoint says, with their labels."""

    endpoint: str
    before: str
    predictions: int
    labels: int
    files: int


def keep_journals(ws: Workspace) -> None:
    """Do what is due with the journals of this project's endpoints.

    Trouble with one (a full disk, a bucket out of reach) keeps nothing else from being done.
    """
    journaled = set(endpoints_journaled(ws.state))
    for endpoint in list_endpoints(ws):
        if endpoint_key(ws.project, endpoint.name) in journaled:
            try:
                _compact(ws, endpoint)
                _expire(ws, endpoint)
            except (TidemillError, OSError) as error:
                LOG.warning("journal of endpoint %s was not compacted: %s", endpoint.name, error)
    forget_labels(ws.state)


def _compact(ws: Workspace, endpoint: Endpoint) -> None:
    today = ws.clock.now().date()
    report = compact(
        ws.state,
        endpoint_key(ws.project, endpoint.name),
        objects=ws.objects,
        closed_before=today - timedelta(days=1),
        archive_before=today - timedelta(days=ws.settings.journal_local_days),
    )
    if report.segments or report.merged or report.archived:
        told = "journal of endpoint %s: %d segments compacted (%d rows), %d files merged, %d moved to the object store"
        LOG.info(told, endpoint.name, report.segments, report.rows, report.merged, report.archived)


def _expire(ws: Workspace, endpoint: Endpoint) -> None:
    """Remove the days whose time is up. The event comes first: nothing goes without one."""
    if not endpoint.options.journal_days:
        return
    before = ws.clock.now().date() - timedelta(days=endpoint.options.journal_days)
    plan = plan_expiry(ws.state, endpoint_key(ws.project, endpoint.name), before=before, objects=ws.objects)
    if plan is None:
        return
    gone = plan[0]
    body = JournalExpired(
        endpoint=endpoint.name, before=before.isoformat(), predictions=gone.predictions, labels=gone.labels, files=gone.files
    )  # fmt: skip
    with ws.catalog.transaction() as tx:
        ws.record(tx, body, subject=f"endpoint:{endpoint.name}", reason=f"journal_days is {endpoint.options.journal_days}")
    carry_out(ws.state, plan, objects=ws.objects)
