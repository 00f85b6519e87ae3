"""One table from our error classes to MLflow's statuses and codes, and the one shape in which its clients are told."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tidemill.core.codec import encode
from tidemill.core.errors import Conflict, Corrupt, Invalid, NotFound, NotPermitted, TidemillError, Unavailable
from tidemill.core.ids import new_id
from tidemill.core.values import UNSET
from tidemill.govern.keys import NotAuthenticated
from tidemill.registry.locks import VersionLocked
from tidemill.registry.promotion import ChecksFailed
from tidemill.server.errors import BodyTooLarge
from tidemill.tracking.experiments import ExperimentInTrash
from tidemill.tracking.facts import ParamRewritten
from tidemill.tracking.files import FileInTheWay
from tidemill.tracking.logged_models import ModelParamRewritten
from tidemill.tracking.runs import RunInTrash

LOG = logging.getLogger(__name__)
_SHOWN = 200


class ParameterMissing(Invalid):
    """A parameter that must be there is not, or is empty."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"Missing value for required parameter '{name}'; send it, and let it not be empty")


class ParameterWrong(Invalid):
    """A parameter is of another type, or out of range."""

    def __init__(self, name: str, value: Any, problem: str) -> None:
        self.name, self.value = name, value
        shown = "" if value is UNSET else f" {str(value)[:_SHOWN]!r}"
        super().__init__(f"Invalid value{shown} for parameter '{name}' supplied: {problem[:1].lower()}{problem[1:]}")


class BodyNotUnderstood(Invalid):
    """The body is no JSON object, or holds text that is none."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the request was not understood: {problem}")


class ContentTypeRefused(Invalid):
    """The body is announced as something other than JSON."""

    def __init__(self, got: str, expected: str = "application/json") -> None:
        self.got, self.expected = got, expected
        super().__init__(f"the body's content type is {got or 'not given'!r}; expected {expected}")


class RangeRefused(Invalid):
    """The range asked for lies outside the file."""

    def __init__(self, asked: str, size_bytes: int) -> None:
        self.asked, self.size_bytes = asked, size_bytes
        super().__init__(f"range {asked[:80]!r} does not lie in a file of {size_bytes} bytes; ask for one such as bytes=0-{size_bytes - 1}")


class TicketRefused(NotPermitted):
    """The signed part of an address is not ours, or its time is over."""

    def __init__(self) -> None:
        super().__init__("this address was not given by this server, or its time is over; ask for a new one")


class EndpointUnknown(NotFound):
    """MLflow's API has no such path, or not for this method."""

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"there is no {method} {path} in the MLflow API that this server speaks")


class MethodUnknown(EndpointUnknown):
    """The path is there, not for this method."""

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        self.allowed = tuple(allowed)
        Exception.__init__(self, f"{method} is not possible on {path}; it takes: {', '.join(allowed)}")


class NotSupported(TidemillError):
    """A part of MLflow's API that Tidemill does not have."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"Tidemill does not support {what}; experiments, runs, models, traces and artifacts are what it keeps")


class Told(NamedTuple):
    """How MLflow tells a kind of error: HTTP status, error code, and the class of errors that it counts it among."""

    status: int
    code: str
    kind: str


_INVALID = Told(400, "INVALID_PARAMETER_VALUE", "INVALID_PARAMETER_VALUE")
_INTERNAL = Told(500, "INTERNAL_ERROR", "CLIENT_INTERNAL_ERROR")

# The nearest class up the hierarchy counts.
CODES: Mapping[type[TidemillError], Told] = {
    RangeRefused: Told(416, "INVALID_PARAMETER_VALUE", "INVALID_PARAMETER_VALUE"),
    BodyTooLarge: Told(413, "INVALID_PARAMETER_VALUE", "INVALID_PARAMETER_VALUE"),
    EndpointUnknown: Told(404, "ENDPOINT_NOT_FOUND", "RESOURCE_NOT_FOUND"),
    MethodUnknown: Told(405, "ENDPOINT_NOT_FOUND", "RESOURCE_NOT_FOUND"),
    NotSupported: Told(501, "NOT_IMPLEMENTED", ""),
    NotAuthenticated: Told(401, "UNAUTHENTICATED", ""),
    NotFound: Told(404, "RESOURCE_DOES_NOT_EXIST", "RESOURCE_NOT_FOUND"),
    ExperimentInTrash: _INVALID,
    RunInTrash: _INVALID,
    ParamRewritten: _INVALID,
    ModelParamRewritten: _INVALID,
    FileInTheWay: _INVALID,
    ChecksFailed: Told(409, "RESOURCE_CONFLICT", ""),
    VersionLocked: Told(409, "RESOURCE_CONFLICT", ""),
    Conflict: Told(400, "RESOURCE_ALREADY_EXISTS", "RESOURCE_ALREADY_EXISTS"),
    Invalid: _INVALID,
    NotPermitted: Told(403, "PERMISSION_DENIED", "PERMISSION_DENIED"),
    Unavailable: Told(503, "TEMPORARILY_UNAVAILABLE", "CLIENT_INTERNAL_ERROR"),
    Corrupt: Told(500, "DATA_LOSS", ""),
    TidemillError: _INTERNAL,
}


def told_as(error: TidemillError) -> Told:
    """Return status and code that an error is answered with."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def error_answer(error: Exception, *, method: str, path: str) -> tuple[int, bytes]:
    """Return status and body of any error; one that nobody foresaw is logged under the id that the caller gets."""
    if isinstance(error, TidemillError):
        told, sentence = told_as(error), str(error)
        if told.status >= 500:
            LOG.warning("%s %s: %s", method, path, error)
    else:
        instance = new_id()
        LOG.error("%s %s failed (instance %s)", method, path, instance, exc_info=error)
        told = _INTERNAL
        sentence = f"the server failed in a way that nobody foresaw; its log has the cause under instance {instance}"
    body = {"error_code": told.code, "message": sentence}
    if told.kind:  # the SQLSTATE follows from it: one for what the caller did, one for what the server did
        body |= {"sqlstate": "XXM00" if told.kind == "CLIENT_INTERNAL_ERROR" else "KAM00", "error_class": told.kind}
    return told.status, encode(body)
