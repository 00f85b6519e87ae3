"""The shapes of Tidemill's own routes of the data plane, as far as no other module owns them."""

from datetime import datetime
from typing import Any

from tidemill.core.values import Value
from tidemill.features.online import Pushed
from tidemill.serving.rows import PredictionId


class RowsRequest(Value, frozen=True, kw_only=True):
    """Rows of any endpoint, one object of columns each. at: the moment that they are about, now unless told."""

    rows: list[dict[str, Any]]
    ids: list[PredictionId] | None = None
    at: datetime | None = None


class PushRequest(Value, frozen=True, kw_only=True):
    """Events of a source, one object of columns each."""

    rows: list[dict[str, Any]]


class PushAnswer(Value, frozen=True, kw_only=True):
    """What each view over the source made of the rows, by the view and its version: `landed@2`."""

    views: dict[str, Pushed]


class Ready(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Answer of the probes. not_ready: the endpoints that cannot answer, though the worker does for others."""

    ready: bool
    generation: int
    not_ready: tuple[str, ...] = ()
