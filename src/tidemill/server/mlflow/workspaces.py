"""MLflow's workspaces: Tidemill's projects under another name."""

from typing import Any

from tidemill.core.values import Wire
from tidemill.govern.actors import ProjectNotFound
from tidemill.govern.workspace import Workspace, create_project, list_projects
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.server_info import Nothing
from tidemill.server.mlflow.wire import Filled


class Create(Wire, frozen=True, kw_only=True):
    """A project that is to be made."""

    name: Filled
    description: str = ""


class ByName(Wire, frozen=True, kw_only=True):
    """Names a project."""

    workspace_name: Filled


def search(ws: Workspace, request: Nothing) -> dict[str, Any]:
    """List the projects that the caller has a role in."""
    return {"workspaces": [{"name": name} for name in list_projects(ws)]}


def get(ws: Workspace, request: ByName) -> dict[str, Any]:
    """Return a project."""
    known = list_projects(ws)
    if request.workspace_name not in known:
        raise ProjectNotFound(request.workspace_name, known)
    return {"workspace": {"name": request.workspace_name}}


def create(ws: Workspace, request: Create) -> dict[str, Any]:
    """Make a project."""
    create_project(ws, request.name)
    return {"workspace": {"name": request.name}}


ENDPOINTS = (
    Endpoint("GET", "/mlflow/workspaces", Nothing, search, versions=(3,)),
    Endpoint("POST", "/mlflow/workspaces", Create, create, versions=(3,), status=201),
    Endpoint("GET", "/mlflow/workspaces/{workspace_name}", ByName, get, versions=(3,)),
)
