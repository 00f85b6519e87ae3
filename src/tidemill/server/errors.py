"""One table from error class to HTTP status, and the one shape in which errors are told (RFC 9457)."""

import logging
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response

from tidemill.client.problems import MEDIA_TYPE, TYPE_PREFIX, Problem, problem_name
from tidemill.core.codec import encode
from tidemill.core.errors import Conflict, Corrupt, Invalid, NotFound, NotPermitted, TidemillError, Unavailable
from tidemill.core.ids import new_id
from tidemill.govern.keys import NotAuthenticated

LOG = logging.getLogger(__name__)


class BodyTooLarge(Invalid):
    """The request's body is larger than this server takes."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(
            f"the request's body is larger than {limit_bytes:,} bytes; send less at once, or raise the setting body_limit_bytes"
        )


class WrongMediaType(Invalid):
    """The body's content type is not the one that the route takes."""

    def __init__(self, got: str, wanted: str) -> None:
        self.got, self.wanted = got, wanted
        super().__init__(f"the body's content type is {got or 'not given'!r}; this route takes {wanted}")


class MethodRefused(Invalid):
    """The path exists, not for this method."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        self.allowed = allowed
        super().__init__(f"{method} is not possible on {path}; it takes: {allowed or 'other methods'}")


class RouteNotFound(NotFound):
    """No route has this path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"there is nothing at {path}; every route is listed at /openapi.json")


class HostRefused(NotPermitted):
    """The Host header names a server that this is not: a web page may be trying to reach it (DNS rebinding)."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"this server does not answer to the host {host!r}; without authentication it answers to the address it is bound to "
            "and to localhost only"
        )


class OriginRefused(NotPermitted):
    """A web page of another origin tries to change something here."""

    def __init__(self, origin: str) -> None:
        super().__init__(f"a page of {origin!r} may not change anything here; only this server's own pages may")


# The nearest class up the hierarchy counts.
STATUSES: Mapping[type[TidemillError], int] = {
    BodyTooLarge: 413,
    WrongMediaType: 415,
    MethodRefused: 405,
    HostRefused: 421,
    NotAuthenticated: 401,
    NotFound: 404,
    Conflict: 409,
    Invalid: 400,
    NotPermitted: 403,
    Unavailable: 503,
    Corrupt: 500,
    TidemillError: 500,
}


def status_of(error: TidemillError) -> int:
    """Return the status that an error is answered with."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def readable(error: Exception, *, method: str, path: str) -> TidemillError | None:
    """Return the error that a reader is told, None for one that nobody foresaw."""
    if isinstance(error, TidemillError):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return RouteNotFound(path)
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            return MethodRefused(method, path, ", ".join(sorted(part.strip() for part in allowed.split(","))))
        return Invalid(error.detail)
    return None


def problem_of(error: Exception, *, method: str, path: str) -> Problem:
    """Return the problem details of any error; one that nobody foresaw is logged under the id that the caller gets."""
    told = readable(error, method=method, path=path)
    if told is None:
        instance = new_id()
        LOG.error("%s %s failed (instance %s)", method, path, instance, exc_info=error)
        detail = f"the server failed in a way that nobody foresaw; its log has the cause under instance {instance}"
        return Problem(type=TYPE_PREFIX + "internal", title="Internal error", status=500, detail=detail, instance=instance)
    name, status = problem_name(told), status_of(told)
    if status >= 500:
        LOG.warning("%s %s: %s", method, path, told)
    return Problem(type=TYPE_PREFIX + name, title=name.replace("-", " ").capitalize(), status=status, detail=str(told))


def problem_response(problem: Problem, *, error: Exception | None = None) -> Response:
    """Return a problem as an HTTP answer."""
    headers = {}
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="tidemill"'
    if isinstance(error, HTTPException) and error.headers:
        headers.update({name: ", ".join(sorted(value.split(", "))) for name, value in error.headers.items()})
    if problem.status == 503:
        headers["Retry-After"] = "1"
    return Response(encode(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)
