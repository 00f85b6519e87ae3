"""HTTP/1.1 for one worker: an `asyncio.Protocol` around httptools. Knows requests and replies, nothing of predictions.

Own, because on this path a framework costs more than the model. What it keeps: requests of one connection are answered in their
order, also when an answer has to wait for the disk; a body, a header or a wait beyond the limits is refused.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

import httptools

from tidemill.core.clock import elapsed
from tidemill.core.errors import Invalid, TidemillError
from tidemill.core.values import Passed, Value

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_JSON = b"application/json"


class Limits(Value, frozen=True, kw_only=True):
    """What a connection may take: bytes of body and header, seconds for a request to arrive, and to stay idle."""

    body_bytes: int
    header_bytes: int = 64 << 10
    arrive_s: float = 30.0
    idle_s: float = 120.0
    sweep_s: float = 0.5


# Called once what an answer waited for has happened: None; with the answer to give instead; or with why it cannot be given.
Done = Callable[["Reply | TidemillError | None"], None]


def _never() -> bool:
    return False


class Request(Passed):
    """One request, whole. path has no query; header names are in lower case; started: `elapsed` when it was whole.

    left: whether its caller has ended the connection, at least from its own side, as one does who waits no more.
    """

    method: bytes
    path: bytes
    headers: dict[bytes, bytes]
    body: bytes
    started: float
    left: Callable[[], bool] = _never


class Reply(Passed):
    """One answer. wait_for: what must have happened before it goes out (the journal is written); after: called once it is out."""

    status: int
    body: bytes
    media: bytes = _JSON
    extra: bytes = b""
    close: bool = False
    wait_for: "Callable[[Done], None] | None" = None
    after: Callable[[], None] | None = None


class Handler(Protocol):
    """Answers requests. Never raises."""

    def __call__(self, request: Request) -> Reply: ...


class Refuser(Protocol):
    """Makes the reply to an error, in the shape that callers of a path expect; the path is empty where none was understood."""

    def __call__(self, path: bytes, error: TidemillError) -> Reply: ...


class HttpRefused(Invalid):
    """What came is no request, or more than a request may be."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)


class HttpServer:
    """All connections of one worker, and the limits that they share."""

    def __init__(self, handle: Handler, refuse: Refuser, limits: Limits) -> None:
        self.handle, self.refuse, self.limits = handle, refuse, limits
        self.connections: set[Connection] = set()
        self.draining = False
        self._sweeper: asyncio.TimerHandle | None = None

    def connect(self) -> "Connection":
        """Return the protocol of a new connection."""
        if self._sweeper is None:
            self._sweep()
        return Connection(self)

    def drain(self) -> None:
        """Close what is idle; let each other connection answer what it has begun, then close."""
        self.draining = True
        for connection in list(self.connections):
            connection.finish()

    def close(self) -> None:
        """Drop every connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.connections):
            connection.abort()

    def _sweep(self) -> None:
        now = elapsed()
        for connection in list(self.connections):
            connection.check(now)
        self._sweeper = asyncio.get_running_loop().call_later(self.limits.sweep_s, self._sweep)


class _Slot:
    """The place of one answer in the order of a connection's answers."""

    __slots__ = ("connection", "keep_alive", "path", "reply", "waiting")

    def __init__(self, connection: "Connection", path: bytes, *, keep_alive: bool) -> None:
        self.connection, self.path, self.keep_alive = connection, path, keep_alive
        self.reply: Reply | None = None
        self.waiting: Reply | None = None

    def settle(self, instead: "Reply | TidemillError | None") -> None:
        """Send the reply that waited, or another one instead."""
        if isinstance(instead, TidemillError):
            self.reply = self.connection.server.refuse(self.path, instead)
        else:
            self.reply = instead or self.waiting
        self.connection.send()


