"""Monitors of feature views: what is stale, missing or different raises one alert that names the view, the feature and who reads it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests import world
from tests.deploy.worlds import model_on
from tidemill.core.clock import ManualClock
from tidemill.core.errors import Invalid
from tidemill.core.window import Window
from tidemill.datasets.versions import add, append
from tidemill.deploy.endpoints import create_endpoint
from tidemill.deploy.publish import publish
from tidemill.features.applied import apply
from tidemill.features.materialize import materialize
from tidemill.features.views import Aggregation, Feature, FeatureService, FeatureView
from tidemill.govern.workspace import Workspace
from tidemill.monitor.alerts import list_alerts
from tidemill.monitor.monitors import ModelReference, MonitorSpec, TableReference, WindowReference, create_monitor
from tidemill.monitor.service import run_due, run_monitor

START = world.START
DAY = timedelta(days=1)
VIEW = FeatureView(
    name="delays", entity=("carrier",), source="flights", event_timestamp="landed_at",
    features=tuple(
        Feature(name=f"{function}_3h", aggregation=Aggregation(function=function, column=column, window=timedelta(hours=3)))
        for function, column in (("mean", "delay"), ("count", None))
    ),
)  # fmt: skip
LAST = FeatureView(
    name="last", entity=("carrier",), source="flights", event_timestamp="landed_at",
    features=(Feature(name="delay"), Feature(name="plane", kind="string")),
)  # fmt: skip


def day(start: datetime, *, delay: float = 10.0, missing: float = 0.05, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    count = 400
    values = random.normal(delay, 3, count)
    return pa.table({
        "carrier": pa.array(np.array(["UA", "AA", "B6"])[random.integers(0, 3, count)]),
        "landed_at": pa.array([start + DAY * (number / count) for number in range(count)], pa.timestamp("us", tz="UTC")),
        "delay": pa.array([None if random.random() < missing else value for value in values], pa.float64()),
        "plane": pa.array(np.array(["A320", "B737"])[random.integers(0, 2, count)]),
    })  # fmt: skip


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Workspace]:
    """Four days of flights, a view of them, and a model that reads it."""
    ws = world.init(tmp_path)
    ws.clock = ManualClock(START)
    add(ws, "flights", pa.concat_tables([day(START + number * DAY, seed=number) for number in range(4)]))
    apply(ws, [VIEW, LAST], [FeatureService(name="delay", features=("delays:*",))])
    model_on(ws, "delay@1")
    create_endpoint(ws, "delay", "delay@1")
    publish(ws)
    yield ws
    ws.online.close()
    ws.close()


def look(ws: Workspace, number: int, **changes: Any) -> list[tuple[str, str]]:
    """Let a day come, look at it, and return the open alerts as (aspect, what)."""
    if changes:
        append(ws, "flights", day(START + number * DAY, seed=number, **changes))
    run_due(ws, until=START + (number + 1) * DAY)
    return [(alert.aspect, alert.what) for alert in list_alerts(ws, state="open", view="delays")]


def test_a_quiet_view_raises_nothing_and_a_shifted_one_one_alert(watched: Workspace) -> None:
    create_monitor(watched, MonitorSpec(name="fresh-delays", view="delays", every=DAY, start=START + 4 * DAY, effect_min=1.0))
    assert look(watched, 4, delay=10.0) == []
    ((aspect, what),) = look(watched, 5, delay=30.0)
    assert aspect == "data"
    assert what.startswith("feature view delays: mean_3h: mean ")
    assert what.endswith("; read by delay@1 at delay")
    assert look(watched, 6, delay=10.0) == []


def test_values_that_go_missing_are_named_with_their_shares(watched: Workspace) -> None:
    create_monitor(watched, MonitorSpec(name="last", view="last", every=DAY, start=START + 4 * DAY, columns=("delay",)))
    append(watched, "flights", day(START + 4 * DAY, seed=4, missing=0.6))
    (report,) = run_due(watched, until=START + 5 * DAY)
    (alert,) = list_alerts(watched, state="open")
    assert (alert.view, alert.endpoint, alert.aspect) == ("last", "", "data")
    assert "feature view last: delay: " in alert.what
    assert "missing before" in alert.what
    assert alert.what.endswith("read by no model that is served")
    assert {finding.subject for finding in report.moved} == {"delay"}


def test_a_view_that_gets_no_more_events_is_stale_until_it_does(watched: Workspace) -> None:
    create_monitor(
        watched, MonitorSpec(name="fresh-delays", view="delays", every=DAY, start=START + 4 * DAY, stale_after=1.5 * DAY, effect_min=1.0)
    )
    assert look(watched, 4) == []  # the newest event is a day old
    ((aspect, what),) = look(watched, 5)
    assert aspect == "freshness"
    assert what.removeprefix("feature view delays: delays: ") == (
        "newest event 2.0 days before the window's end (36.0 hours allowed); read by delay@1 at delay"
    )
    assert look(watched, 6, delay=10.0) == []


def test_what_was_not_materialized_for_long_is_stale_too(watched: Workspace) -> None:
    create_monitor(watched, MonitorSpec(name="fresh-delays", view="delays", every=DAY, start=START + 4 * DAY, effect_min=1.0))
    materialize(watched, "delays", START + DAY)
    ((aspect, what),) = look(watched, 4, delay=10.0)
    assert aspect == "freshness"
    assert "delays: materialized 4.0 days before the window's end (2.0 days allowed)" in what


def test_a_view_may_be_held_against_a_window_or_a_table(watched: Workspace) -> None:
    past = WindowReference(window=Window(start=START, end=START + DAY))
    create_monitor(watched, MonitorSpec(name="past", view="delays", every=DAY, start=START + 3 * DAY, reference=past))
    assert run_monitor(watched, "past").reference.startswith("delays@1 2013-")
    add(watched, "then", day(START, seed=9).rename_columns(["carrier", "landed_at", "mean_3h", "plane"]).drop_columns(["carrier", "plane"]))
    table = TableReference(table="dataset:then@1", timestamp="landed_at")
    create_monitor(
        watched, MonitorSpec(name="table", view="delays", every=DAY, start=START + 3 * DAY, reference=table, columns=("mean_3h",))
    )
    report = run_monitor(watched, "table")
    assert (report.reference, report.rows, report.reference_rows) == ("dataset:then@1", 400, 400)


def test_bad_monitors_are_refused(watched: Workspace) -> None:
    for fields, message in (
        ({"view": "delays", "endpoint": "delay"}, "expected one of the two"),
        ({}, "expected one of the two"),
        ({"endpoint": "delay", "stale_after": DAY}, "only for a feature view"),
        ({"view": "delays", "stale_after": -DAY}, "longer than zero"),
        ({"view": "delays", "reference": ModelReference()}, "against a model"),
    ):
        with pytest.raises(Invalid, match=message):
            MonitorSpec(name="bad", **fields)
    create_monitor(watched, MonitorSpec(name="odd", view="delays", every=DAY, start=START, columns=("delay",)))
    create_monitor(watched, MonitorSpec(name="gone", view="nothing", every=DAY, start=START))
    faults = {report.monitor: report.fault for report in run_due(watched, until=START + DAY)}
    assert faults["odd"] == "monitor 'odd' watches delay; feature view 'delays' has mean_3h, count_3h"
    assert "no feature view 'nothing'" in faults["gone"]
