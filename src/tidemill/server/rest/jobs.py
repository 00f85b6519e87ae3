"""Routes of jobs."""

from collections.abc import Sequence

from tidemill.catalog import jobs
from tidemill.catalog.jobs import Job, JobState
from tidemill.core.ids import JobId
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import Limit, Route


def list_jobs(ws: Workspace, *, states: Sequence[JobState] = (), limit: Limit = 100) -> list[Job]:
    """List jobs, newest first."""
    ws.require("catalog.read")
    with ws.catalog.reading() as tx:
        return jobs.list_jobs(tx, ws.project, states=tuple(states), limit=limit)


def get_job(ws: Workspace, job: JobId) -> Job:
    """Return a job with its state and result."""
    ws.require("catalog.read")
    with ws.catalog.reading() as tx:
        return jobs.read_job(tx, job)


ROUTES = (Route("GET", "/jobs", list_jobs), Route("GET", "/jobs/{job}", get_job))
