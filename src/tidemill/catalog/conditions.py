"""From a comparison of a search to a clause of SQL: one rule for text, one for numbers, on both engines alike."""

from collections.abc import Iterable
from typing import Any, NoReturn

from sqlalchemy import ColumnElement, false, func, or_, true
from sqlalchemy.types import TypeDecorator

from tidemill.core.clock import from_micros
from tidemill.core.filters import Comparison, FilterRefused

_TEXT_OPS = "=, !=, LIKE, ILIKE, IN, NOT IN"
_ESCAPES = tuple(map(chr, range(0xE000, 0xF8FF)))  # for private use: in nobody's text
_NUMBER_OPS = "=, !=, <, <=, >, >="


def compare_text(column: Any, item: Comparison, text: str) -> ColumnElement[bool]:
    """Return the clause for a column of text. LIKE minds capitals, ILIKE does not. Raises FilterRefused."""
    if item.op in ("IN", "NOT IN"):
        values = item.value if isinstance(item.value, tuple) else ()
        if not all(isinstance(value, str) for value in values):
            raise FilterRefused(text, item.position, f"{item.key!r} is text; expected texts in quotes")
        return column.in_(values) if item.op == "IN" else column.not_in(values)  # type: ignore[no-any-return]
    if item.op in ("<", "<=", ">", ">="):
        raise FilterRefused(text, item.position, f"{item.key!r} is text, which {item.op} does not compare; expected one of {_TEXT_OPS}")
    if not isinstance(item.value, str):
        raise FilterRefused(text, item.position, f"{item.key!r} is text; expected text in quotes")
    if item.op in ("LIKE", "ILIKE"):
        # A backslash is a letter like any other: PostgreSQL would take it for an escape unless another one is named.
        escape = next(mark for mark in _ESCAPES if mark not in item.value) if "\\" in item.value else None
        if item.op == "ILIKE":
            return func.lower(column).like(func.lower(item.value), escape=escape)
        return column.like(item.value, escape=escape)  # type: ignore[no-any-return]
    return column == item.value if item.op == "=" else column != item.value  # type: ignore[no-any-return]


def compare_number(column: Any, item: Comparison, text: str) -> ColumnElement[bool]:
    """Return the clause for a column of numbers; a moment is compared as milliseconds since 1970. Raises FilterRefused."""
    if item.op not in ("=", "!=", "<", "<=", ">", ">="):
        raise FilterRefused(
            text, item.position, f"{item.key!r} is a number, which {item.op} does not compare; expected one of {_NUMBER_OPS}"
        )
    if not isinstance(item.value, float):
        raise FilterRefused(text, item.position, f"{item.key!r} is a number; expected a number without quotes")
    if item.value != item.value:  # nothing is equal to NaN, everything differs from it
        return true() if item.op == "!=" else false()
    value: Any = item.value
    if isinstance(column.type, TypeDecorator):
        value = _moment(value)
    operators = {"=": "__eq__", "!=": "__ne__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}
    clause: ColumnElement[bool] = getattr(column, operators[item.op])(value)
    return clause


def compare_metric(column: Any, item: Comparison, text: str) -> ColumnElement[bool]:
    """Return the clause for a column of metrics' values: a NaN, which is kept as NULL, differs from every number. Raises FilterRefused."""
    holds = compare_number(column, item, text)
    return or_(column.is_(None), holds) if item.op == "!=" else holds


def refuse_key(text: str, item: Comparison, known: Iterable[str]) -> NoReturn:
    """Raises FilterRefused: there is no attribute of that name."""
    raise FilterRefused(text, item.position, f"{item.key!r} is no attribute; expected one of {', '.join(known)}")


def _moment(millis: float) -> Any:
    bounded = min(max(millis, -6.2e13), 2.5e14)
    return from_micros(int(bounded * 1000))
