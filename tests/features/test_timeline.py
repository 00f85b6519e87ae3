"""The point-in-time join against brute force, and what it refuses."""

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.features import worlds
from tests.features.worlds import MINUTE, START
from tidemill.core.errors import Invalid
from tidemill.features import timeline
from tidemill.features.keys import AskingRows
from tidemill.features.timeline import join
from tidemill.features.views import Aggregation, Feature, FeatureView

questions = st.lists(st.tuples(worlds.origins, worlds.gates, st.integers(-2, 60)), max_size=25)
entities = st.sampled_from([("origin",), ("gate",), ("origin", "gate")])


def look_up(view: FeatureView, events: pa.Table, rows: pa.Table, *, timestamp: str) -> Any:
    return timeline.look_up(view, events, AskingRows(rows, view.entity, timestamp))


def check(view: FeatureView, events: list[dict[str, Any]], rows: list[tuple[Any, Any, int]]) -> None:
    table = worlds.entity_table(rows)
    found = look_up(view, worlds.events_table(events), table, timestamp="at")
    for number, row in enumerate(table.to_pylist()):
        expected = worlds.by_brute_force(view, events, tuple(row[name] for name in view.entity), row["at"])
        for name, value in expected.items():
            assert worlds.same(found[name][number].as_py(), value), (name, row)


@pytest.mark.slow
@given(st.data(), questions, entities, st.booleans(), st.booleans())
def test_aggregations_agree_with_brute_force(
    data: st.DataObject, rows: list[Any], entity: tuple[str, ...], keys: bool, written: bool
) -> None:
    check(worlds.window_view(keys=keys, entity=entity, written=written), data.draw(worlds.event_rows(keys=keys)), rows)


@pytest.mark.slow
@given(st.data(), questions, entities, st.booleans(), st.sampled_from([None, 5 * MINUTE, 30 * MINUTE]), st.booleans())
def test_latest_values_agree_with_brute_force(
    data: st.DataObject, rows: list[Any], entity: tuple[str, ...], keys: bool, ttl: timedelta | None, written: bool
) -> None:
    check(worlds.latest_view(keys=keys, ttl=ttl, entity=entity, written=written), data.draw(worlds.event_rows(keys=keys)), rows)


@pytest.mark.slow
@given(worlds.event_rows(keys=True, corrections=False), questions, st.integers(1, 40))
def test_events_after_a_row_do_not_reach_it(events: list[dict[str, Any]], rows: list[Any], minute: int) -> None:
    """No value is newer than its row: whatever happens later, the answer is the same."""
    table = worlds.entity_table([row for row in rows if row[2] <= minute])
    known = [row for row in events if row["landed_at"] is not None and row["landed_at"] <= START + minute * MINUTE]
    for view in (worlds.window_view(keys=True), worlds.latest_view(keys=True, ttl=None)):
        one, other = (look_up(view, worlds.events_table(each), table, timestamp="at") for each in (events, known))
        for name in one:
            assert repr(one[name].to_pylist()) == repr(other[name].to_pylist())


@pytest.mark.slow
@given(worlds.event_rows(keys=True, corrections=False), st.randoms(use_true_random=False))
@example([worlds.event("F1", delay=0.0), worlds.event("F2", delay=-0.0)], Random(1))
@example([worlds.event("F1", delay=-0.0), worlds.event("F2", delay=0.0)], Random(1))
def test_the_order_in_which_keyed_events_lie_changes_no_bit(events: list[dict[str, Any]], random: Any) -> None:
    rows = worlds.entity_table([(origin, 1, minute) for origin in ("EWR", "JFK") for minute in range(0, 50, 5)])
    shuffled = list(events)
    random.shuffle(shuffled)
    for view in (worlds.window_view(keys=True), worlds.latest_view(keys=True, ttl=None)):
        one, other = (look_up(view, worlds.events_table(each), rows, timestamp="at") for each in (events, shuffled))
        for name in one:
            left, right = one[name].to_numpy(zero_copy_only=False), other[name].to_numpy(zero_copy_only=False)
            assert left.tobytes() == right.tobytes() if left.dtype != object else left.tolist() == right.tolist()


def test_rows_keep_their_number_and_order() -> None:
    rows = worlds.entity_table([("LGA", 2, 9), ("XXX", 1, 5), (None, None, 1), ("LGA", 2, 9)])
    events = worlds.events_table(
        [{"origin": "LGA", "gate": 1, "landed_at": START, "flight": "F1", "delay": 7.0, "late": False, "plane": "A320"}]
    )
    view = worlds.latest_view(keys=False, ttl=None)
    joined = join(rows, [view], {"flights": events}, timestamp="at")
    assert joined.select(rows.column_names).equals(rows)
    assert joined["plane"].to_pylist() == ["A320", None, None, "A320"]
    assert np.isnan(joined["last_delay"].to_pylist()[1])


def test_an_event_counts_from_its_moment_on_and_until_the_window_has_passed() -> None:
    events = worlds.events_table([{"origin": "EWR", "landed_at": START + 10 * MINUTE, "flight": "F", "delay": 4.0}])
    rows = worlds.entity_table([("EWR", 1, minute) for minute in (9, 10, 12, 13)])
    found = look_up(worlds.window_view(keys=True), events, rows, timestamp="at")
    assert found["count_all_3"].to_pylist() == [0, 1, 1, 0]
    found = look_up(worlds.latest_view(keys=True, ttl=3 * MINUTE), events, rows, timestamp="at")
    assert [value == 4.0 for value in found["last_delay"].to_pylist()] == [False, True, True, False]


