"""A transport that sends the head and the body of an answer in one packet: two would wake the caller twice."""

import asyncio
from collections.abc import Iterable
from typing import Any


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

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Write at once, behind what is held."""
        self.flush()
        self._transport.writelines(pieces)

    def flush(self) -> None:
        """Write what is held."""
        if self._held is not None:
            self._transport.write(self._held)
            self._held = None

    def close(self) -> None:
        """Write what is held and close."""
        self.flush()
        self._transport.close()
