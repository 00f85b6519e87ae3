"""How the data plane says no: one table from error class to status, and problem details (RFC 9457) as the server's."""

import logging
from collections.abc import Callable, Mapping
from math import ceil

from tidemill.client.problems import MEDIA_TYPE, TYPE_PREFIX, RowsProblem, problem_name
from tidemill.core.codec import encode
from tidemill.core.errors import Conflict, Corrupt, Invalid, NotFound, NotPermitted, TidemillError, Unavailable
from tidemill.core.ids import new_id
from tidemill.serving.http import HttpRefused, Reply, Request
from tidemill.serving.rows import RowsRefused
from tidemill.serving.runtimes.runtime import ModelFailed

LOG = logging.getLogger(__name__)

_TITLES = {
    400: "Not understood", 401: "Who are you?", 403: "Not permitted", 404: "Not found", 405: "Method not allowed", 408: "Too slow",
    409: "Conflict", 413: "Too large", 422: "Rows do not fit", 431: "Header too large", 500: "Failed",
    503: "Not available now", 504: "Too late",
}  # fmt: skip


class EndpointNotFound(NotFound):
    """No endpoint of that name is served."""

    def __init__(self, name: str, known: list[str]) -> None:
        self.name, self.known = name, known
        has = ", ".join(sorted(known)[:20]) or "none"
        super().__init__(f"there is no endpoint {name!r} here (there are: {has}); create it with: tidemill endpoint create {name}")


class EndpointAbsent(Unavailable):
    """An endpoint's models are not in memory, and are loaded once somebody waits for them.

    wait: calls what it is given in the event loop, once: with None when the endpoint is worth asking again, else with why it is not.
    Keep that and let go of this error, whose traceback holds the models that are in memory instead.
    """

    def __init__(self, name: str, wait: Callable[[Callable[[TidemillError | None], None]], None]) -> None:
        self.name, self.wait = name, wait
        super().__init__(f"endpoint {name!r} is not in memory; ask again in a moment")


class EndpointUnready(Unavailable):
    """An endpoint cannot be brought into memory. retry_s: when that is tried again."""

    def __init__(self, name: str, reason: str, retry_s: float) -> None:
        self.name, self.reason, self.retry_after_s = name, reason, max(1, ceil(retry_s))
        super().__init__(f"endpoint {name!r} is not ready: {reason}; it is tried again in {self.retry_after_s} s")


class EndpointLate(Unavailable):
    """An endpoint is not in memory yet, and its caller has waited long enough."""

    def __init__(self, name: str, waited_s: float) -> None:
        self.name = name
        super().__init__(f"endpoint {name!r} was not in memory within {waited_s:g} s; it is still being loaded, send it again in a moment")


class SourceUnready(Unavailable):
    """Events of a source have nowhere to go."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"events of {name!r} cannot be taken: {reason}; send them again later")


class SourceNotFound(NotFound):
    """No feature view stands on a source of that name."""

    def __init__(self, name: str, known: list[str]) -> None:
        self.name, self.known = name, known
        has = ", ".join(sorted(known)[:20]) or "none"
        super().__init__(
            f"no feature view takes events of {name!r} (there are views over: {has}); "
            "expected the dataset that a view names as its source; apply one with: tidemill features apply MODULE:NAME"
        )


class RouteNotFound(NotFound):
    """No route has this path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"there is nothing at {path}; predictions are asked of POST /predict/ENDPOINT or /v2/models/ENDPOINT/infer")


class TooBusy(Unavailable):
    """As many requests wait for an endpoint's model as may."""

    def __init__(self, endpoint: str, waiting: int) -> None:
        self.endpoint, self.waiting = endpoint, waiting
        super().__init__(f"endpoint {endpoint!r} is busy: {waiting} requests wait for its model already; send it again in a moment")


class TooLate(Unavailable):
    """The time that the caller gave was over before a model had looked at the request."""

    def __init__(self) -> None:
        super().__init__("the deadline passed while the request waited; nothing was predicted, send it again with more time")


class MethodRefused(Invalid):
    """The path exists, not for this method."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        self.allowed = allowed
        super().__init__(f"{method} is not possible on {path}; it takes {allowed}")


class NotAuthenticated(NotPermitted):
    """The caller did not show a key that is let in; the sentence does not say which part of it is wrong."""

    def __init__(self) -> None:
        super().__init__(
            "this server wants a valid API key; send it as 'Authorization: Bearer tm_...' (make one: tidemill access key NAME)"
        )


# The nearest class up the hierarchy counts.
STATUSES: Mapping[type[TidemillError], int] = {
    MethodRefused: 405,
    NotAuthenticated: 401,
    RowsRefused: 422,
    TooBusy: 429,
    TooLate: 504,
    NotFound: 404,
    Conflict: 409,
    Invalid: 400,
    NotPermitted: 403,
    Unavailable: 503,
    Corrupt: 500,
    ModelFailed: 500,
    TidemillError: 500,
}


def status_of(error: TidemillError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, HttpRefused):
        return error.status
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def headers_of(error: TidemillError) -> bytes:
    """Return the header lines that an error's status asks for."""
    if isinstance(error, MethodRefused):
        return b"allow: %b\r\n" % error.allowed.encode()
    if isinstance(error, NotAuthenticated):
        return b'www-authenticate: Bearer realm="tidemill"\r\n'
    return b"retry-after: %d\r\n" % getattr(error, "retry_after_s", 1) if isinstance(error, Unavailable) else b""


def problem_reply(error: TidemillError) -> Reply:
    """Return an error as problem details."""
    status = status_of(error)
    faults = error.faults if isinstance(error, RowsRefused) else ()
    problem = RowsProblem(
        type=TYPE_PREFIX + problem_name(error), title=_TITLES.get(status, "Error"), status=status, detail=str(error), faults=faults
    )
    return Reply(status, encode(problem), media=MEDIA_TYPE.encode(), extra=headers_of(error))


def unexpected(error: Exception, request: Request) -> tuple[TidemillError, str]:
    """Log what nobody foresaw, and return what to tell the caller, with the id under which the log has it."""
    instance = new_id()
    LOG.error("%s %s failed [%s]", request.method.decode("latin-1"), request.path.decode("latin-1"), instance, exc_info=error)
    return TidemillError(f"the worker failed on this request; its log has the reason under {instance}"), instance
