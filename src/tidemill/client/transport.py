"""The seam between the SDK and whatever carries its requests, and the table of carriers."""

from collections.abc import Mapping
from importlib import import_module
from typing import BinaryIO, Protocol

from tidemill.core.errors import Invalid
from tidemill.core.values import Value

# URL scheme -> "module:attribute", loaded when chosen. Called with the URL and the token.
TRANSPORTS: Mapping[str, str] = {
    "http": "tidemill.client.http:HttpTransport",
    "https": "tidemill.client.http:HttpTransport",
    "workspace": "tidemill.server.inprocess:open_transport",
}
# A caller that sends this header may send the request again: the server takes it once however often it arrives.
IDEMPOTENCY_HEADER = "Idempotency-Key"


class Response(Value, frozen=True, kw_only=True):
    """What came back. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Transport(Protocol):
    """Carries requests to one server. Safe from several threads.

    A request that may be repeated (GET, HEAD, PUT, DELETE, or one with an Idempotency-Key) is sent again when the
    connection breaks or the answer is 429, 502, 503 or 504; others are sent once. Raises Unavailable when the server cannot be
    reached; every answer of a server, error or not, is returned.
    """

    def request(
        self, method: str, path: str, *, body: bytes | BinaryIO | None = None, headers: Mapping[str, str] | None = None
    ) -> Response: ...

    def fetch(self, path: str, target: BinaryIO) -> Response:
        """GET a path and write what comes into target as it comes; return the answer without its body.

        An error's answer is returned whole, and nothing written. A connection that breaks goes on where it broke (Range).
        """
        ...

    def close(self) -> None: ...


def open_transport(url: str, *, token: str | None = None) -> Transport:
    """Return the transport that a URL names: http://…, https://… or workspace:FOLDER (no server needed). Raises Invalid."""
    scheme = url.partition(":")[0]
    if scheme not in TRANSPORTS:
        raise Invalid(f"server address {url!r} is not known; expected http://HOST:PORT, https://HOST or workspace:FOLDER")
    module, _, name = TRANSPORTS[scheme].partition(":")
    opened: Transport = getattr(import_module(module), name)(url, token=token)
    return opened
