"""The control plane as one ASGI app: the native API, MLflow's API, health, the dashboard."""

from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.client.problems import PROBLEMS
from tidemill.core.errors import NotFound
from tidemill.govern.workspace import Workspace
from tidemill.server.access import Access, BrowserGuard
from tidemill.server.errors import problem_of, problem_response
from tidemill.server.health import health_routes
from tidemill.server.mlflow.app import MlflowApp
from tidemill.server.mlflow.table import ENDPOINTS, STREAMS
from tidemill.server.rest.endpoint import starlette_routes
from tidemill.server.rest.openapi import document
from tidemill.server.rest.status import VERSION
from tidemill.server.rest.table import PROJECT_NOUNS, PROJECT_PREFIX, SERVER_NOUNS, SERVER_PREFIX
from tidemill.server.web.routes import web_routes


def create_app(ws: Workspace, *, hosts: Sequence[str] = ()) -> MlflowApp:
    """Return the app that serves a workspace. hosts: names beside localhost that it answers to while authentication is off.

    MLflow's API stands in front of all that Starlette does for the others: its callers count in hundredths of a millisecond.
    """
    access = Access(ws)
    routes = [
        *health_routes(ws),
        StarletteRoute("/openapi.json", _openapi),
        StarletteRoute("/problems/{name}", _problem_page),
        *starlette_routes(SERVER_NOUNS, access, prefix=SERVER_PREFIX),
        *starlette_routes(PROJECT_NOUNS, access, prefix=PROJECT_PREFIX),
        *web_routes(access),
    ]
    guard = BrowserGuard(hosts=hosts, check_hosts=ws.settings.authentication == "off")
    app = Starlette(
        routes=routes, middleware=[Middleware(Edge), Middleware(Guarded, guard=guard)], exception_handlers={HTTPException: _told}
    )
    app.router.redirect_slashes = False
    return MlflowApp(app, access=access, guard=guard, endpoints=ENDPOINTS, streams=STREAMS)


class Guarded:
    """Lets the guard look at each request first."""

    def __init__(self, app: ASGIApp, *, guard: BrowserGuard) -> None:
        self.app, self.guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.guard.check(scope)
        await self.app(scope, receive, send)


class Edge:
    """The outermost layer: whatever is raised below is told as one problem, once."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if started:
                raise
            problem = problem_of(error, method=scope["method"], path=scope["path"])
            await problem_response(problem, error=error)(scope, receive, send)


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of the native API."""
    server = document(SERVER_NOUNS, version=VERSION, prefix=SERVER_PREFIX)
    project = document(PROJECT_NOUNS, version=VERSION, prefix=PROJECT_PREFIX)
    project["paths"].update(server["paths"])
    project["tags"] = [*server["tags"], *project["tags"]]
    project["components"]["schemas"].update(server["components"]["schemas"])
    return project


async def _told(request: Request, error: Exception) -> Response:
    return problem_response(problem_of(error, method=request.method, path=request.url.path), error=error)


async def _openapi(_: Request) -> Response:
    return JSONResponse(openapi())


async def _problem_page(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in PROBLEMS:
        raise NotFound(f"there is no kind of problem named {name!r}; there are: {', '.join(PROBLEMS)}")
    return JSONResponse({"type": request.url.path, "meaning": PROBLEMS[name].__doc__})
