"""Filling the online store: only what came, all or nothing of an entity, and what history says whenever it is killed."""

import multiprocessing
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.features import worlds
from tests.features.worlds import MINUTE, START
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.datasets.versions import add, append
from tidemill.features.applied import apply
from tidemill.features.definitions import read_view, view_plan
from tidemill.features.keys import AskingRows
from tidemill.features.materialize import CHUNK_ENTITIES, materialize
from tidemill.features.online import ReadPlan, ViewPlan, push
from tidemill.features.timeline import look_up
from tidemill.govern.workspace import Workspace, open_workspace

pytestmark = pytest.mark.slow  # each makes a workspace

LATER = START + 60 * MINUTE


def row(flight: str, minute: int, **changes: Any) -> dict[str, Any]:
    return {**worlds.event(flight, delay=float(minute)), "landed_at": START + minute * MINUTE, **changes}


@pytest.fixture
def world(ws: Workspace) -> Workspace:
    add(ws, "flights", worlds.events_table([row("F1", 1), row("F2", 2)]))
    views = [worlds.window_view(keys=True), worlds.latest_view(keys=True, ttl=None)]
    unkeyed = [replace(view, name=f"{view.name}-unkeyed", event_key=None) for view in views]
    written = [replace(view, name=f"{view.name}-written", created_timestamp="written_at") for view in views]
    apply(ws, [*views, *unkeyed, *written])
    return ws


VIEWS = ("delays", "last", "delays-unkeyed", "last-unkeyed", "delays-written", "last-written")


def plan_of(ws: Workspace, view: str) -> ViewPlan:
    return view_plan(ws.project, read_view(ws, view))


def check(ws: Workspace, view: str, rows: list[dict[str, Any]], minute: int) -> None:
    """Compare what the store says at a minute with what history says of rows."""
    plan = plan_of(ws, view)
    asking = AskingRows(worlds.entity_table([("EWR", 1, minute), ("JFK", 1, minute)]), plan.view.entity, "at")
    expected = look_up(plan.view, worlds.events_table(rows), asking)
    read = ReadPlan(project=ws.project, services=("s@1",), views=(plan,), features=plan.wanted)
    for name, values in read.read(ws.online, {"origin": ["EWR", "JFK"]}, START + minute * MINUTE).items():
        assert repr(values.tolist()) == repr(expected[name].to_numpy(zero_copy_only=False).tolist()), name


@pytest.mark.parametrize("view", VIEWS)
def test_only_what_came_is_read_again(world: Workspace, view: str) -> None:
    rows = [row("F1", 1), row("F2", 2)]
    assert materialize(world, view, START + 5 * MINUTE).stored == 2
    again = materialize(world, view, START + 5 * MINUTE).stored
    assert again == (2 if view == "delays-unkeyed" else 0)  # what one cannot tell apart is done anew
    more = [row("F3", 4, origin="JFK"), row("F2", 2, delay=50.0, written_at=START + 6 * MINUTE)]
    append(world, "flights", worlds.events_table(more))
    done = materialize(world, view, START + 7 * MINUTE)
    assert done.stored == (4 if view == "delays-unkeyed" else 2)
    check(world, view, rows + more, 7)
    check(world, view, rows + more, 9)


@pytest.mark.parametrize("view", ["delays", "last", "delays-written", "last-written"])
def test_a_correction_that_lies_ahead_counts_as_history_has_it(world: Workspace, view: str) -> None:
    rows = [row("F1", 1), row("F2", 3), row("F2", 9, written_at=START + 4 * MINUTE)]
    add(world, "flights", worlds.events_table(rows))
    for minute in (5, 9, 12):
        materialize(world, view, START + minute * MINUTE)
        check(world, view, rows, minute)


def test_pushes_stay_unless_all_is_filled_anew(world: Workspace) -> None:
    materialize(world, "delays", START + 5 * MINUTE)
    plan, pushed = plan_of(world, "delays"), row("F9", 5, origin="JFK")
    push(world.online, plan, {name: [value] for name, value in pushed.items()}, now=START + 5 * MINUTE)
    materialize(world, "delays", START + 5 * MINUTE)
    check(world, "delays", [row("F1", 1), row("F2", 2), pushed], 6)
    materialize(world, "delays", START + 5 * MINUTE, full=True)
    check(world, "delays", [row("F1", 1), row("F2", 2)], 6)
    assert len(list(world.online.scan(plan.namespace))) == 1


