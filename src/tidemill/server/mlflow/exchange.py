"""One request and its answer, as bytes: what is known of the caller, and how a body is taken and given in pieces."""

import asyncio
import binascii
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from tidemill.govern.workspace import Workspace
from tidemill.server.access import Access
from tidemill.server.errors import BodyTooLarge

T = TypeVar("T")
# MLflow's workspaces are Tidemill's projects; none named means the default one.
WORKSPACE_HEADER = b"x-mlflow-workspace"


class CallerGone(Exception):
    """The caller closed the connection before its request was whole."""


class Asked:
    """What is known of a request, its body aside. scope: as ASGI has it."""

    def __init__(self, scope: Scope, access: Access) -> None:
        self.scope, self.access = scope, access
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]

    def header(self, name: bytes) -> bytes:
        """Return a header by its name in lower case, empty when it is not there."""
        for known, value in self.scope["headers"]:
            if known == name:
                return bytes(value)
        return b""

    def enter(self) -> Workspace:
        """Open the workspace for the caller. Raises NotPermitted, NotFound. Reads the catalog: call it in a thread."""
        project = self.header(WORKSPACE_HEADER).decode("latin-1").strip()
        return self.access.enter(project or None, token_of(self.header(b"authorization")))


class Exchange(Asked):
    """A request under way."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, access: Access, threads: Executor) -> None:
        super().__init__(scope, access)
        self.receive, self.started = receive, False
        self._send, self._threads = send, threads

    async def run(self, act: Callable[..., T], *arguments: Any) -> T:
        """Run something that blocks in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, act, *arguments)

    async def receive_body(self, limit_bytes: int) -> bytes:
        """Return the whole body. Raises BodyTooLarge, before more than the limit was taken."""
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        body: bytes = message.get("body", b"")
        if len(body) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        if not message.get("more_body", False):
            return body
        pieces, size = [body], len(body)
        async for piece in self.pieces():
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes:
                raise BodyTooLarge(limit_bytes)
        return b"".join(pieces)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises CallerGone when it ends too early."""
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise CallerGone
            more = message.get("more_body", False)
            if piece := message.get("body", b""):
                yield piece

    async def answer(self, status: int, body: bytes, kind: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send a whole answer."""
        await self.start(status, len(body), kind, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, size_bytes: int, kind: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send the head of an answer whose body follows by `give`."""
        self.started = True
        length = (b"content-length", b"%d" % size_bytes)
        await self._send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), length, *headers]})

    async def give(self, piece: bytes, *, more: bool) -> None:
        """Send a part of the body; more: others follow."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})


@dataclass(frozen=True)
class Stream:
    """A handler behind a method and some whole paths that takes or gives bytes as they pass."""

    method: str
    paths: tuple[str, ...]
    handler: Callable[..., Awaitable[None]]


def token_of(authorization: bytes) -> str | None:
    """Return the API key of an Authorization header: a bearer token, or the password of a basic one, as MLflow's client sends it."""
    kind, _, value = authorization.decode("latin-1").partition(" ")
    value = value.strip()
    if kind.lower() == "bearer":
        return value or None
    if kind.lower() == "basic":
        try:
            return b64decode(value, validate=True).decode().partition(":")[2] or None
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None