class Connection(asyncio.Protocol):
    """One caller's connection."""

    def __init__(self, server: HttpServer) -> None:
        self.server, self._limits = server, server.limits
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._slots: deque[_Slot] = deque()
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = self._head_bytes = 0
        self._in_message = self._in_body = self._deaf = self._closing = self._left = False
        self._since = elapsed()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport
        self.server.connections.add(self)
        if self.server.draining:
            self.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self._transport = None
        self._left = True

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if not self._in_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Another protocol was offered; it was answered as HTTP/1.1, and what follows might be anything.
            self._deaf = True
            self._end_after_slots()
        except httptools.HttpParserError as error:
            self._refuse(400, f"the request is not HTTP/1.1: {error}")
        if not self._in_body and self._in_message and self._head_bytes > self._limits.header_bytes:
            self._refuse(431, f"the request's header is larger than {self._limits.header_bytes} bytes")

    def eof_received(self) -> bool:
        self._deaf = self._left = True
        if self._slots:
            self._end_after_slots()
            return True  # half open: the answers that were promised still go out
        return False

    def pause_writing(self) -> None:
        if self._transport is not None:  # the caller does not read: take no more work from it
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # httptools

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body, self._body_bytes = b"", {}, [], 0
        self._in_message, self._in_body = True, False
        self._since = elapsed()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # trailers are dropped
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._head_bytes = 0
        length = self._headers.get(b"content-length")
        if length is not None and int(length) > self._limits.body_bytes:
            self._too_large()
        elif self._headers.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None and not self._slots:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            self._too_large()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._in_message = self._in_body = False
        if self._deaf:
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        path, _, _ = self._url.partition(b"?")
        slot = _Slot(self, path, keep_alive=self._parser.should_keep_alive() and not self.server.draining)
        if not slot.keep_alive:
            self._deaf = True
        self._slots.append(slot)
        self._body, self._since = [], elapsed()
        reply = self.server.handle(Request(self._parser.get_method(), path, self._headers, body, self._since, self.left))
        self._since = elapsed()
        if reply.wait_for is None:
            slot.reply = reply
            self.send()
        else:
            slot.waiting = reply
            reply.wait_for(slot.settle)

    # answers

    def left(self) -> bool:
        """Return whether the caller has ended the connection, at least from its own side."""
        return self._left

    def send(self) -> None:
        """Write the answers that are due, in the order of their requests."""
        while self._slots and (reply := self._slots[0].reply) is not None:
            slot = self._slots.popleft()
            over = self.server.draining and not self._slots and not self._in_message
            keep = slot.keep_alive and not reply.close and not over
            if self._transport is not None:
                self._transport.write(_bytes(reply, keep=keep))
            if reply.after is not None:
                reply.after()
            if not keep:
                self._slots.clear()
                self._linger()

    def _refuse(self, status: int, sentence: str) -> None:
        if self._deaf:
            return
        self._deaf = True
        path = self._url.partition(b"?")[0]
        reply = self.server.refuse(path, HttpRefused(status, sentence))
        reply.close = True
        slot = _Slot(self, path, keep_alive=False)
        slot.reply = reply
        self._slots.append(slot)
        self.send()

    def _too_large(self) -> None:
        self._refuse(413, f"the request's body is larger than {self._limits.body_bytes} bytes; send fewer rows at once")

    # ends

    def finish(self) -> None:
        """End once what was begun is answered."""
        if not self._slots and not self._in_message:
            self._linger()

    def check(self, now: float) -> None:
        """End a connection whose request does not arrive, or that is idle for too long."""
        waited = now - self._since
        if self._closing:
            if waited > 2.0:
                self.abort()
        elif self._in_message and not self._deaf and waited > self._limits.arrive_s:
            self._refuse(408, f"the request did not arrive within {self._limits.arrive_s:g} s")
        elif not self._slots and waited > self._limits.idle_s:
            self.abort()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()

    def _end_after_slots(self) -> None:
        if self._slots:
            self._slots[-1].keep_alive = False
        else:
            self._linger()

    def _linger(self) -> None:
        # To close with unread bytes resets the connection, and the caller might never see the answer: so only this side ends,
        # and what still comes is read and dropped until the caller ends too, or two seconds are over.
        self._deaf = self._closing = True
        self._since = elapsed()
        if self._transport is None:
            return
        if not self._in_message:
            self._transport.close()
        elif self._transport.can_write_eof():
            self._transport.write_eof()


def _bytes(reply: Reply, *, keep: bool) -> bytes:
    ending = reply.extra if keep else reply.extra + b"connection: close\r\n"
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
        reply.status, _REASONS.get(reply.status, b"-"), reply.media, len(reply.body), ending, reply.body,
    )  # fmt: skip
