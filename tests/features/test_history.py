"""History and materialisation through a workspace: the same answers offline and online, versions pinned, rows kept."""

import json

import numpy as np
import pyarrow as pa
import pytest

from tests.features import worlds
from tests.features.worlds import MINUTE, START
from tidemill.catalog.events import read_events
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.datasets.versions import add, append
from tidemill.features.definitions import apply, compile_plan
from tidemill.features.history import SOURCES_KEY, history
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
