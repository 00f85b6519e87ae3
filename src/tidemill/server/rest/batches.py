"""Routes of batch jobs."""

from tidemill.automate import worker
from tidemill.catalog.jobs import Job
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import Route
from tidemill.serving.batch.job import BatchRequest


class ScoreBatch(Value, frozen=True, kw_only=True):
    """What to score, and why."""

    request: BatchRequest
    reason: str = ""


def score(ws: Workspace, *, body: ScoreBatch) -> Job:
    """Ask for a table to be scored; a worker does it, the job tells how it went."""
    return worker.ask_batch(ws, body.request, reason=body.reason)


ROUTES = (Route("POST", "/batches", score, status=202),)
