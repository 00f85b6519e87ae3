"""Values to JSON and back, and the canonical JSON that digests are taken of."""

from collections.abc import Hashable
from datetime import date
from functools import cache
from typing import Any, Generic, TypeVar, cast

import msgspec

from tidemill.core.errors import Invalid

Raw = msgspec.Raw
T = TypeVar("T")

_ENCODER = msgspec.json.Encoder()
_CANONICAL = msgspec.json.Encoder(order="deterministic")


def encode(value: Any) -> bytes:
    """Return the JSON of a value or of plain data."""
    return _ENCODER.encode(value)


def encode_text(value: Any, *, indent: int | None = None) -> str:
    """Return the JSON of a value as text, indented when asked."""
    data = _ENCODER.encode(value)
    return (msgspec.json.format(data, indent=indent) if indent is not None else data).decode()


def canonical(value: Any) -> bytes:
    """Return JSON with sorted keys and no spaces: equal data gives equal bytes (in the spirit of RFC 8785)."""
    return _CANONICAL.encode(value)


def decode(data: bytes | memoryview | str, kind: type[T], *, what: str = "JSON") -> T:
    """Read JSON as a value. Raises Invalid naming the path of the fault."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise Invalid(f"{what} was not understood: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{what} is not valid JSON: {error}") from error


class Reader(Generic[T]):
    """Reads JSON as one type, over and over: made once, then cheaper than `decode`.

    Lenient in what protobuf's JSON is lenient in: numbers may stand in quotes, "NaN" and "Infinity" among them.
    """

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind, strict=False)

    def read(self, data: bytes, *, what: str = "JSON") -> T:
        """Return the value. Raises Invalid naming the path of the fault."""
        try:
            return self._decoder.decode(data)
        except msgspec.ValidationError as error:
            raise Invalid(f"{what} was not understood: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Invalid(f"{what} is not valid JSON: {error}") from error


class Attempt(Generic[T]):
    """Reads JSON of one narrow type, very fast, and says when it is not of that type, so that a slower reader can tell what it is."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)

    def read(self, data: bytes) -> T | None:
        """Return the value, None for what does not fit."""
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


def decode_any(data: bytes | str, *, what: str = "JSON") -> Any:
    """Read JSON as plain dicts and lists. Raises Invalid."""
    return decode(data, Any, what=what)


def plain(value: Any) -> Any:
    """Return a value as plain dicts, lists, strings and numbers (dates as ISO text)."""
    return msgspec.to_builtins(value)


def convert(data: Any, kind: type[T], *, what: str = "input", strict: bool = True) -> T:
    """Read plain data as a value. Raises Invalid naming the path of the fault."""
    try:
        return msgspec.convert(data, type=kind, strict=strict, builtin_types=(date,))
    except msgspec.ValidationError as error:
        raise Invalid(f"{what} was not understood: {error}") from error


def schemas(kinds: list[Any], *, ref_template: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the JSON schemas of types (2020-12), and the components that they refer to."""
    shapes, components = msgspec.json.schema_components(kinds, ref_template=ref_template)
    return list(shapes), components


def pack(value: Any) -> bytes:
    """Return the MessagePack of plain data or a value: the journal's compact form."""
    return msgspec.msgpack.encode(value)


def packed(value: Any) -> Raw:
    """Return a value packed already, to stand as it is in what is packed later."""
    return Raw(pack(value))


def unpack(data: bytes, kind: type[T]) -> T:
    """Read MessagePack as a value. Raises Invalid."""
    try:
        return _unpacker(cast(Hashable, kind)).decode(data)  # type: ignore[no-any-return]
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Invalid(f"packed record was not understood: {error}") from error


@cache
def _unpacker(kind: Hashable) -> Any:
    return msgspec.msgpack.Decoder(
        cast("type[Any]", kind)
    )  # looking through a type anew each time takes twenty times as long as reading a few bytes
