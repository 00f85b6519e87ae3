"""Features of entities from the online store, told with how old they are: for people and for callers that have no endpoint."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tidemill.core.clock import from_micros, utc
from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.features.definitions import compile_plan
from tidemill.features.missing import FeaturesMissing, gone
from tidemill.features.online import FeatureReader, ReadPlan
from tidemill.features.views import Missing
from tidemill.govern.workspace import Workspace


class EntityFeatures(Value, frozen=True, kw_only=True):
    """What is known of one row. newest: when the newest event that is online happened, by view; missing: features without a value, also
    those that a default stands for.
    """

    features: dict[str, float | str | None]
    newest: dict[str, datetime | None]
    missing: tuple[str, ...]


class LookedUp(Value, frozen=True, kw_only=True):
    """Features of rows as of a moment, in the order in which they were asked for."""

    service: str
    at: datetime
    rows: tuple[EntityFeatures, ...]


def features_get(
    ws: Workspace, entities: Sequence[Mapping[str, Any]], service: str, *, at: datetime | None = None, missing: Missing | None = None
) -> LookedUp:  # fmt: skip
    """Return the features of a service (`NAME` or `NAME@V`) for rows, as of now or of a moment since the last push.

    entities: rows of join keys, and of what features are computed from; numbers may come as text. missing: what becomes of a feature
    without a value: its default or `none` stands for it, or the call does `fail`; as the service says unless told. Raises Invalid,
    FeaturesMissing, DefinitionNotFound, OnlineUnavailable.
    """
    ws.require("features.read", service)
    plan = compile_plan(ws, service)
    moment = utc(at) if at is not None else ws.clock.now()
    keys = _columns(plan, entities)
    reader = FeatureReader(plan, ws.online)
    stored = reader.stored(keys, moment)
    found = reader.completed(keys, stored)
    values = {name: column.tolist() for name, column in found.items()}
    lacking = {name: gone(stored.get(name, column)).tolist() for name, column in found.items()}
    required = plan.required if missing is None else plan.features if missing == "fail" else ()
    newest = reader.newest(keys, moment)
    rows = []
    for place in range(len(entities)):
        told = {name: _plain(column[place]) for name, column in values.items()}
        without = tuple(name for name in told if lacking[name][place])
        if refused := [name for name in without if name in required]:
            raise FeaturesMissing(place + 1, refused)
        times = {view: None if (time := column[place]) is None else from_micros(time) for view, column in newest.items()}
        rows.append(EntityFeatures(features=told, newest=times, missing=without))
    return LookedUp(service=plan.services[0], at=moment, rows=tuple(rows))


def _columns(plan: ReadPlan, entities: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    kinds: dict[str, str] = {name: kind for each in plan.on_demand for name, kind in each.request.items()}
    kinds |= {name: kind for view in plan.views for name, kind in zip(view.view.entity, view.key_kinds, strict=True)}
    for number, row in enumerate(entities, start=1):
        absent = [name for name in kinds if name not in row]
        if absent:
            raise Invalid(f"row {number} has no {', '.join(absent)}, which the service needs (it has: {', '.join(row) or 'none'})")
    return {name: [_typed(kind, number, name, row[name]) for number, row in enumerate(entities, start=1)] for name, kind in kinds.items()}


def _typed(kind: str, row: int, name: str, value: Any) -> Any:
    """Return a value as its kind wants it: text for a number is read. Raises Invalid."""
    if kind == "string" or not isinstance(value, str):
        return value
    try:
        return int(value) if kind == "long" else float(value)
    except ValueError:
        expected = "a whole number" if kind == "long" else "a number"
        raise Invalid(f"row {row} has the {name} {value!r}; expected {expected}") from None


def _plain(value: float | str | None) -> float | str | None:
    return None if isinstance(value, float) and math.isnan(value) else value
