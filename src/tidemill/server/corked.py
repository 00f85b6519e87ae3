"""HTTP as uvicorn speaks it, with the head and the body of an answer in one packet: two would wake the caller twice."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CorkedProtocol(HttpToolsProtocol):
    """uvicorn's protocol over a transport that gathers what is written at one time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", Corked(transport)))


class Corked:
    """A transport that holds the first thing written back for what follows it, at most until the loop comes round."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, or hold for a moment."""
        if self._held is None:
            self._held = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.writelines((self._held, data))
            self._held = None

    def flush(self) -> None:
        """Write what is held."""
        if self._held is not None:
            self._transport.write(self._held)
            self._held = None

    def close(self) -> None:
        """Write what is held and close."""
        self.flush()
        self._transport.close()
