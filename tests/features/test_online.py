"""What the online store answers at a moment is what history says of it, exactly; and what a push refuses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.features import worlds
from tests.features.worlds import MINUTE, START
from tidemill.core.codec import decode, encode
from tidemill.core.errors import Corrupt, Invalid
from tidemill.features.keys import AskingRows
from tidemill.features.online import FeatureReader, ReadPlan, ViewPlan, push
from tidemill.features.timeline import look_up
from tidemill.features.views import Feature
from tidemill.store.online import OnlineStore
from tidemill.store.table import open_online

KEYS = [(origin, gate) for origin in ("EWR", "JFK", "XXX", None) for gate in (1, None)]


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnlineStore]:
    store = open_online("lmdb:online", base=Path(tmp_path_factory.mktemp("state")))
    yield store
    store.close()


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in worlds.EVENTS.names}


def read_plan(*views: ViewPlan) -> ReadPlan:
    return ReadPlan(project="default", services=("delay@1",), views=views, features=tuple(name for view in views for name in view.wanted))


def check_stream(online: OnlineStore, plan: ViewPlan, events: list[dict[str, Any]], batch: int) -> None:
    """Push events batch by batch as they happen; after each, look at that moment and later, and compare with history bit for bit."""
    online.clear(plan.namespace)
    reader = FeatureReader(read_plan(plan), online)
    for start in range(0, len(events), batch):
        seen = events[: start + batch]
        now = max((told_at(row) if plan.view.created_timestamp else row["landed_at"] for row in seen if row["landed_at"]), default=START)
        push(online, plan, columns(events[start : start + batch]), now=now)
        for later in (0, 1, 7):
            moment = now + later * MINUTE
            minute = (moment - START) // MINUTE
            rows = AskingRows(worlds.entity_table([(*key, minute) for key in KEYS]), plan.view.entity, "at")
            expected = look_up(plan.view, worlds.events_table(seen), rows)
            found = reader.read({"origin": [key[0] for key in KEYS], "gate": [key[1] for key in KEYS]}, moment)
            assert list(found) == list(plan.wanted)
            for name, values in found.items():
                wanted = expected[name].to_numpy(zero_copy_only=False)
                if values.dtype == object:
                    assert values.tolist() == wanted.tolist()
                else:
                    np.testing.assert_array_equal(values, wanted, err_msg=name)


def told_at(row: dict[str, Any]) -> Any:
    return row["written_at"] or row["landed_at"] or START


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["landed_at"] or START)


@pytest.mark.slow
@given(events=worlds.event_rows(keys=True), batch=st.integers(1, 7), entity=st.sampled_from([("origin",), ("origin", "gate")]))
def test_windows_online_equal_history_with_keys_and_corrections(
    online: OnlineStore, events: list[dict[str, Any]], batch: int, entity: tuple[str, ...]
) -> None:
    check_stream(online, worlds.plan_of(worlds.window_view(keys=True, entity=entity)), in_order(events), batch)


@pytest.mark.slow
@given(events=worlds.event_rows(keys=False), batch=st.integers(1, 7))
def test_windows_online_equal_history_without_keys(online: OnlineStore, events: list[dict[str, Any]], batch: int) -> None:
    check_stream(online, worlds.plan_of(worlds.window_view(keys=False)), events, batch)


@pytest.mark.slow
@given(
    events=worlds.event_rows(keys=True, corrections=False),
    batch=st.integers(1, 7),
    keys=st.booleans(),
    ttl=st.sampled_from([None, 5 * MINUTE]),
)
def test_latest_values_online_equal_history(online: OnlineStore, events: list[dict[str, Any]], batch: int, keys: bool, ttl: Any) -> None:
    check_stream(online, worlds.plan_of(worlds.latest_view(keys=keys, ttl=ttl)), in_order(events), batch)


@pytest.mark.slow
@given(events=worlds.event_rows(keys=True), batch=st.integers(1, 7), keys=st.booleans(), late=st.booleans())
def test_windows_online_hold_when_each_event_was_written(
    online: OnlineStore, events: list[dict[str, Any]], batch: int, keys: bool, late: bool
) -> None:
    if late:  # pushed in any order, so that older versions come after newer ones
        for row in events:
            row["written_at"] = max(told_at(row), row["landed_at"] or START)
    check_stream(
        online, worlds.plan_of(worlds.window_view(keys=keys, written=True)), events if late else sorted(events, key=told_at), batch
    )


@pytest.mark.slow
@given(
    events=worlds.event_rows(keys=True),
    batch=st.integers(1, 7),
    keys=st.booleans(),
    late=st.booleans(),
    ttl=st.sampled_from([None, 5 * MINUTE]),
)
def test_latest_values_online_hold_when_each_event_was_written(
    online: OnlineStore, events: list[dict[str, Any]], batch: int, keys: bool, late: bool, ttl: Any
) -> None:
    for row in events:  # a correction has other values, and the time that its event had
        row["landed_at"] = row["landed_at"] and START + int(row["flight"][1:]) * 7 % 41 * MINUTE
    view = worlds.latest_view(keys=keys, ttl=ttl, written=True)
    check_stream(online, worlds.plan_of(view), events if late else sorted(events, key=told_at), batch)


def test_versions_known_ahead_count_from_when_they_are_written(online: OnlineStore) -> None:
    for view in (worlds.window_view(keys=True, windows=(60,), written=True), worlds.latest_view(keys=True, ttl=None, written=True)):
        plan = worlds.plan_of(view)
        online.clear(plan.namespace)
        written = [START + minute * MINUTE for minute in (1, 10, 30)]
        rows = [event(0, delay=float(number), written_at=at, plane=f"P{number}") for number, at in enumerate(written)]
        push(online, plan, columns(rows), now=START)
        name = "sum_delay_60" if view.windowed else "last_delay"
        found = [FeatureReader(read_plan(plan), online).read({"origin": ["EWR"]}, START + minute * MINUTE) for minute in (0, 1, 11, 31)]
        np.testing.assert_array_equal([each[name][0] for each in found], [0.0 if view.windowed else np.nan, 0.0, 1.0, 2.0])
        push(online, plan, columns(rows[:1]), now=START + 40 * MINUTE)  # an older version does not override a newer one
        assert FeatureReader(read_plan(plan), online).read({"origin": ["EWR"]}, START + 41 * MINUTE)[name].tolist() == [2.0]


@pytest.mark.slow
@given(events=worlds.event_rows(keys=True, corrections=False), again=st.lists(st.integers(0, 39), max_size=10))
def test_pushing_events_again_changes_nothing(online: OnlineStore, events: list[dict[str, Any]], again: list[int]) -> None:
    now = START + 40 * MINUTE
    for view in (worlds.window_view(keys=True), worlds.latest_view(keys=True, ttl=None)):
        plan = worlds.plan_of(view)
        online.clear(plan.namespace)
        push(online, plan, columns(events), now=now)
        before = dict(online.scan(plan.namespace))
        push(online, plan, columns([events[number] for number in again if number < len(events)]), now=now)
        assert dict(online.scan(plan.namespace)) == before


def test_what_no_read_can_see_any_more_is_let_go(online: OnlineStore) -> None:
    plan = worlds.plan_of(worlds.window_view(keys=True, windows=(3,)))
    online.clear(plan.namespace)
    for minute in range(100):
        push(online, plan, columns([event(minute)]), now=START + minute * MINUTE)
    (blob,) = [value for _, value in online.scan(plan.namespace)]
    assert len(blob) == (1 + 3) * 8 * (1 + 3 + 1)  # a row that says so, and three events of a time, three columns and a key hash
    push(online, plan, columns([event(100)]), now=START + 500 * MINUTE)
    assert not list(online.scan(plan.namespace))


def test_a_forecast_counts_from_its_moment_on(online: OnlineStore) -> None:
    plan = worlds.plan_of(worlds.latest_view(keys=True, ttl=None))
    online.clear(plan.namespace)
    push(online, plan, columns([event(0, delay=1.0), event(10, delay=2.0), event(20, delay=3.0)]), now=START)
    reader = FeatureReader(read_plan(plan), online)
    found = [reader.read({"origin": ["EWR"]}, START + minute * MINUTE)["last_delay"][0] for minute in (0, 9, 10, 25)]
    assert found == [1.0, 1.0, 2.0, 3.0]


def event(minute: int, **changes: Any) -> dict[str, Any]:
    fields = {"origin": "EWR", "gate": 1, "landed_at": START + minute * MINUTE, "flight": f"F{minute}", "delay": 5.0, "late": False}
    return {**fields, "plane": "A320", **changes}


def test_rows_without_a_time_or_a_key_are_counted(online: OnlineStore) -> None:
    plan = worlds.plan_of(worlds.window_view(keys=True))
    outcome = push(online, plan, columns([event(0), event(1, landed_at=None), event(2, origin=None)]), now=START)
    assert (outcome.stored, outcome.skipped) == (1, 2)


def test_moments_may_come_as_text(online: OnlineStore) -> None:
    plan = worlds.plan_of(worlds.window_view(keys=True))
    online.clear(plan.namespace)
    push(online, plan, columns([event(0, landed_at="2013-05-31T20:00:00-04:00")]), now=START)
    assert read_plan(plan).read(online, {"origin": ["EWR"]}, START)["count_all_3"].tolist() == [1.0]


def test_a_service_draws_on_several_views_in_its_own_order(online: OnlineStore) -> None:
    windows, last = worlds.plan_of(worlds.window_view(keys=True)), worlds.plan_of(worlds.latest_view(keys=True, ttl=None))
    for plan in (windows, last):
        online.clear(plan.namespace)
        push(online, plan, columns([event(0)]), now=START)
    plan = ReadPlan(
        project="default",
        services=("delay@3",),
        views=(worlds.plan_of(windows.view, wanted=("mean_delay_3",)), worlds.plan_of(last.view, wanted=("plane",))),
        features=("plane", "mean_delay_3"),
    )
    plan = decode(encode(plan), ReadPlan)  # as a worker reads it from its configuration
    found = plan.read(online, {"origin": ["JFK", "EWR", "EWR"]}, START)
    assert list(found) == ["plane", "mean_delay_3"]
    assert found["plane"].tolist() == [None, "A320", "A320"]
    np.testing.assert_array_equal(found["mean_delay_3"], [np.nan, 5.0, 5.0])
    assert plan.entity == ("origin",)
    assert plan.read(online, {"origin": []}, START)["plane"].shape == (0,)


def test_very_long_keys_find_their_values(online: OnlineStore) -> None:
    plan = worlds.plan_of(worlds.latest_view(keys=True, ttl=None))
    push(online, plan, columns([event(0, origin="long" * 200)]), now=START)
    assert plan_value(online, plan, "long" * 200) == 5.0


def plan_value(online: OnlineStore, plan: ViewPlan, origin: str) -> float:
    return float(read_plan(plan).read(online, {"origin": [origin]}, START)["last_delay"][0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": 7}, "expected text"),
        ({"landed_at": 5}, "expected a moment"),
        ({"landed_at": "yesterday"}, "not understood"),
        ({"delay": "much"}, "not a number"),
        ({"flight": None}, "expected text"),
    ],
)
def test_ill_typed_rows_are_refused_whole(online: OnlineStore, changes: dict[str, Any], message: str) -> None:
    plan = worlds.plan_of(worlds.window_view(keys=True))
    online.clear(plan.namespace)
    with pytest.raises(Invalid, match=message):
        push(online, plan, columns([event(0), event(1, **changes)]), now=START)
    assert not list(online.scan(plan.namespace))


def test_missing_columns_and_keys_are_named(online: OnlineStore) -> None:
    plan = worlds.plan_of(worlds.window_view(keys=True, entity=("origin", "gate")))
    with pytest.raises(Invalid, match="no column flight, late"):
        push(online, plan, {name: values for name, values in columns([event(0)]).items() if name not in ("late", "flight")}, now=START)
    with pytest.raises(Invalid, match="differ in length"):
        push(online, plan, {**columns([event(0)]), "late": []}, now=START)
    with pytest.raises(Invalid, match="lack join key gate"):
        read_plan(plan).read(online, {"origin": ["EWR"]}, START)
    with pytest.raises(Invalid, match="expected a whole number"):
        read_plan(plan).read(online, {"origin": ["EWR"], "gate": ["one"]}, START)
    with pytest.raises(Invalid, match="differ in length"):
        read_plan(plan).read(online, {"origin": ["EWR"], "gate": [1, 2]}, START)


def test_text_is_expected_where_a_feature_is_text(online: OnlineStore) -> None:
    plan = worlds.plan_of(worlds.latest_view(keys=True, ttl=None))
    with pytest.raises(Invalid, match="expected text"):
        push(online, plan, columns([event(0, plane=320)]), now=START)


def test_damaged_bytes_are_noticed(online: OnlineStore) -> None:
    plan = worlds.plan_of(worlds.window_view(keys=True))
    online.clear(plan.namespace)
    push(online, plan, columns([event(0)]), now=START)
    ((key, blob),) = online.scan(plan.namespace)
    online.put_many(plan.namespace, [(key, blob[:-3])])
    with pytest.raises(Corrupt, match="not what was stored"):
        read_plan(plan).read(online, {"origin": ["EWR"]}, START)
    # What an earlier version stored is told apart, not misread.
    online.put_many(plan.namespace, [(key, b"\x01\x01\x03\x00\x01\x00\x00\x00" + bytes(8 * 9))])
    with pytest.raises(Corrupt, match="materialize delays --full"):
        read_plan(plan).read(online, {"origin": ["EWR"]}, START)
    online.clear(plan.namespace)
    last = worlds.plan_of(worlds.latest_view(keys=True, ttl=None))
    online.put_many(last.namespace, [(key, b"\x81\xa1e\x91\x93\x00\xc4\x01k\x91\x01")])
    with pytest.raises(Corrupt, match="materialize last --full"):
        read_plan(last).read(online, {"origin": ["EWR"]}, START)
    online.clear(last.namespace)


def test_latest_views_hand_out_their_features_by_column() -> None:
    view = worlds.latest_view(keys=False, ttl=None)
    assert view.columns == ("delay", "plane")
    assert Feature(name="plane", kind="string").reads == "plane"
