"""What callers may say of a request beside its rows, in protocols that leave room for parameters."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from tidemill.core.clock import parse_moment
from tidemill.core.errors import Invalid


class Parameters(NamedTuple):
    """Prediction ids of the caller's own, one a row, and the moment that the rows are about."""

    ids: list[str] | None = None
    at: datetime | None = None


def read_parameters(found: Mapping[str, Any]) -> Parameters:
    """Return `prediction_ids` and `at`; others are nobody's, and ignored. Raises Invalid."""
    ids, at = found.get("prediction_ids"), found.get("at")
    if ids is not None and not (isinstance(ids, list) and all(isinstance(each, str) and 0 < len(each) <= 200 for each in ids)):
        raise Invalid("parameter 'prediction_ids' was not understood; expected a list of texts, one a row")
    if at is not None and not isinstance(at, str):
        raise Invalid("parameter 'at' was not understood; expected a moment such as 2013-06-01T12:00:00Z")
    return Parameters(ids, parse_moment(at) if at is not None else None)
