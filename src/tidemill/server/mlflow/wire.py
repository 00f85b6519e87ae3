"""The shapes that many of MLflow's messages share, and the way between them and ours."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated

from tidemill.core.clock import from_micros, micros
from tidemill.core.errors import Invalid
from tidemill.core.values import Meta, Wire
from tidemill.tracking.experiments import View

# Text that has to be there; protobuf tells an absent text and an empty one alike.
Filled = Annotated[str, Meta(min_length=1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
# Milliseconds since 1970, up to the end of the year 9999: a moment that every database and every language can hold.
Millis = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
# The same from the year 1 on: for what happened before anybody measured it.
AnyMillis = Annotated[int, Meta(ge=-62_135_596_800_000, le=253_402_300_799_999)]
# MLflow's database has no infinities, so its clients know them as the largest double. NaN is told in words, as protobuf does.
LARGEST = 1.7976931348623157e308
PAGE_MAX = 50_000
LISTED_MAX = 10_000
_VIEWS: Mapping[str | int, View] = {1: "active", "ACTIVE_ONLY": "active", 2: "deleted", "DELETED_ONLY": "deleted", 3: "all", "ALL": "all"}


class KeyValue(Wire, frozen=True, kw_only=True):
    """A tag, a param: text under a key."""

    key: str = ""
    value: str = ""


class Empty(Wire, frozen=True, kw_only=True):
    """An answer that says nothing but yes."""


DONE = Empty()


def pairs(texts: Mapping[str, str]) -> tuple[KeyValue, ...]:
    """Return texts by key as MLflow lists them."""
    return tuple(KeyValue(key=key, value=value) for key, value in texts.items())


def by_key(given: Iterable[KeyValue]) -> dict[str, str]:
    """Return listed texts by key; of several under one key, the last counts."""
    return {item.key: item.value for item in given}


def told_number(value: float) -> float | str:
    """Return a metric's value as MLflow tells it."""
    if value != value:
        return "NaN"
    return math.copysign(LARGEST, value) if math.isinf(value) else value


def millis(moment: datetime) -> int:
    """Return milliseconds since 1970."""
    return micros(moment) // 1000


def moment(since_1970_ms: int) -> datetime:
    """Return the moment of milliseconds since 1970."""
    return from_micros(since_1970_ms * 1000)


def view_of(name: str | int) -> View:
    """Return which lifecycles a search shows; a word that MLflow does not know means those in use, as it does there."""
    return _VIEWS.get(int(name) if isinstance(name, str) and name.isdecimal() else name, "active")


def check_page(size: int) -> int:
    """Return how many items a page may hold. Raises Invalid."""
    if not 1 <= size <= PAGE_MAX:
        raise Invalid(f"Invalid value {size} for parameter 'max_results' supplied: expected 1 to {PAGE_MAX}")
    return size


def experiment_number(text: str) -> int:
    """Return an experiment's id, which MLflow sends as text. Raises Invalid."""
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 18:
        raise Invalid(f"Invalid experiment ID {text[:80]!r}; expected a whole number, such as the one that the experiment was created with")
    return int(text)


def check_listed(what: str, given: Sequence[str]) -> None:
    """Raises Invalid for more ids than a database takes in one question."""
    if len(given) > LISTED_MAX:
        raise Invalid(f"{what} lists {len(given):,} ids; expected at most {LISTED_MAX:,} at once")


def experiment_numbers(texts: Sequence[str]) -> list[int]:
    """Return several experiments' ids. Raises Invalid."""
    check_listed("experiment_ids", texts)
    return [experiment_number(text) for text in texts]
