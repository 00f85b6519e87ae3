"""History and materialisation through a workspace: the same answers offline and online, versions pinned, rows kept."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.features import worlds
from tests.features.worlds import MINUTE, START
from tidemill.catalog.events import read_events
from tidemill.catalog.lineage import walk
from tidemill.core.errors import Invalid, TidemillError
from tidemill.core.values import replace
from tidemill.core.window import Window
from tidemill.datasets.versions import add, append
from tidemill.features.applied import apply
from tidemill.features.definitions import compile_plan
from tidemill.features.history import SOURCES_KEY, entity_rows, history, history_to
from tidemill.features.materialize import materialize
from tidemill.features.online import push
from tidemill.features.views import FeatureService
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace

pytestmark = pytest.mark.slow  # each makes a workspace

SERVICE = FeatureService(name="delay", features=("last:*", "delays:mean_delay_15", "delays:count_all_15"))


def flights(start: int, end: int) -> pa.Table:
    return worlds.events_table(
        [
            {
                "origin": ("EWR", "JFK", "LGA")[n % 3],
                "gate": 1,
                "landed_at": START + n * MINUTE,
                "flight": f"F{n}",
                "delay": n / 7,
                "late": n % 5 == 0,
                "plane": "A320",
            }
            for n in range(start, end)
        ]
    )


@pytest.fixture
def world(ws: Workspace) -> Workspace:
    add(ws, "flights", flights(0, 40))
    apply(ws, [worlds.window_view(keys=True), worlds.latest_view(keys=True, ttl=10 * MINUTE)], [SERVICE])
    return ws


def test_history_adds_the_service_s_columns_to_the_rows_as_they_are(world: Workspace) -> None:
    rows = worlds.entity_table([("JFK", 1, 30), ("EWR", 1, 3), ("JFK", 2, 30), (None, 1, 5)])
    found = history(world, rows, "delay", timestamp="at")
    assert found.column_names == ["origin", "gate", "at", "last_delay", "plane", "mean_delay_15", "count_all_15"]
    assert found.select(rows.column_names).equals(rows)
    assert found["count_all_15"].to_pylist() == [5, 2, 5, 0]
    assert found["plane"].to_pylist() == ["A320", "A320", "A320", None]
    assert json.loads(found.schema.metadata[SOURCES_KEY]) == {"flights": "dataset:flights@1"}


def test_a_pinned_source_is_read_and_a_strange_one_refused(world: Workspace) -> None:
    append(world, "flights", flights(40, 80))
    rows = worlds.entity_table([("JFK", 1, 60)])
    assert history(world, rows, "delay", timestamp="at")["count_all_15"].to_pylist() == [5]
    assert history(world, rows, "delay", timestamp="at", sources={"flights": "flights@1"})["count_all_15"].to_pylist() == [0]
    with pytest.raises(Invalid, match="does not read trains"):
        history(world, rows, "delay", timestamp="at", sources={"trains": "trains@1"})


def test_what_was_materialized_and_pushed_answers_as_history_does(world: Workspace) -> None:
    until = START + 20 * MINUTE
    for view in ("delays", "last"):
        done = materialize(world, view, until)
        assert (done.source, done.until) == ("dataset:flights@1", until)
    compiled = compile_plan(world, "delay")
    for minute in range(20, 60, 4):
        now = START + minute * MINUTE
        fresh = flights(minute - 3, minute + 1).to_pydict() if 20 < minute <= 40 else {}
        for view in compiled.views if fresh else ():
            push(world.online, view, fresh, now=now)
        rows = worlds.entity_table([(origin, 1, minute) for origin in ("EWR", "JFK", "LGA", "XXX")])
        wanted = history(world, rows, "delay", timestamp="at", sources={"flights": append(world, "flights", flights(40, 41)).node[8:]})
        found = compiled.read(world.online, {"origin": rows["origin"].to_pylist()}, now)
        for name, values in found.items():
            np.testing.assert_array_equal(values, wanted[name].to_numpy(zero_copy_only=False))


def test_materializing_again_or_after_pushes_changes_nothing(world: Workspace) -> None:
    until = START + 20 * MINUTE
    materialize(world, "delays", until)
    plan = compile_plan(world, "delay").views[1]
    push(world.online, plan, flights(20, 24).to_pydict(), now=START + 23 * MINUTE)
    before = dict(world.online.scan(plan.namespace))
    materialize(world, "delays", START + 23 * MINUTE)
    assert dict(world.online.scan(plan.namespace)) == before
    with world.catalog.reading() as tx:
        assert len(read_events(tx, world.project, kinds=["view.materialized"])) == 2


def test_a_view_without_event_keys_is_filled_anew(world: Workspace) -> None:
    apply(world, [replace(worlds.window_view(keys=False), name="unkeyed")])
    first = materialize(world, "unkeyed", START + 20 * MINUTE)
    again = materialize(world, "unkeyed", START + 20 * MINUTE)
    assert first == again
    assert first.stored == 15


def test_nothing_that_happened_after_until_goes_online(world: Workspace) -> None:
    assert materialize(world, "last", START + 3 * MINUTE).stored == 4
    assert materialize(world, "last").stored == 1  # the clock stands at the first minute


def test_only_who_may_write_materializes(world: Workspace) -> None:
    with pytest.raises(ActionRefused, match=r"features\.write"):
        materialize(world.acting(replace(world.actor, role="viewer"), world.project), "last")


def test_history_spares_the_caller_no_missing_key(world: Workspace) -> None:
    rows = worlds.entity_table([("JFK", 1, 30)])
    with pytest.raises(Invalid, match="no join key 'origin'"):
        history(world, rows.drop_columns(["origin"]), "delay", timestamp="at")
    with pytest.raises(Invalid, match="no time column 'event_timestamp'"):
        history(world, rows, "delay")


@pytest.mark.parametrize("given", ["table", "files", "dataset"])
def test_features_go_to_a_file_as_they_come_back_in_memory(world: Workspace, tmp_path: Path, given: str) -> None:
    rows = worlds.entity_table([("JFK", 1, 30), ("EWR", 1, 3), ("JFK", 2, 30), (None, 1, 5)])
    pq.write_table(rows, tmp_path / "rows.parquet")
    add(world, "rows", rows)
    asked = {"table": rows, "files": [tmp_path / "rows.parquet"], "dataset": "rows@1"}[given]
    done = history_to(world, asked, "delay", tmp_path / "out" / "features.parquet", timestamp="at", memory_mb=1)
    assert (done.service, done.rows, done.sources, done.dataset) == ("delay@1", 4, {"flights": "dataset:flights@1"}, None)
    found, expected = pq.read_table(str(done.path)), history(world, rows, "delay", timestamp="at")
    assert found.schema.metadata[SOURCES_KEY] == expected.schema.metadata[SOURCES_KEY]
    assert repr(found.to_pylist()) == repr(expected.to_pylist())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["features.parquet"]


def test_features_become_a_dataset_that_knows_what_it_was_made_of(world: Workspace) -> None:
    add(world, "rows", worlds.entity_table([("JFK", 1, 30), ("EWR", 1, 3)]))
    done = history_to(world, "rows", "delay", "training", timestamp="at")
    assert (done.dataset, done.rows) == ("training@1", 2)
    with world.catalog.reading() as tx:
        origins = {edge.source for edge in walk(tx, world.project, "dataset:training@1", direction="upstream", depth=1)}
    assert origins == {"dataset:rows@1", "dataset:flights@1", "service:delay@1"}
    assert history_to(world, "rows", "delay", "training", timestamp="at").dataset == "training@1"  # the same content


def test_nothing_is_written_when_something_is_wrong(world: Workspace, tmp_path: Path) -> None:
    rows = worlds.entity_table([("JFK", 1, 30)])
    for asked, to, more, message in (
        (rows, tmp_path / "out.parquet", {}, "no time column 'event_timestamp'"),
        (rows, tmp_path / "out.parquet", {"timestamp": "at", "memory_mb": 0}, "expected at least 1"),
        ([tmp_path / "none.parquet"], tmp_path / "out.parquet", {}, "there is no file"),
        (rows, "no/name", {"timestamp": "at"}, "not usable"),
        (rows, tmp_path / "out.parquet", {"timestamp": "at", "executor": "moon"}, "'moon' is not known"),
    ):
        with pytest.raises(TidemillError, match=message):
            history_to(world, asked, "delay", to, **more)
    assert not (tmp_path / "out.parquet").exists()


def test_rows_are_made_where_there_are_none(world: Workspace) -> None:
    window = Window(start=START + 3 * MINUTE, end=START + 8 * MINUTE)
    found = entity_rows(world, "delay", window, timestamp="at")
    assert [(row["origin"], (row["at"] - START) // MINUTE) for row in found.to_pylist()] == [
        ("EWR", 3), ("JFK", 4), ("LGA", 5), ("EWR", 6), ("JFK", 7),
    ]  # fmt: skip
    assert history(world, found, "delay", timestamp="at")["count_all_15"].to_pylist() == [2, 2, 2, 3, 3]
    often = entity_rows(world, "delay", Window(start=START, end=START + 3 * MINUTE), every=2 * MINUTE)
    assert often.column_names == ["origin", "event_timestamp"]
    assert [(row["origin"], (row["event_timestamp"] - START) // MINUTE) for row in often.to_pylist()] == [
        (origin, minute) for minute in (0, 2) for origin in ("EWR", "JFK", "LGA")
    ]
    with pytest.raises(Invalid, match="longer than zero"):
        entity_rows(world, "delay", window, every=0 * MINUTE)
    apply(world, [replace(worlds.latest_view(keys=True, ttl=None, entity=("gate",)), name="gates")])
    apply(world, [], [FeatureService(name="mixed", features=("delays:count_all_3", "gates:last_delay"))])
    with pytest.raises(Invalid, match="different join keys"):
        entity_rows(world, "mixed", window)