def test_ties_go_to_the_greatest_event_key_else_to_the_last_row() -> None:
    events = worlds.events_table(
        [{"origin": "EWR", "landed_at": START, "flight": flight, "delay": delay} for flight, delay in (("B", 1.0), ("C", 2.0), ("A", 3.0))]
    )
    rows = worlds.entity_table([("EWR", 1, 5)])
    assert look_up(worlds.latest_view(keys=True, ttl=None), events, rows, timestamp="at")["last_delay"].to_pylist() == [2.0]
    assert look_up(worlds.latest_view(keys=False, ttl=None), events, rows, timestamp="at")["last_delay"].to_pylist() == [3.0]


def test_time_zones_and_units_do_not_matter() -> None:
    view = worlds.window_view(keys=False)
    moment = datetime(2013, 6, 1, 0, 10, tzinfo=UTC)
    for unit, zone in (("s", "UTC"), ("ms", "America/New_York"), ("ns", "Asia/Tokyo")):
        events = worlds.events_table([{"origin": "EWR", "landed_at": moment, "delay": 1.0}])
        events = events.set_column(2, "landed_at", events["landed_at"].cast(pa.timestamp(unit, tz=zone)))
        assert look_up(view, events, worlds.entity_table([("EWR", 1, 11)]), timestamp="at")["count_all_3"].to_pylist() == [1]


@pytest.mark.parametrize("rows", [[], [("EWR", 1, 5)]])
def test_no_events_at_all_is_an_answer_too(rows: list[Any]) -> None:
    for view in (worlds.window_view(keys=True), worlds.latest_view(keys=True, ttl=MINUTE)):
        check(view, [], rows)


def test_whole_numbers_sum_alike_over_few_and_many_rows() -> None:
    """The fast path for whole numbers and the slow one for all others agree."""
    rng = np.random.default_rng(0)
    events = worlds.events_table(
        [
            {"origin": "EWR", "landed_at": START + int(m) * MINUTE, "flight": str(n), "delay": float(d), "late": d > 15}
            for n, (m, d) in enumerate(zip(rng.integers(0, 2000, 3000), rng.integers(-30, 60, 3000), strict=True))
        ]
    )
    moments = rng.integers(0, 2000, 400).tolist()
    view = worlds.window_view(keys=True, windows=(30, 500))
    many = look_up(view, events, worlds.entity_table([("EWR", 1, m) for m in moments]), timestamp="at")
    few = look_up(view, events, worlds.entity_table([("EWR", 1, m) for m in moments[:50]]), timestamp="at")
    for name in many:
        assert many[name].to_numpy()[:50].tobytes() == few[name].to_numpy().tobytes()


def feature_view(**changes: Any) -> FeatureView:
    feature = Feature(name="n", aggregation=Aggregation(function="count", window=MINUTE))
    return FeatureView(
        **{"name": "v", "entity": ("origin",), "source": "flights", "event_timestamp": "landed_at", "features": (feature,), **changes}
    )


@pytest.mark.parametrize(
    ("view", "entities", "message"),
    [
        (feature_view(entity=("tower",)), {}, "have no join key 'tower'"),
        (feature_view(entity=("tower",)), {"tower": True}, "no column tower"),
        (feature_view(event_timestamp="when"), {}, "no column when"),
        (feature_view(), {"drop": "origin"}, "have no join key 'origin'"),
        (feature_view(), {"drop": "at"}, "no time column 'at'"),
        (feature_view(), {"naive": True}, "time zone"),
        (feature_view(), {"gap": True}, "1 of the entity rows have no 'at'"),
        (feature_view(entity=("gate",)), {"text": True}, "whole numbers, on both sides"),
        (feature_view(features=(Feature(name="plane"),)), {}, "expected numbers"),
    ],
)
def test_what_cannot_be_joined_is_refused(view: FeatureView, entities: dict[str, Any], message: str) -> None:
    rows = worlds.entity_table([("EWR", 1, 5)])
    if "drop" in entities:
        rows = rows.drop_columns([entities["drop"]])
    if "naive" in entities:
        rows = rows.set_column(2, "at", pa.array([datetime(2013, 6, 1)], pa.timestamp("us")))  # noqa: DTZ001
    if "gap" in entities:
        rows = rows.set_column(2, "at", pa.array([None], pa.timestamp("us", tz="UTC")))
    if "tower" in entities:
        rows = rows.append_column("tower", pa.array(["north"]))
    if "text" in entities:
        rows = rows.set_column(1, "gate", pa.array(["one"]))
    events = worlds.events_table([{"origin": "EWR", "gate": 1, "landed_at": START, "plane": "A320"}])
    with pytest.raises(Invalid, match=message):
        look_up(view, events, rows, timestamp="at")


def test_a_feature_does_not_overwrite_a_column_of_the_rows() -> None:
    rows = worlds.entity_table([("EWR", 1, 5)]).append_column("plane", pa.array(["mine"]))
    with pytest.raises(Invalid, match="rename one of them"):
        join(rows, [worlds.latest_view(keys=False, ttl=None)], {"flights": worlds.events_table([])}, timestamp="at")
