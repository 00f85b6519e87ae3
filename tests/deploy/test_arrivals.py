"""Rows that arrive go both ways: what is online is what history says, in whatever order they came, and nothing counts twice."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import world
from tests.features import worlds as features
from tests.services import free_port
from tidemill.core.codec import encode
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.datasets.contracts import ColumnRule, Contract
from tidemill.datasets.intake import ContractBroken, RowsRefused, set_contract
from tidemill.datasets.keys import set_key
from tidemill.datasets.marks import AlreadyTaken, Mark, marked_datasets
from tidemill.datasets.versions import add, list_versions, open_table
from tidemill.deploy.arrivals import OWED, arrive, settle_owed
from tidemill.deploy.ingest import IngestRequest, ingest
from tidemill.features.applied import apply
from tidemill.features.history import history
from tidemill.features.lookup import features_get
from tidemill.features.materialize import materialize
from tidemill.features.views import FeatureService, FeatureView
from tidemill.govern.workspace import Workspace
from tidemill.store.table import open_topic

KEYED = (features.window_view(keys=True), features.latest_view(keys=True, ttl=None))
UNKEYED = replace(features.window_view(keys=False), name="unkeyed")
ORIGINS = ("EWR", "JFK", "LGA")


def prepared(ws: Workspace, *views: FeatureView) -> Workspace:
    """A workspace with a dataset of flights without rows, told apart by flight, and views on it in the service all."""
    add(ws, "flights", features.events_table([]))
    set_key(ws, "flights", ["flight"])
    service = FeatureService(name="all", features=tuple(f"{view.name}:*" for view in views))
    apply(ws, list(views), [service])
    return ws


def told(row: dict[str, Any]) -> dict[str, Any]:
    """An event as it is in JSON."""
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}


def check_same(ws: Workspace, service: str = "all") -> None:
    """Compare the look-up with history at some moments from now on."""
    for later in (0, 2, 7, 20):
        at = ws.clock.now() + timedelta(minutes=later)
        entities = pa.table({"origin": list(ORIGINS), "at": pa.array([at] * len(ORIGINS), pa.timestamp("us", tz="UTC"))})
        offline = history(ws, entities, service, timestamp="at").to_pylist()
        online = features_get(ws, [{"origin": origin} for origin in ORIGINS], service, at=at).rows
        for before, found in zip(offline, online, strict=True):
            for name, value in found.features.items():
                assert features.same(value, before[name]), (name, later, value, before[name])


def test_online_is_what_history_says_whatever_the_order(ws: Workspace) -> None:
    prepared(ws, *KEYED)

    @settings(max_examples=15)
    @given(rows=features.event_rows(keys=True, max_size=25), seed=st.integers(0, 99))
    def check(rows: list[dict[str, Any]], seed: int) -> None:
        # Each example has flights of its own, and so entities of the ones before go on.
        mine = [{**row, "flight": f"{seed}-{ws.clock.now().timestamp()}-{row['flight']}"} for row in rows]
        random.Random(seed).shuffle(mine)
        world.tick(ws, minutes=3)
        for begin in range(0, len(mine), 7):
            portion = mine[begin : begin + 7]
            arrive(ws, "flights", list(map(told, portion)) if begin % 2 else features.events_table(portion))
            world.tick(ws, minutes=1)
        check_same(ws)

    world.tick(ws, minutes=20)
    check()


def test_events_of_a_topic_are_online_as_history_says_though_they_come_out_of_order(ws: Workspace, tmp_path: Path) -> None:
    prepared(ws, *KEYED)
    rng = random.Random(5)
    events = [
        {**features.event(f"F{number}", delay=rng.uniform(-9, 60)), "origin": rng.choice(ORIGINS),
         "landed_at": features.START + timedelta(seconds=rng.randrange(1200))}
        for number in range(60)
    ]  # fmt: skip
    topic = open_topic(f"file:{tmp_path}/log/landed")
    topic.append([("", encode(told(event))) for event in [*events, *rng.sample(events, 20)]])
    topic.close()
    world.tick(ws, minutes=20)
    done = ingest(ws, IngestRequest(dataset="flights", source=f"file:{tmp_path}/log/landed", rows=7, once=True))
    assert (done.new, done.duplicates) == (60, 20)
    check_same(ws)
    assert features_get(ws, [{"origin": "EWR"}], "all").rows[0].features["count_all_15"]


def test_what_comes_twice_counts_once_and_the_first_stays_on_both_sides(ws: Workspace) -> None:
    prepared(ws, *KEYED)
    world.tick(ws, minutes=5)
    first, other = features.event("F1", delay=5.0), features.event("F2", delay=7.0)
    taken, _ = arrive(ws, "flights", features.events_table([first]))
    assert (taken.new, taken.duplicates, taken.online, taken.not_online) == (1, 0, ("delays@1", "last@1"), ())
    taken, _ = arrive(ws, "flights", [told({**first, "delay": 99.0}), told(other)])
    assert (taken.new, taken.duplicates) == (1, 1)
    check_same(ws)
    assert features_get(ws, [{"origin": "EWR"}], "all").rows[0].features["sum_delay_15"] == 12.0
    for view in KEYED:
        materialize(ws, view.name)
        materialize(ws, view.name, full=True)
        check_same(ws)


def test_aggregations_without_an_event_key_are_left_to_materialize_and_told(ws: Workspace) -> None:
    prepared(ws, UNKEYED)
    world.tick(ws, minutes=5)
    for number in range(3):
        taken, _ = arrive(ws, "flights", [told(features.event(f"F{number}", delay=1.0))])
        assert (taken.online, taken.not_online) == ((), ("unkeyed@1",))
    materialize(ws, "unkeyed")
    arrive(ws, "flights", [told(features.event("F9", delay=1.0))])
    materialize(ws, "unkeyed")
    check_same(ws)
    assert features_get(ws, [{"origin": "EWR"}], "all").rows[0].features["count_all_15"] == 4.0


def test_without_a_key_rows_go_into_the_dataset_alone(ws: Workspace) -> None:
    add(ws, "flights", features.events_table([]))
    apply(ws, [KEYED[0]])
    taken, _ = arrive(ws, "flights", features.events_table([features.event("F1", delay=1.0)]))
    assert (taken.new, taken.online, taken.not_online) == (1, (), ())


def test_rows_without_what_views_tell_them_by_are_set_aside(ws: Workspace) -> None:
    add(ws, "flights", features.events_table([]))
    set_key(ws, "flights", ["origin", "landed_at"])
    apply(ws, [KEYED[0]])
    taken, misfits = arrive(ws, "flights", [told({**features.event("F1", delay=1.0), "flight": None})], on_bad="aside")
    assert (taken.new, taken.set_aside, misfits[0].reason) == (0, 1, "column 'flight' is null; expected a value in each row")


def test_an_online_store_that_is_gone_stops_nothing_and_gets_what_it_is_owed(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    with world.workspace(tmp_path / "home") as ws:
        prepared(ws, *KEYED)
    (tmp_path / "home" / "tidemill.toml").write_text(f'[settings]\nonline = "redis://127.0.0.1:{free_port()}/0"\n')
    with world.reopened(tmp_path / "home") as ws:
        for number in range(3):
            assert arrive(ws, "flights", [told(features.event(f"F{number}", delay=1.0))])[0].new == 1
        settle_owed(ws)
        assert marked_datasets(ws, OWED) == ["flights"]
    (tmp_path / "home" / "tidemill.toml").write_text("")
    with world.reopened(tmp_path / "home") as ws:
        world.tick(ws, minutes=5)
        settle_owed(ws)
        assert marked_datasets(ws, OWED) == []
        check_same(ws)
        assert features_get(ws, [{"origin": "EWR"}], "all").rows[0].features["count_all_15"] == 3.0


def test_a_caller_who_asks_again_gets_the_first_answer(any_ws: Workspace) -> None:
    table = pa.table({"id": [1, 2]})
    first, _ = arrive(any_ws, "events", table, once="a")
    assert arrive(any_ws, "events", table, once="a")[0] == first
    assert (first.new, len(list_versions(any_ws, "events"))) == (2, 1)
    assert arrive(any_ws, "events", table, once="b")[0].version != first.version
    world.tick(any_ws, days=8)
    arrive(any_ws, "events", table, once="c")
    assert arrive(any_ws, "events", table, once="a")[0].new == 2  # told for a week


def test_callers_at_once_count_each_row_once(any_ws: Workspace) -> None:
    set_key(any_ws, "events", ["id"])
    with ThreadPoolExecutor(4) as several:
        taken = list(several.map(lambda n: arrive(any_ws, "events", pa.table({"id": [n, n + 1]}))[0].new, range(8)))
        again = set(several.map(lambda _: arrive(any_ws, "events", pa.table({"id": [100]}), once="a")[0].new, range(4)))
    assert (sum(taken), again) == (9, {1})
    assert sorted(open_table(any_ws, "events")["id"].to_pylist()) == [*range(9), 100]


def test_a_place_that_another_has_moved_takes_nothing(any_ws: Workspace) -> None:
    mark = Mark(source="s", mark="m", before=None, told="1")
    arrive(any_ws, "events", pa.table({"id": [1]}), marks=[mark])
    for before in (None, "0"):
        with pytest.raises(AlreadyTaken, match="m of s was taken into dataset 'events' by somebody else"):
            arrive(any_ws, "events", pa.table({"id": [2]}), marks=[replace(mark, before=before, told="2")])
    arrive(any_ws, "events", pa.table({"id": [3]}), marks=[replace(mark, before="1", told="2")])
    assert open_table(any_ws, "events")["id"].to_pylist() == [1, 3]


def test_who_waits_for_an_answer_is_refused_as_a_whole(ws: Workspace) -> None:
    arrive(ws, "events", [{"id": 1, "x": 0.5}])
    with pytest.raises(RowsRefused, match=r"1 of 2 rows cannot be rows of dataset 'events' \(row 2: it lacks x\); nothing was added"):
        arrive(ws, "events", [{"id": 2, "x": 1}, {"id": 3}])
    set_key(ws, "events", ["id"])
    with pytest.raises(RowsRefused, match="row 1: column 'id' is null"):
        arrive(ws, "events", [{"id": None, "x": 1}])
    set_contract(ws, "events", Contract(columns=(ColumnRule(column="x", high=1),)))
    with pytest.raises(ContractBroken, match="x <= 1"):
        arrive(ws, "events", [{"id": 2, "x": 2}])
    assert arrive(ws, "events", [{"id": 1, "x": 2}])[0].duplicates == 1
    set_contract(ws, "events", Contract(columns=(ColumnRule(column="x", high=1),), on_violation="quarantine"))
    taken, _ = arrive(ws, "events", [{"id": 2, "x": 2}, {"id": 2, "x": 0}, {"id": 3}, {"id": 1, "x": 9}])
    assert (taken.new, taken.duplicates, taken.set_aside) == (1, 1, 2)  # the first good one of a key
    assert open_table(ws, "events").to_pylist() == [{"id": 1, "x": 0.5}, {"id": 2, "x": 0.0}]
    with pytest.raises(Invalid, match="have other columns than version"):
        arrive(ws, "events", pa.table({"y": [1]}))
