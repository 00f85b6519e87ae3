"""Errors on the wire (RFC 9457 problem details) and back: the same class of error, the same sentence, on both sides."""

from collections.abc import Mapping, Sequence

from tidemill.client.transport import Response
from tidemill.core.codec import decode
from tidemill.core.errors import Conflict, Corrupt, Invalid, NotFound, NotPermitted, TidemillError, Unavailable
from tidemill.core.values import Value, Wire, replace

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "/problems/"

# The last part of a problem's type -> the error that it stands for. The server picks the nearest class, the client raises it.
PROBLEMS: Mapping[str, type[TidemillError]] = {
    "not-found": NotFound,
    "conflict": Conflict,
    "invalid": Invalid,
    "not-permitted": NotPermitted,
    "unavailable": Unavailable,
    "corrupt": Corrupt,
    "internal": TidemillError,
}
_BY_STATUS: Mapping[int, type[TidemillError]] = {
    400: Invalid, 401: NotPermitted, 403: NotPermitted, 404: NotFound, 405: Invalid, 409: Conflict, 413: Invalid, 415: Invalid,
    421: NotPermitted, 422: Invalid, 429: Unavailable, 502: Unavailable, 503: Unavailable, 504: Unavailable,
}  # fmt: skip


class Problem(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """An error answer. type ends in a name of PROBLEMS; detail is the sentence for a reader; instance finds the log line of a 500."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    instance: str | None = None


class Fault(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What is wrong with one row of a request, or with one column of it."""

    row: int
    column: str | None = None
    fault: str


class RowsProblem(Problem, frozen=True, kw_only=True, omit_defaults=True):
    """A problem with each fault named."""

    faults: tuple[Fault, ...] = ()


class _Told(RowsProblem, frozen=True, kw_only=True):
    """An error answer of Tidemill's own, or of the Open Inference Protocol, which says `error`."""

    error: str = ""


class RowsNotTaken(Invalid):
    """The rows of a request do not fit; faults: what the server named, by row."""

    def __init__(self, sentence: str, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(sentence)


def problem_name(error: TidemillError) -> str:
    """Return the name of the nearest class that the wire knows."""
    names = {kind: name for name, kind in PROBLEMS.items()}
    return next(names[kind] for kind in type(error).__mro__ if kind in names)


def behind(refused: Invalid, rows: int) -> Invalid:
    """Return what was said of some rows of a table so that it fits the table: so many rows stand before them."""
    if not rows:
        return refused
    sentence = f"{refused} (rows are counted from row {rows} of the table)"
    if isinstance(refused, RowsNotTaken):
        return RowsNotTaken(sentence, [replace(fault, row=fault.row + rows) for fault in refused.faults])
    return Invalid(sentence)


def error_of(response: Response) -> TidemillError:
    """Return the error that an answer of 400 or more tells of, with the server's sentence."""
    try:
        problem = decode(response.body, _Told, what="error answer")
    except Invalid:
        problem = _Told(detail=response.body[:500].decode("utf-8", "replace").strip())
    kind = PROBLEMS.get(problem.type.removeprefix(TYPE_PREFIX)) or _BY_STATUS.get(response.status, TidemillError)
    sentence = problem.detail or problem.error or problem.title or "the server gave no reason"
    if problem.instance is not None:
        sentence = f"{sentence} (instance {problem.instance})"
    return RowsNotTaken(sentence, problem.faults) if problem.faults else kind(sentence)