def test_a_store_that_lost_its_values_is_filled_again(world: Workspace) -> None:
    materialize(world, "last", START + 5 * MINUTE)
    for namespace in (plan_of(world, "last").namespace, "features.materialized"):
        world.online.clear(namespace)
    assert materialize(world, "last", START + 5 * MINUTE).stored == 2
    check(world, "last", [row("F1", 1), row("F2", 2)], 5)


def test_what_an_earlier_version_stored_is_replaced(world: Workspace) -> None:
    plan = plan_of(world, "last")
    materialize(world, "last", START + 5 * MINUTE)
    ((key, _),) = world.online.scan(plan.namespace)
    world.online.put_many(plan.namespace, [(key, b"\x81\xa1e\x90")])
    materialize(world, "last", START + 5 * MINUTE, full=True)
    check(world, "last", [row("F1", 1), row("F2", 2)], 5)


@pytest.mark.parametrize("view", ["delays", "last-unkeyed"])
def test_parts_that_fit_into_memory_fill_the_same_store(world: Workspace, view: str) -> None:
    random = np.random.default_rng(3)
    rows = 30_000
    table = pa.table(
        {
            "origin": [f"A{number}" for number in random.integers(0, 300, rows)],
            "gate": random.integers(0, 9, rows),
            "landed_at": pa.array([START + timedelta(seconds=int(each)) for each in random.integers(0, 3000, rows)], worlds.EVENTS[2].type),
            "flight": [f"F{number}" for number in range(rows)],
            "delay": random.normal(size=rows),
            "late": random.random(rows) < 0.5,
            "plane": pa.nulls(rows, pa.string()),
            "written_at": pa.nulls(rows, worlds.EVENTS[2].type),
        }
    )
    add(world, "flights", table)
    namespace = plan_of(world, view).namespace
    whole = materialize(world, view, LATER, full=True)
    stored = dict(world.online.scan(namespace))
    strays = {name: [each[name] for each in (row("X", 1, origin=f"stray {n}") for n in range(20))] for name in worlds.EVENTS.names}
    push(world.online, plan_of(world, view), strays, now=START)
    assert len(dict(world.online.scan(namespace))) == len(stored) + 20
    told: list[tuple[int, int]] = []
    cut = materialize(world, view, LATER, full=True, memory_mb=2, watch=lambda done, total: told.append((done, total)))
    assert cut == whole
    assert dict(world.online.scan(namespace)) == stored
    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] == (rows, rows)


def test_memory_and_columns_that_are_not_there_are_named(world: Workspace) -> None:
    with pytest.raises(Invalid, match="memory_mb is 0"):
        materialize(world, "last", memory_mb=0)
    add(world, "other", pa.table({"origin": ["EWR"]}))
    with pytest.raises(Invalid, match="has no column landed_at"):
        materialize(world, "last", source="other")


def fill_and_die(home: Path, view: str) -> None:
    """Materialise in a process of its own, which kills itself after the first entities."""

    def watch(done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    materialize(open_workspace(home), view, LATER, watch=watch)


@pytest.mark.parametrize("view", ["delays", "delays-unkeyed"])
def test_killed_half_way_it_shows_what_was_or_what_is_and_ends_the_same(world: Workspace, view: str) -> None:
    count = 2 * CHUNK_ENTITIES
    before = [row(f"F{number}", 50, origin=f"A{number}") for number in range(count)]
    after = [{**each, "delay": 7.0, "landed_at": START + 55 * MINUTE} for each in before]
    add(world, "flights", worlds.events_table(before))
    namespace = plan_of(world, view).namespace
    materialize(world, view, START + 50 * MINUTE)
    old = dict(world.online.scan(namespace))
    add(world, "flights", worlds.events_table(after))
    child = multiprocessing.get_context("spawn").Process(target=fill_and_die, args=(world.home, view))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    half = dict(world.online.scan(namespace))
    materialize(world, view, LATER)
    new = dict(world.online.scan(namespace))
    assert len(new) == len(half) == count
    assert sum(half[key] == new[key] for key in new) == CHUNK_ENTITIES
    assert all(half[key] in (old[key], new[key]) for key in half)
    world.online.clear(namespace)
    materialize(world, view, LATER, full=True)
    assert dict(world.online.scan(namespace)) == new
