"""MLflow's API in front of the app: finds the endpoint, reads the request, calls the service in a thread, writes the answer."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from tidemill.catalog.writer import WriterBusy
from tidemill.core.codec import encode
from tidemill.server.access import Access, BrowserGuard
from tidemill.server.errors import BodyTooLarge
from tidemill.server.mlflow.endpoint import Endpoint, read_body, read_query
from tidemill.server.mlflow.errors import ContentTypeRefused, EndpointUnknown, MethodUnknown, NotSupported, error_answer
from tidemill.server.mlflow.exchange import Asked, CallerGone, Exchange, Stream
from tidemill.server.mlflow.routing import Routing
from tidemill.server.mlflow.unsupported import unsupported
from tidemill.tracking.experiments import ensure_default

# Enough that writers who wait for one another's commit are many: they are committed together.
THREADS = 32
JSON = b"application/json"


class MlflowApp:
    """Answers what MLflow's clients ask; hands all other requests on.

    A bare ASGI app, without Starlette's routes and requests: one call of a client is well under a millisecond of its own, and
    these would be a good part of that.
    """

    def __init__(
        self, app: ASGIApp, *, access: Access, guard: BrowserGuard, endpoints: Sequence[Endpoint], streams: Sequence[Stream]
    ) -> None:
        self._app, self.access, self._guard = app, access, guard
        self._routing = Routing(endpoints, streams)
        self.brief = self._routing.brief()
        self._prepared: set[str] = set()  # projects that have the experiment `Default`, which MLflow's clients take for granted
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="mlflow")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._routing.serves(scope["path"]):
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self.access, self.threads)
        try:
            self._guard.check(scope)
            await self._answer(exchange)
        except CallerGone:
            pass  # there is nobody to be told
        except Exception as error:
            if exchange.started:
                raise
            status, body = error_answer(error, method=exchange.method, path=exchange.path)
            await exchange.answer(status, body, JSON)

    def answer(self, endpoint: Endpoint, asked: Asked, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer to a request that came whole. Raises WriterBusy alone."""
        try:
            self._guard.check(asked.scope)
            return endpoint.status, self._run(endpoint, asked, body, {})
        except WriterBusy:
            raise
        except Exception as error:  # noqa: BLE001  # the edge of a request: its caller is told
            return error_answer(error, method=asked.method, path=asked.path)

    async def _answer(self, exchange: Exchange) -> None:
        found = self._routing.find(exchange.method, exchange.path)
        if found is None:
            if (what := unsupported(exchange.path)) is not None:
                raise NotSupported(what)
            allowed = self._routing.methods(exchange.path)
            raise MethodUnknown(exchange.method, exchange.path, allowed) if allowed else EndpointUnknown(exchange.method, exchange.path)
        target, places = found
        if isinstance(target, Stream):
            await target.handler(exchange, **places)
            return
        body = await self._body(exchange)
        answer = await asyncio.get_running_loop().run_in_executor(self.threads, self._run, target, exchange, body, places)
        await exchange.answer(target.status, answer, JSON)

    async def _body(self, exchange: Exchange) -> bytes:
        limit = self.access.settings.body_limit_bytes
        announced = exchange.header(b"content-length")
        if announced.isdigit() and int(announced) > limit:
            raise BodyTooLarge(limit)
        body = await exchange.receive_body(limit)
        if exchange.method in ("POST", "PUT"):
            kind = exchange.header(b"content-type").partition(b";")[0].strip().lower()
            if kind != JSON:
                raise ContentTypeRefused(kind.decode("latin-1"))
        return body

    def _run(self, endpoint: Endpoint, asked: Asked, body: bytes, places: Mapping[str, str]) -> bytes:
        """Open the workspace for the caller, read, call, encode."""
        ws = asked.enter()
        if ws.project not in self._prepared:
            ensure_default(ws)
            self._prepared.add(ws.project)
        query = asked.query
        if query and endpoint.method == "GET":
            request: Any = read_query(endpoint, parse_qsl(query.decode("latin-1"), keep_blank_values=True), places)
        else:
            request = read_body(endpoint, body, places)
        return encode(endpoint.handler(ws, request))
