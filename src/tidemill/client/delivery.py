"""Requests as they lie in a lane, and how one gets to the server: each may be sent again without doing anything twice."""

from typing import Any

from tidemill.client.call import Caller
from tidemill.core.codec import decode_any, encode, pack, unpack
from tidemill.core.errors import Conflict, Invalid
from tidemill.core.values import Value


class Request(Value, frozen=True, kw_only=True):
    """One call of the API. path: below the project; body: JSON; once: the id that makes sending it again harmless."""

    method: str
    path: str
    body: bytes
    once: str | None = None


def as_record(method: str, path: str, body: Any, *, once: str | None = None) -> bytes:
    """Return a request as a lane keeps it."""
    return pack(Request(method=method, path=path, body=encode(body), once=once))


def read_record(record: bytes) -> Request:
    """Return the request that a lane kept. Raises Invalid."""
    return unpack(record, Request)


def anew(record: bytes) -> bytes:
    """Return a request that was refused as it is sent once more: points under a writer of their own.

    A server takes the batches of a writer in the order of their numbers, and one behind which others have arrived as one it has.
    """
    request = read_record(record)
    if request.method != "POST" or not request.path.endswith("/series"):
        return record
    body = decode_any(request.body)
    writer = f"{body['writer']}-{body['number']}"
    return as_record(request.method, request.path, {**body, "writer": writer}, once=writer)


def deliver(caller: Caller, record: bytes) -> Any:
    """Send a request. Of several params or tags that are refused together, those that can be are written. Raises TidemillError."""
    request = read_record(record)
    try:
        return caller.forward(request.method, request.path, request.body, once=request.once)
    except (Conflict, Invalid):
        singles = _singles(request)
        if len(singles) < 2:
            raise
    refused: list[Conflict | Invalid] = []
    for body in singles:
        try:
            caller.forward(request.method, request.path, body)
        except (Conflict, Invalid) as error:
            refused.append(error)
    if refused:
        raise refused[0]
    return None


def _singles(request: Request) -> list[bytes]:
    if request.method != "PUT" or not request.path.endswith(("/params", "/tags")):
        return []
    return [encode({key: value}) for key, value in decode_any(request.body).items()]
