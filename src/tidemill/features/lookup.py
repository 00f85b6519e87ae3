"""Features of entities from the online store, told with how old they are: for people and for callers that have no endpoint."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from tidemill.core.clock import from_micros, utc
from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.features.definitions import compile_plan
from tidemill.features.online import FeatureReader, ReadPlan
from tidemill.govern.workspace import Workspace

Missing = Literal["none", "fail"]


class EntityFeatures(Value, frozen=True, kw_only=True):
    """What is known of one row. newest: when the newest event that is online happened, by view; missing: features without a value."""

    features: dict[str, float | str | None]
    newest: dict[str, datetime | None]
    missing: tuple[str, ...]


class LookedUp(Value, frozen=True, kw_only=True):
    """Features of rows as of a moment, in the order in which they were asked for."""

    service: str
    at: datetime
    rows: tuple[EntityFeatures, ...]


class FeaturesMissing(Invalid):
    """Some features have no value, and the caller said that they must."""

    def __init__(self, row: int, names: Sequence[str]) -> None:
        self.row, self.names = row, tuple(names)
        super().__init__(
            f"row {row} has no {', '.join(names)}; push or materialize events of it, or ask with missing 'none' to get what there is"
        )


def features_get(
    ws: Workspace, entities: Sequence[Mapping[str, Any]], service: str, *, at: datetime | None = None, missing: Missing = "none"
) -> LookedUp:  # fmt: skip
    """Return the features of a service (`NAME` or `NAME@V`) for rows of join keys, as of now or of a moment since the last push.

    missing: what becomes of a feature without a value: `none` stands for it, or the call does `fail`. A join key that is a whole number
    may come as text. Raises Invalid, FeaturesMissing, DefinitionNotFound, OnlineUnavailable.
    """
    ws.require("features.read", service)
    plan = compile_plan(ws, service)
    moment = utc(at) if at is not None else ws.clock.now()
    keys = _columns(plan, entities)
    reader = FeatureReader(plan, ws.online)
    values = {name: column.tolist() for name, column in reader.read(keys, moment).items()}
    newest = reader.newest(keys, moment)
    rows = []
    for place in range(len(entities)):
        told = {name: _plain(column[place]) for name, column in values.items()}
        gone = tuple(name for name, value in told.items() if value is None)
        if gone and missing == "fail":
            raise FeaturesMissing(place + 1, gone)
        times = {view: None if (time := column[place]) is None else from_micros(time) for view, column in newest.items()}
        rows.append(EntityFeatures(features=told, newest=times, missing=gone))
    return LookedUp(service=plan.services[0], at=moment, rows=tuple(rows))


def _columns(plan: ReadPlan, entities: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    kinds = {name: kind for view in plan.views for name, kind in zip(view.view.entity, view.key_kinds, strict=True)}
    for number, row in enumerate(entities, start=1):
        absent = [name for name in plan.entity if name not in row]
        if absent:
            raise Invalid(f"row {number} has no join key {', '.join(absent)} (it has: {', '.join(row) or 'none'})")
    return {name: [_key(kinds[name], row[name]) for row in entities] for name in plan.entity}


def _key(kind: str, value: Any) -> Any:
    return int(value) if kind == "long" and isinstance(value, str) and value.removeprefix("-").isdecimal() else value


def _plain(value: float | str | None) -> float | str | None:
    return None if isinstance(value, float) and math.isnan(value) else value
