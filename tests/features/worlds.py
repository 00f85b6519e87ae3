"""Random streams of events and rows that ask about them, and the point-in-time join by brute force."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from tidemill.features.online import ViewPlan
from tidemill.features.views import Aggregation, Feature, FeatureView

START = datetime(2013, 6, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

EVENTS = pa.schema(
    [
        ("origin", pa.string()),
        ("gate", pa.int64()),
        ("landed_at", pa.timestamp("us", tz="UTC")),
        ("flight", pa.string()),
        ("delay", pa.float64()),
        ("late", pa.bool_()),
        ("plane", pa.string()),
        ("written_at", pa.timestamp("us", tz="UTC")),
    ]
)

origins = st.sampled_from(["EWR", "JFK", "LGA", None])
gates = st.sampled_from([1, 2, None])
minutes = st.integers(0, 40)
# Not only whole numbers: sums of these depend on the order in which they are added.
delays = st.one_of(st.none(), st.just(math.nan), st.integers(-30, 60).map(float), st.floats(-50, 50).map(lambda x: x / 3))


@st.composite
def event_rows(draw: st.DrawFn, *, keys: bool, corrections: bool = True, max_size: int = 40) -> list[dict[str, Any]]:
    """Events; with keys and corrections, one flight may come again with other values."""
    rows = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "origin": origins,
                    "gate": gates,
                    "landed_at": st.one_of(st.none(), minutes.map(lambda m: START + m * MINUTE), minutes.map(lambda m: START + m * MINUTE)),
                    "flight": st.integers(0, 15).map(lambda n: f"F{n:02}"),
                    "delay": delays,
                    "late": st.sampled_from([True, False, None]),
                    "plane": st.sampled_from(["A320", "B737", None]),
                    "written_at": st.one_of(st.none(), minutes.map(lambda m: START + m * MINUTE)),
                }
            ),
            max_size=max_size,
        )
    )
    if keys and not corrections:
        for number, row in enumerate(rows):
            row["flight"] = f"{row['flight']}-{number}"
    return rows


def event(flight: str, *, delay: float) -> dict[str, Any]:
    """One landing of a minute after the start."""
    return {"origin": "EWR", "gate": 1, "landed_at": START + MINUTE, "flight": flight, "delay": delay, "late": False, "plane": "A320",
            "written_at": None}  # fmt: skip


def events_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=EVENTS)


def entity_table(rows: list[tuple[Any, Any, int]]) -> pa.Table:
    """Rows (origin, gate, minute)."""
    return pa.table(
        {
            "origin": pa.array([row[0] for row in rows], pa.string()),
            "gate": pa.array([row[1] for row in rows], pa.int64()),
            "at": pa.array([START + row[2] * MINUTE for row in rows], pa.timestamp("us", tz="UTC")),
        }
    )


def window_view(
    *, keys: bool, entity: tuple[str, ...] = ("origin",), windows: tuple[int, ...] = (3, 15), written: bool = False
) -> FeatureView:
    shapes = [
        ("count", None),
        ("count", "delay"),
        ("sum", "delay"),
        ("mean", "delay"),
        ("min", "delay"),
        ("max", "delay"),
        ("share", "late"),
        ("last", "delay"),
        ("distinct", "plane"),
        ("distinct", "delay"),
        ("time_since", None),
        ("time_since", "delay"),
        ("quantile", "delay"),
    ]
    features = tuple(
        Feature(
            name=f"{function}_{column or 'all'}_{window}",
            aggregation=Aggregation(
                function=function, column=column, window=window * MINUTE, quantile=0.3 if function == "quantile" else None
            ),
        )
        for window in windows
        for function, column in shapes
    )
    return FeatureView(
        name="delays",
        entity=entity,
        source="flights",
        event_timestamp="landed_at",
        event_key="flight" if keys else None,
        created_timestamp="written_at" if written else None,
        features=features,
    )


def latest_view(*, keys: bool, ttl: timedelta | None, entity: tuple[str, ...] = ("origin",), written: bool = False) -> FeatureView:
    return FeatureView(
        name="last",
        entity=entity,
        source="flights",
        event_timestamp="landed_at",
        event_key="flight" if keys else None,
        created_timestamp="written_at" if written else None,
        ttl=ttl,
        features=(Feature(name="last_delay", column="delay"), Feature(name="plane", kind="string")),
    )


def plan_of(view: FeatureView, **changes: Any) -> ViewPlan:
    kinds = {"origin": "string", "gate": "long"}
    fields = {
        "view": view,
        "version": 1,
        "namespace": f"features/default/{view.name}@1",
        "key_kinds": tuple(kinds[name] for name in view.entity),
        "event_key_kind": "string" if view.event_key else None,
        "wanted": tuple(feature.name for feature in view.features),
        **changes,
    }
    return ViewPlan(**fields)


def by_brute_force(view: FeatureView, events: list[dict[str, Any]], key: tuple[Any, ...], at: datetime) -> dict[str, Any]:
    """What the features of an entity are at a moment, straight from the rule of time in views.py."""
    mine = [row for row in events if row["landed_at"] is not None and None not in key and tuple(row[name] for name in view.entity) == key]
    written = [row["landed_at"] if view.created_timestamp is None else row["written_at"] or row["landed_at"] for row in mine]
    order = sorted(range(len(mine)), key=lambda place: written[place]) if view.created_timestamp is not None else range(len(mine))
    mine = [mine[place] for place in order if view.created_timestamp is None or written[place] <= at]
    if view.event_key is not None:
        mine = list({row[view.event_key]: row for row in mine}.values())
    known = [row for row in mine if row["landed_at"] <= at]
    known.sort(key=lambda row: (row["landed_at"], row["flight"] if view.event_key else ""))
    if not view.windowed:
        if view.ttl is not None:
            known = [row for row in known if row["landed_at"] > at - view.ttl]
        last = known[-1] if known else {}
        return {feature.name: last.get(feature.reads) for feature in view.features}
    found = {}
    for feature in view.features:
        aggregation = feature.aggregation
        assert aggregation is not None
        window = [row for row in known if row["landed_at"] > at - aggregation.window]
        column = aggregation.column
        there = [row for row in window if column is None or (row[column] is not None and row[column] == row[column])]
        if aggregation.function == "time_since":
            found[feature.name] = (at - there[-1]["landed_at"]).total_seconds() if there else None
        elif aggregation.function == "last":
            # Of several at one time the greatest value is the last one: an order that does not depend on how they arrived.
            found[feature.name] = max((row["landed_at"], float(row[column])) for row in there)[1] if there else None
        elif aggregation.function == "distinct":
            found[feature.name] = float(len({row[column] for row in there}))
        else:
            found[feature.name] = summary(aggregation.function, [1.0 if column is None else float(row[column]) for row in there])
    return found


def summary(function: str, values: list[float]) -> float | None:
    if function == "count":
        return float(len(values))
    if function == "sum":
        return math.fsum(values)
    if not values:
        return None
    if function == "quantile":
        return float(np.quantile(values, 0.3))
    mean = math.fsum(values) / len(values)
    return {"mean": mean, "share": mean, "min": min(values), "max": max(values)}[function]


def same(found: Any, expected: Any) -> bool:
    """Return whether two feature values are equal; sums may differ by rounding, NaN and None both mean missing."""
    gone = [value is None or value != value for value in (found, expected)]
    if any(gone):
        return all(gone)
    return found == expected if isinstance(expected, str) else math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-9)
