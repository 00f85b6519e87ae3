"""One row of MLflow's API: a method, a path, what comes in and who answers; and how what comes in is read."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from tidemill.core.codec import Reader, convert
from tidemill.core.errors import Invalid
from tidemill.core.values import UNSET, Wire
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.errors import BodyNotUnderstood, ParameterMissing, ParameterWrong

_NUL = b"\\u0000"  # as JSON has it, where it has it at all
PLACEHOLDER = re.compile(r"{(\w+)}")
_FAULT = re.compile(r"(?:Object missing required field `(?P<missing>\w+)`|(?P<problem>.+?))(?: - at `\$(?P<path>[^`]*)`)?$")


@dataclass(frozen=True)
class Endpoint:
    """A handler behind a method and a path, served below `/api/N.0` and `/ajax-api/N.0` for each N of versions.

    takes: a lenient struct, filled from the query of a GET, from the JSON body of all others, and from the {placeholders} of
    the path. A field without a default is required. The handler gets the workspace, opened for the caller, and that struct;
    what it returns is encoded as JSON, unset fields left out. brief: it takes well under a millisecond, writes in one transaction
    and reads nothing that it wrote by another: the event loop itself may run it, among others of its kind.
    """

    method: str
    path: str
    takes: type[Wire]
    handler: Callable[[Workspace, Any], Any]
    versions: tuple[int, ...] = (2,)
    status: int = 200
    brief: bool = False
    reader: Reader[Any] = field(init=False, compare=False)
    repeated: frozenset[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reader", Reader(self.takes))
        hints = get_type_hints(self.takes)
        object.__setattr__(self, "repeated", frozenset(name for name, kind in hints.items() if _is_repeated(kind)))


def read_body(endpoint: Endpoint, body: bytes, found: Mapping[str, str]) -> Any:
    """Return what a request brings in its body. Raises ParameterMissing, ParameterWrong, BodyNotUnderstood.

    Nearly every body is read at once. One that is refused gets a second, slower look, which forgives what protobuf's parser
    forgives (null for nothing, NaN without quotes, camelCase, a document within a string) and else names the fault.
    """
    if body and not found and _NUL not in body:
        try:
            return endpoint.reader.read(body)
        except Invalid:
            pass
    data = _forgiving(body)
    return _as(endpoint, data, found)


def read_query(endpoint: Endpoint, pairs: Sequence[tuple[str, str]], found: Mapping[str, str]) -> Any:
    """Return what a request brings in its query: a repeated field takes every value of its name, any other the first.

    Raises ParameterMissing, ParameterWrong, BodyNotUnderstood.
    """
    data: dict[str, Any] = {}
    for name, value in pairs:
        _check_text(value)
        if name in endpoint.repeated:
            data.setdefault(name, []).append(value)
        else:
            data.setdefault(name, value)
    return _as(endpoint, data, found)


def _as(endpoint: Endpoint, data: dict[str, Any], found: Mapping[str, str]) -> Any:
    if "run_uuid" in data:
        data.setdefault("run_id", data["run_uuid"])
    for name, value in found.items():
        _check_text(value)
        data[name] = value
    try:
        return convert(data, endpoint.takes, what="", strict=False)
    except Invalid as error:
        _refuse(str(error.__cause__ or error), data)


def _refuse(fault: str, data: Any) -> NoReturn:
    match = _FAULT.match(fault)
    if match is None:
        raise BodyNotUnderstood(fault)
    path = (match["path"] or "").removeprefix(".")
    if match["missing"]:
        raise ParameterMissing(f"{path}.{match['missing']}" if path else match["missing"])
    value = _value_at(data, path)
    if value == "":
        raise ParameterMissing(path)
    raise ParameterWrong(path, value, match["problem"])


def _value_at(data: Any, path: str) -> Any:
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+|\.\.\.)\]", path):
        try:
            data = data[name] if name else data[int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            return UNSET
    return data


def _forgiving(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        data = json.loads(body)
        if isinstance(data, str):
            data = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BodyNotUnderstood(f"it is not valid JSON ({error})") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise BodyNotUnderstood(f"it is a JSON {'array' if isinstance(data, list) else 'scalar'}; expected an object")
    plain = _without_null(data)
    assert isinstance(plain, dict)
    return {_snake(name): value for name, value in plain.items()}


def _without_null(data: Any) -> Any:
    if isinstance(data, dict):
        for name in data:
            _check_text(name)
        return {name: _without_null(value) for name, value in data.items() if value is not None}
    if isinstance(data, list):
        return [_without_null(value) for value in data]
    if isinstance(data, str):
        _check_text(data)
    return data


def _check_text(text: str) -> None:
    if "\0" in text:
        raise BodyNotUnderstood("a text holds a NUL character, which not every database keeps")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BodyNotUnderstood("a text holds half a character (a lone surrogate)") from None


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), name)


def _is_repeated(kind: Any) -> bool:
    return get_origin(kind) in (list, tuple) or any(_is_repeated(each) for each in get_args(kind) if each is not kind)
