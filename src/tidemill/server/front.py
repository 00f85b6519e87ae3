"""HTTP as uvicorn speaks it, with MLflow's brief calls taken to the desk past ASGI: its ceremony costs as much as the call itself."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tidemill.server.corked import Corked
from tidemill.server.mlflow.desk import BRIEF_BYTES, Call, Desk

_JSON = b"application/json"
_BODY_MAX = 8 * BRIEF_BYTES  # what is larger comes in pieces, and need not be gathered here
# What asks for more than a body of known length and a plain answer.
_SPECIAL = frozenset({b"expect", b"upgrade", b"transfer-encoding"})


class Front(HttpToolsProtocol):
    """uvicorn's protocol over a transport that gathers what is written at one time, and with a desk beside the app."""

    def __init__(self, *arguments: Any, desk: Desk, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._desk = desk

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", Corked(transport)))

    def on_headers_complete(self) -> None:
        """Take a brief call in, unless an answer is still due to what came before it: uvicorn keeps their order."""
        before: Any = self.cycle
        endpoint = self._desk.endpoint(self.parser.get_method(), self.url)
        idle = (before is None or before.response_complete) and not self.flow.write_paused
        if endpoint is None or not idle or not self._is_plain():
            super().on_headers_complete()
            return
        scope = {"method": endpoint.method, "path": self.url.decode("ascii"), "query_string": b"", "headers": self.headers}
        self.cycle = cast("Any", Turn(self, self._desk.accept(endpoint, scope)))

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        turn: Any = self.cycle
        if isinstance(turn, Turn):
            turn.pieces.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Hand in a call that is whole."""
        turn: Any = self.cycle
        if isinstance(turn, Turn):
            turn.call.body = b"".join(turn.pieces)
            self._desk.take(turn.call, turn.send)
        else:
            super().on_message_complete()

    def _is_plain(self) -> bool:
        kind, length = b"", b""
        for name, value in self.headers:
            if name in _SPECIAL:
                return False
            if name == b"content-type":
                kind = value
            elif name == b"content-length":
                length = value
        small = length.isdigit() and int(length) <= _BODY_MAX
        return small and kind.partition(b";")[0].strip().lower() == _JSON and self._is_kept()

    def _is_kept(self) -> bool:
        return bool(self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive())


class Turn:
    """One call on a connection: to uvicorn's protocol what its own cycle of request and answer is."""

    def __init__(self, front: Front, call: Call) -> None:
        self._front, self.call = front, call
        self.pieces: list[bytes] = []
        self.keep_alive, self.disconnected, self.response_complete = True, False, False
        self.message_event = asyncio.Event()

    def send(self, status: int, body: bytes) -> None:
        """Send the answer, in one packet."""
        self.response_complete = True
        if self.disconnected:
            return
        front = self._front
        told = b"".join(b"%b: %b\r\n" % header for header in front.server_state.default_headers)
        ending = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        length = b"content-length: %d\r\n" % len(body)
        front.transport.writelines((STATUS_LINE[status], told, b"content-type: application/json\r\n", length, ending, body))
        if not self.keep_alive:
            front.transport.close()
        front.on_response_complete()
