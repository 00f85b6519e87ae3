"""The dashboard's routes: pages, static files, signing in with a key."""

from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any

from anyio import to_thread
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tidemill.core.errors import NotFound, TidemillError
from tidemill.govern.workspace import DEFAULT_PROJECT
from tidemill.server.access import Access
from tidemill.server.errors import problem_of
from tidemill.server.web import audit, comparison, endpoint, metric, models, overview, run, runs, text, version
from tidemill.server.web.charts import plotly_script
from tidemill.server.web.page import FOLDER, PAGE_PREFIX, Page, environment, render

PAGES = (
    overview.PAGE, models.PAGE, version.PAGE, endpoint.PAGE, runs.PAGE, run.PAGE, metric.PAGE, text.PAGE, comparison.PAGE, audit.PAGE
)  # fmt: skip
COOKIE = "tidemill_key"
# Nothing inline, nothing from elsewhere. The one hash is that of an empty <style>, which plotly.js fills through the object model.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; "
    "img-src 'self' data:; connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def web_routes(access: Access) -> list[Route | Mount]:
    """Return the routes of all pages."""
    templates = environment()
    return [
        Route("/", _home),
        Route("/sign-in", _sign_in(templates, access), methods=["GET", "POST"]),
        Route("/static/plotly.min.js", _plotly),
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
        *(Route(PAGE_PREFIX + page.path, _page(page, templates, access)) for page in PAGES),
    ]


def _page(page: Page, templates: Environment, access: Access) -> Callable[[Request], Any]:
    def build(project: str, token: str | None, path: dict[str, str], query: dict[str, str]) -> str:
        ws = access.enter(project, token)
        return render(templates, page, ws, page.build(ws, path, query))

    async def answer(request: Request) -> Response:
        path = {name: str(value) for name, value in request.path_params.items()}
        project = path.pop("project")
        query = {name: ",".join(filter(None, request.query_params.getlist(name))) for name in request.query_params}
        try:
            text = await to_thread.run_sync(build, project, _key(request), path, query)
        except Exception as error:  # noqa: BLE001 (the edge of a page: told as a page, not as JSON)
            problem = problem_of(error, method=request.method, path=request.url.path)
            if problem.status == 401:
                return RedirectResponse("/sign-in", status_code=303)
            text = templates.get_template("problem.html").render(problem=problem)
            return HTMLResponse(text, status_code=problem.status, headers=HEADERS)
        return HTMLResponse(text, headers=HEADERS)

    return answer


def _sign_in(templates: Environment, access: Access) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        said = ""
        if request.method == "POST":
            body = (await request.body())[:4096].decode("utf-8", "replace")
            token = body.partition("key=")[2].partition("&")[0].strip()
            try:
                await to_thread.run_sync(access.enter, None, token)
            except TidemillError as error:
                said = str(error)
            else:
                done = RedirectResponse("/", status_code=303)
                done.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=request.url.scheme == "https")
                return done
        text = templates.get_template("sign_in.html").render(said=said)
        return HTMLResponse(text, status_code=401 if said else 200, headers=HEADERS)

    return answer


def _key(request: Request) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token:
        return token
    cookies = SimpleCookie(request.headers.get("cookie", ""))
    return cookies[COOKIE].value if COOKIE in cookies else None


async def _home(_: Request) -> Response:
    return RedirectResponse(f"/projects/{DEFAULT_PROJECT}", status_code=307)


async def _plotly(_: Request) -> Response:
    script = plotly_script()
    if script is None:
        raise NotFound('plotly is not installed; charts need it: pip install "tidemill[ui]"')
    return FileResponse(script, media_type="text/javascript", headers={"Cache-Control": "public, max-age=86400"})
