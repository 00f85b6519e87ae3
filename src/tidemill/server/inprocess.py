"""The app in this process, behind the SDK's transport: the same requests, no socket."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO
from urllib.parse import unquote

from starlette.types import ASGIApp, Message

from tidemill.client.http import HttpTransport
from tidemill.client.transport import Response, Transport
from tidemill.govern.workspace import open_workspace
from tidemill.server.app import create_app
from tidemill.server.supervisor import read_running

CHUNK_BYTES = 1 << 20


class InProcessTransport:
    """Carries requests to an ASGI app on an event loop in a thread of its own."""

    def __init__(self, app: ASGIApp, *, token: str | None = None) -> None:
        self._app, self._token = app, token
        self._loop = asyncio.new_event_loop()
        # A daemon, so that a program that forgets to close its client still ends.
        self._thread = Thread(target=self._loop.run_forever, name="tidemill-inprocess", daemon=True)
        self._thread.start()

    def request(
        self, method: str, path: str, *, body: bytes | BinaryIO | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Run a request through the app and return its answer."""
        return self._ask(method, path, body, headers, None)

    def fetch(self, path: str, target: BinaryIO) -> Response:
        """Write what a GET answers into target as it comes."""
        return self._ask("GET", path, None, None, target)

    def _ask(
        self, method: str, path: str, body: bytes | BinaryIO | None, headers: Mapping[str, str] | None, target: BinaryIO | None
    ) -> Response:
        sent = {"host": "localhost", "accept": "application/json", **{name.lower(): value for name, value in (headers or {}).items()}}
        if self._token:
            sent.setdefault("authorization", f"Bearer {self._token}")
        place, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(place),
            "raw_path": place.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 0),
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }
        return asyncio.run_coroutine_threadsafe(self._run(scope, _chunks(body), target), self._loop).result()

    def close(self) -> None:
        """Stop the event loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _run(self, scope: dict[str, Any], chunks: Iterator[bytes], target: BinaryIO | None) -> Response:
        answer: dict[str, Any] = {"status": 500, "headers": []}
        body = bytearray()

        answered = asyncio.Event()
        asked = False

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await answered.wait()  # as a server does: after the body comes nothing until the caller is gone
                return {"type": "http.disconnect"}
            chunk = next(chunks, b"")
            asked = not chunk
            return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.update(message)
            elif message["type"] == "http.response.body":
                if target is not None and answer["status"] < 400:
                    target.write(message.get("body", b""))
                else:
                    body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    answered.set()

        await self._app(scope, receive, send)
        headers = {name.decode().lower(): value.decode() for name, value in answer["headers"]}
        return Response(status=answer["status"], headers=headers, body=bytes(body))


def open_transport(url: str, *, token: str | None = None) -> Transport:
    """Return a transport to the workspace at workspace:FOLDER: to the server that runs it, else to the app in this process."""
    home = Path(url.partition(":")[2])
    running = read_running(home)
    if running is not None:
        return HttpTransport(running.url, token=token)
    return InProcessTransport(create_app(open_workspace(home)), token=token)


def _chunks(body: bytes | BinaryIO | None) -> Iterator[bytes]:
    if body is None:
        return
    if isinstance(body, bytes):
        yield body
        return
    while chunk := body.read(CHUNK_BYTES):
        yield chunk
