"""Protobuf's wire format, read by tables into plain data as its JSON form has it. Source: protobuf.dev, Encoding."""

import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tidemill.core.errors import Invalid

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEPTH_MAX = 64


class Field(NamedTuple):
    """One field of a message. kind: text, bytes, bool, int64, uint64, fixed64, fixed32, double, or the name of a message or enum."""

    name: str
    kind: str
    repeated: bool = False


class Schema(NamedTuple):
    """Messages: fields by number. Enums: names by number."""

    messages: Mapping[str, Mapping[int, Field]]
    enums: Mapping[str, Mapping[int, str]]


class ProtobufRefused(Invalid):
    """The bytes are no message of that form."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the body is not the protobuf message expected here: {problem}")


def parse(data: bytes, schema: Schema, message: str) -> dict[str, Any]:
    """Return a message as plain data: fields that are not set, and those that have their default, are left out.

    Raises ProtobufRefused.
    """
    return _message(memoryview(data), schema, message, 0)


def _message(data: memoryview, schema: Schema, message: str, depth: int) -> dict[str, Any]:
    if depth > _DEPTH_MAX:
        raise ProtobufRefused(f"it is nested more than {_DEPTH_MAX} deep")
    fields = schema.messages[message]
    found: dict[str, Any] = {}
    for number, wire, raw in _fields(data):
        field = fields.get(number)
        if field is None:
            continue  # a newer sender knows more
        value = _value(field, wire, raw, schema, depth)
        if field.repeated:
            found.setdefault(field.name, []).append(value)
        else:
            found[field.name] = value
    return found


def _value(field: Field, wire: int, raw: Any, schema: Schema, depth: int) -> Any:
    kind = field.kind
    if kind in schema.messages:
        return _message(_expect(raw, wire, _BYTES, field), schema, kind, depth + 1)
    if kind in schema.enums:
        number = _expect(raw, wire, _VARINT, field)
        return schema.enums[kind].get(number, number)
    if kind == "text":
        try:
            return bytes(_expect(raw, wire, _BYTES, field)).decode()
        except UnicodeDecodeError:
            raise ProtobufRefused(f"{field.name} is not UTF-8") from None
    if kind == "bytes":
        return b64encode(_expect(raw, wire, _BYTES, field)).decode()
    if kind == "bool":
        return bool(_expect(raw, wire, _VARINT, field))
    if kind == "int64":
        number = _expect(raw, wire, _VARINT, field)
        return number - (1 << 64) if number >= 1 << 63 else number
    if kind == "double":
        value = struct.unpack("<d", _expect(raw, wire, _FIXED64, field))[0]
        return "NaN" if value != value else {float("inf"): "Infinity", float("-inf"): "-Infinity"}.get(value, value)
    if kind == "fixed64":
        return int.from_bytes(_expect(raw, wire, _FIXED64, field), "little")
    if kind == "fixed32":
        return int.from_bytes(_expect(raw, wire, _FIXED32, field), "little")
    return _expect(raw, wire, _VARINT, field)


def _expect(raw: Any, wire: int, wanted: int, field: Field) -> Any:
    if wire != wanted:
        raise ProtobufRefused(f"{field.name} is of another kind")
    return raw


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ProtobufRefused(f"it has a field of wire type {wire}")
        if at + size > end:
            raise ProtobufRefused("it ends in the middle of a field")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ProtobufRefused("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
        shift += 7
