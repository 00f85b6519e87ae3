"""One row of the API: a method, a path and a handler whose signature says the rest."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from tidemill.core.codec import convert, decode
from tidemill.core.errors import Invalid
from tidemill.core.settings import nearest
from tidemill.core.values import Meta
from tidemill.govern.workspace import Workspace

Limit = Annotated[int, Meta(ge=1, le=1000)]  # how many items a list may hold
_PLACEHOLDER = re.compile(r"{(\w+)(?::(\w+))?}")
JSON_TYPE = "application/json"
BYTES_TYPE = "application/octet-stream"
ONCE = "idempotency_key"
Chunks = Iterator[bytes]


@dataclass(frozen=True)
class Route:
    """A handler behind a method and a path. Everything but these two is read from the handler:

    its first parameter is the workspace, opened for the caller; parameters named in the path come from the path; `body` is
    the request's body (a value: JSON; a `Path`: a file that the body was written to, of the media types in takes);
    `idempotency_key` comes from the header of that name; all other parameters come from the query. Its annotations decode
    them and describe the API; its answer is a value (JSON), a `Path` (that file), `Chunks` (bytes as they are made), or None
    (204). Its docstring is the summary.
    """

    method: str
    path: str
    handler: Callable[..., Any]
    status: int = 200
    takes: tuple[str, ...] = (BYTES_TYPE,)
    shape: "Shape" = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _shape(self))

    @property
    def name(self) -> str:
        return self.handler.__name__

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.handler) or "").partition("\n")[0]


@dataclass(frozen=True)
class Query:
    """One parameter of the query string."""

    kind: Any
    required: bool
    repeated: bool
    default: Any


@dataclass(frozen=True)
class Shape:
    """What a handler's signature says."""

    path: Mapping[str, Any]
    query: Mapping[str, Query]
    body: Any  # a type, or None
    answer: Any
    once: Any = None  # the type of the idempotency key, or None

    @property
    def takes_file(self) -> bool:
        return self.body is Path

    @property
    def gives_bytes(self) -> bool:
        return self.answer is Path or self.answer == Chunks


def read_path(route: Route, found: Mapping[str, str]) -> dict[str, Any]:
    """Return the path's parameters as their types. Raises Invalid."""
    return {name: convert(found[name], kind, what=f"{name!r} in the path", strict=False) for name, kind in route.shape.path.items()}


def read_query(route: Route, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the query's parameters as their types. Raises Invalid for one that is not known, missing or of another form."""
    known = route.shape.query
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in known:
            hint = nearest(name, list(known)) if known else "this route takes none"
            raise Invalid(f"unknown query parameter {name!r}; {hint}")
        values.setdefault(name, []).append(value)
    missing = [name for name, query in known.items() if query.required and name not in values]
    if missing:
        raise Invalid(f"query parameter {missing[0]!r} is missing; send it as ?{missing[0]}=VALUE")
    return {
        name: convert(found if known[name].repeated else found[-1], known[name].kind, what=f"query parameter {name!r}", strict=False)
        for name, found in values.items()
    }


def read_once(route: Route, told: str | None) -> dict[str, Any]:
    """Return the idempotency key as the handler's parameter. Raises Invalid."""
    if route.shape.once is None or told is None:
        return {}
    return {ONCE: convert(told, route.shape.once, what="the header Idempotency-Key")}


def read_body(route: Route, body: bytes) -> dict[str, Any]:
    """Return the decoded body as the handler's parameter. Raises Invalid."""
    if route.shape.body is None or route.shape.takes_file:
        return {}
    return {"body": decode(body, route.shape.body, what="the request's body")}


def call(route: Route, ws: Workspace, arguments: Mapping[str, Any]) -> Any:
    """Run the handler."""
    return route.handler(ws, **arguments)


def _shape(route: Route) -> Shape:
    hints = get_type_hints(route.handler, include_extras=True)
    signature = inspect.signature(route.handler)
    in_path = {match[1] for match in _PLACEHOLDER.finditer(route.path)}
    parameters = list(signature.parameters.values())[1:]
    named = {parameter.name for parameter in parameters}
    if not in_path <= named or "return" not in hints:
        raise TypeError(f"{route.method} {route.path}: {route.handler.__name__} must take {sorted(in_path)} and say what it returns")
    query = {
        parameter.name: Query(
            kind=hints[parameter.name],
            required=parameter.default is inspect.Parameter.empty,
            repeated="Sequence" in str(hints[parameter.name]) or "tuple[" in str(hints[parameter.name]),
            default=None if parameter.default is inspect.Parameter.empty else parameter.default,
        )
        for parameter in parameters
        if parameter.name not in in_path and parameter.name not in ("body", ONCE)
    }
    answer = None if hints["return"] is type(None) else hints["return"]
    return Shape(
        path={name: hints[name] for name in sorted(in_path)}, query=query, body=hints.get("body"), answer=answer, once=hints.get(ONCE)
    )
