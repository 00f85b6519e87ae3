"""The one kind of struct that every value is made of. Only this module and `codec` name msgspec."""

from typing import Any

import msgspec
from msgspec import UNSET, Meta, UnsetType, field
from msgspec.structs import replace

__all__ = ["UNSET", "Json", "Meta", "UnsetType", "Value", "Wire", "field", "fields_of", "replace"]

Json = dict[str, Any] | list[Any] | str | int | float | bool | None


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, keyword-only, refusing unknown fields: the row, the event, the request and the response."""


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """A shape that a foreign standard dictates: lenient about unknown fields."""


class Passed(msgspec.Struct):
    """What one step of a hot path hands to the next: made in a fraction of the time of a class of one's own, and changeable."""


def fields_of(cls: type[Value]) -> tuple[str, ...]:
    """Return the field names of a value class in their declared order."""
    return tuple(f.name for f in msgspec.structs.fields(cls))
