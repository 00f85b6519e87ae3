"""One call of the API: a path within a project, values in, plain data out, problems raised."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

from tidemill.client.problems import error_of
from tidemill.client.transport import IDEMPOTENCY_HEADER, Response, Transport
from tidemill.core.clock import utc
from tidemill.core.codec import decode_any, encode

Doc = dict[str, Any]
Docs = list[Doc]
JSON_TYPE = "application/json"
BYTES_TYPE = "application/octet-stream"


class Caller:
    """Calls a server's API for one project. Safe from several threads."""

    def __init__(self, transport: Transport, project: str) -> None:
        self.transport, self.project = transport, project

    def get(self, path: str, **query: Any) -> Any:
        """Ask for something in the project."""
        return self.call("GET", path, query=query)

    def post(self, path: str, body: Any = None, *, once: str | None = None, **query: Any) -> Any:
        """Do something in the project. once: an id that makes sending it again harmless."""
        return self.call("POST", path, body=body, once=once, query=query)

    def put(self, path: str, body: Any = None, **query: Any) -> Any:
        """Set something in the project."""
        return self.call("PUT", path, body=body, query=query)

    def upload(self, method: str, path: str, data: bytes | BinaryIO, *, once: str | None = None, **query: Any) -> Any:
        """Send bytes as they are. once: an id that makes sending them again harmless."""
        headers = {"Content-Type": BYTES_TYPE, **({IDEMPOTENCY_HEADER: once} if once is not None else {})}
        return _answer(self.transport.request(method, self._place(path, query), body=data, headers=headers))

    def exchange(self, path: str, data: bytes | BinaryIO, **query: Any) -> bytes:
        """Send bytes as they are, and return those that come back."""
        headers = {"Content-Type": BYTES_TYPE}
        return checked(self.transport.request("POST", self._place(path, query), body=data, headers=headers)).body

    def download(self, path: str, **query: Any) -> bytes:
        """Return bytes as they are."""
        return checked(self.transport.request("GET", self._place(path, query))).body

    def fetch(self, path: str, target: BinaryIO) -> None:
        """Write bytes as they are into target, as they come."""
        checked(self.transport.fetch(self._place(path, {}), target))

    def call(self, method: str, path: str, *, body: Any = None, once: str | None = None, query: Mapping[str, Any] | None = None) -> Any:
        """Send a request to a path of the project. Raises the error that the server tells of."""
        return send(self.transport, method, self._place(path, query or {}), body=body, once=once)

    def forward(self, method: str, path: str, body: bytes, *, once: str | None = None) -> Any:
        """Send a body that is JSON already."""
        headers = {"Content-Type": JSON_TYPE, **({IDEMPOTENCY_HEADER: once} if once is not None else {})}
        return _answer(self.transport.request(method, self._place(path, {}), body=body, headers=headers))

    def server(self, path: str) -> Any:
        """Ask for something of the server, outside of projects."""
        return send(self.transport, "GET", f"/api/v1{path}")

    def _place(self, path: str, query: Mapping[str, Any]) -> str:
        return f"/api/v1/projects/{segment(self.project)}{path}{query_string(query)}"


def send(transport: Transport, method: str, path: str, *, body: Any = None, once: str | None = None) -> Any:
    """Send a request with a JSON body, if any, and return the decoded answer. Raises the error that the server tells of."""
    headers = {"Content-Type": JSON_TYPE} if body is not None else {}
    if once is not None:
        headers[IDEMPOTENCY_HEADER] = once
    return _answer(transport.request(method, path, body=encode(body) if body is not None else None, headers=headers))


def segment(name: str | int) -> str:
    """Return a name as one segment of a path."""
    return quote(str(name), safe="")


def subpath(path: str) -> str:
    """Return a path with slashes as the tail of a path."""
    return quote(path, safe="/")


def query_string(query: Mapping[str, Any]) -> str:
    """Return ?name=value&… of those that are not None; sequences repeat the name, times are RFC 3339."""
    pairs = [
        (name, _text(item))
        for name, value in query.items()
        if value is not None
        for item in (value if isinstance(value, Sequence) and not isinstance(value, str) else (value,))
    ]
    return f"?{urlencode(pairs)}" if pairs else ""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return utc(value).isoformat() if isinstance(value, datetime) else str(value)


def checked(response: Response) -> Response:
    """Return an answer, or raise the error that it tells of."""
    if response.status >= 400:
        raise error_of(response)
    return response


def _answer(response: Response) -> Any:
    body = checked(response).body
    return decode_any(body, what="the server's answer") if body else None
