"""Routes as Starlette sees them: read the request, run the handler in a thread, write the answer."""

import io
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route as StarletteRoute

from tidemill.client.transport import IDEMPOTENCY_HEADER
from tidemill.core.codec import encode
from tidemill.server.access import Access
from tidemill.server.errors import BodyTooLarge, WrongMediaType
from tidemill.server.rest.route import BYTES_TYPE, JSON_TYPE, Route, call, read_body, read_once, read_path, read_query

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Endpoint:
    """Answers requests to one route."""

    route: Route
    access: Access

    async def __call__(self, request: Request) -> Response:
        """Read, run, answer. Errors rise to the app's edge."""
        route, found = self.route, dict(request.path_params)
        project, token = found.pop("project", None), bearer(request)
        asked = read_query(route, request.query_params.multi_items())
        arguments = {**read_path(route, found), **asked, **read_once(route, request.headers.get(IDEMPOTENCY_HEADER))}
        if route.shape.takes_file:
            return await self._with_file(request, project, token, arguments)
        if route.shape.body is not None:
            arguments.update(read_body(route, await read_json(request, self.access.settings.body_limit_bytes)))
        answer = await to_thread.run_sync(self._run, project, token, arguments)
        return answer_response(route, answer)

    async def _with_file(self, request: Request, project: str | None, token: str | None, arguments: Mapping[str, Any]) -> Response:
        await to_thread.run_sync(self.access.enter, project, token)  # nobody unknown may fill the disk
        folder = self.access.scratch()
        with tempfile.TemporaryDirectory(dir=folder, prefix="upload-") as place:
            path = Path(place) / "body"
            with path.open("wb", buffering=0) as file:
                async for piece in _pieces(request):
                    await to_thread.run_sync(_write, file, piece)
            answer = await to_thread.run_sync(self._run, project, token, {**arguments, "body": path})
        return answer_response(self.route, answer)

    def _run(self, project: str | None, token: str | None, arguments: Mapping[str, Any]) -> Any:
        return call(self.route, self.access.enter(project, token), arguments)


def starlette_routes(nouns: Mapping[str, Sequence[Route]], access: Access, *, prefix: str) -> list[StarletteRoute]:
    """Return the routing table of all nouns below a prefix."""
    return [
        StarletteRoute(prefix + route.path, _function(Endpoint(route, access)), methods=[route.method], name=f"{noun}.{route.name}")
        for noun, table in nouns.items()
        for route in table
    ]


def bearer(request: Request) -> str | None:
    """Return the token of the Authorization header, None when there is none."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


async def read_json(request: Request, limit_bytes: int) -> bytes:
    """Return the body. Raises WrongMediaType, BodyTooLarge (before more than the limit was taken)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != JSON_TYPE and not kind.endswith("+json"):
        raise WrongMediaType(kind, JSON_TYPE)
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
    return bytes(body)


def answer_response(route: Route, answer: Any) -> Response:
    """Return what a handler returned as an HTTP answer."""
    if route.shape.answer is None:
        return Response(status_code=204)
    if isinstance(answer, Path):
        return FileResponse(answer, media_type=BYTES_TYPE)
    if route.shape.gives_bytes:
        return StreamingResponse(answer, media_type=BYTES_TYPE)
    return Response(encode(answer), status_code=route.status, media_type=JSON_TYPE)


async def _pieces(request: Request) -> AsyncIterator[list[bytes]]:
    """Yield the body in pieces of a megabyte: the network hands over a few kilobytes at a time, and each turn of a thread costs."""
    gathered: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        gathered.append(chunk)
        size += len(chunk)
        if size >= PIECE_BYTES:
            yield gathered
            gathered, size = [], 0
    yield gathered


def _write(file: io.FileIO, piece: list[bytes]) -> None:
    view = memoryview(b"".join(piece))
    while view:
        view = view[file.write(view) :]


def _function(endpoint: Endpoint) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return await endpoint(request)

    return answer
