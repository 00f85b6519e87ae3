"""How two servers' answers differ, and which differences are meant."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tests.server.mlflow.sides import Answer

MISSING = "<missing>"


@dataclass(frozen=True)
class Difference:
    """One field of one answer that is not the same."""

    label: str
    field: str
    mlflow: Any
    tidemill: Any

    def __str__(self) -> str:
        return f"{self.label} · {self.field}: MLflow {_short(self.mlflow)}, Tidemill {_short(self.tidemill)}"


@dataclass(frozen=True)
class Accepted:
    """A difference that is meant, and why. label and field: as in Difference, with * for any text."""

    label: str
    field: str
    reason: str

    def covers(self, difference: Difference) -> bool:
        return fnmatchcase(difference.label, self.label) and fnmatchcase(difference.field, self.field)


def compare(mlflow: Sequence[Answer], tidemill: Sequence[Answer]) -> Iterator[Difference]:
    """Yield how the answers to the same calls differ."""
    for one, other in zip(mlflow, tidemill, strict=False):
        if one.label != other.label:
            yield Difference(one.label, "call", one.label, other.label)
            return
        if (first := _outcome(one)) != (second := _outcome(other)):
            yield Difference(one.label, "outcome", first, second)
        else:
            yield from _fields(one.label, "", one.body, other.body)
    if len(mlflow) != len(tidemill):
        yield Difference("*", "calls", len(mlflow), len(tidemill))


def _outcome(answer: Answer) -> str:
    code = answer.body.get("error_code", "") if isinstance(answer.body, dict) else ""
    return f"{answer.status} {code}".strip()


def _fields(label: str, place: str, one: Any, other: Any) -> Iterator[Difference]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from _fields(label, f"{place}.{key}" if place else key, one.get(key, MISSING), other.get(key, MISSING))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _fields(label, f"{place}[{number}]", left, right)
    elif one != other:
        yield Difference(label, place or "body", one, other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else text[:157] + "..."
