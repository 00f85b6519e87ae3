"""Whether this process lives, has started and can serve."""

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tidemill.govern.workspace import Workspace


def health_routes(ws: Workspace) -> list[Route]:
    """Return the probes. They need no key: they tell nothing but yes or no."""

    def reach_catalog() -> None:
        with ws.catalog.reading():
            pass

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(_: Request) -> Response:
        await to_thread.run_sync(reach_catalog)  # raises Unavailable, which is answered with 503
        return JSONResponse({"status": "ready"})

    async def health(_: Request) -> Response:
        return PlainTextResponse("OK")  # as MLflow's tracking server says it

    return [Route("/livez", live), Route("/startupz", ready), Route("/readyz", ready), Route("/health", health)]
