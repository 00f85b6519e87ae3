"""Routes of pipelines."""

from typing import Any

from tidemill.automate import worker
from tidemill.catalog.jobs import Job
from tidemill.core.values import Value, field
from tidemill.govern.workspace import Workspace
from tidemill.pipelines.project import PipelineDeclared, declared_pipelines
from tidemill.server.rest.route import Route


class RunPipeline(Value, frozen=True, kw_only=True):
    """Params that differ from the pipeline's defaults, and why it is run."""

    params: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def list_pipelines(ws: Workspace) -> dict[str, PipelineDeclared]:
    """List the pipelines that the project declares."""
    ws.require("pipelines.read")
    return declared_pipelines(ws.home)


def run_pipeline(ws: Workspace, name: str, *, body: RunPipeline) -> Job:
    """Ask for a run of a pipeline; a worker does it, the job tells how it went."""
    return worker.ask_pipeline(ws, name, body.params, reason=body.reason)


ROUTES = (
    Route("GET", "/pipelines", list_pipelines),
    Route("POST", "/pipelines/{name}/runs", run_pipeline, status=202),
)
