"""Searches: the same answers as looking at every run, on both engines, page by page; refusals that name the place."""

import math
import random
from collections.abc import Iterator

import pytest

from tests import world
from tests.catalogs import ENGINES, without_rows
from tidemill.core.clock import micros
from tidemill.core.filters import FilterRefused
from tidemill.core.pages import TokenRefused
from tidemill.govern.workspace import Workspace, create_project
from tidemill.tracking import search
from tidemill.tracking.batches import Metric, log_batch
from tidemill.tracking.experiments import (
    create_experiment,
    delete_experiment,
    delete_experiment_tag,
    ensure_default,
    find_experiment,
    keep_for,
    read_experiment,
    rename_experiment,
    restore_experiment,
    search_experiments,
    set_experiment_tags,
)
from tidemill.tracking.runs import Run, delete_run, start_run, update_run
from tidemill.tracking.search import count_runs, search_runs

COUNT = 60


@pytest.fixture(scope="module", params=ENGINES)
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Runs in two experiments with values, NaNs and gaps, some of them deleted; for tests that only look."""
    with without_rows(request.param, request) as url, world.workspace(tmp_path_factory.mktemp("many") / "home", catalog=url) as ws:
        fill(ws)
        yield ws


def fill(ws: Workspace) -> None:
    chance = random.Random(5)
    for number in range(COUNT):
        if chance.random() < 0.7:
            world.tick(ws, seconds=1)
        run = start_run(
            ws,
            "one" if number % 3 else "two",
            name=f"run {number % 7}",
            params={"depth": str(number % 4), "note": "x" * (300 if number % 5 == 0 else 3)},
            tags={"team": chance.choice(["Ada", "Bob", "ada"])} if number % 2 else {},
        )
        points = [Metric(key="auc", value=math.nan if number % 11 == 0 else (number * 7 % 23) / 10, step=number)] if number % 4 else []
        log_batch(ws, run.id, metrics=[*points, Metric(key="loss", value=float(number % 3))])
        if number % 6 == 0:
            update_run(ws, run.id, status="failed")
        if number % 10 == 9:
            delete_run(ws, run.id)


def everything(ws: Workspace) -> list[Run]:
    found = search_runs(ws, ids(ws), view="all", limit=1000).items
    assert len(found) == COUNT
    return list(found)


def ids(ws: Workspace) -> list[int]:
    return [item.id for item in search_experiments(ws).items]


def test_runs_come_newest_first_and_the_trash_apart(many: Workspace) -> None:
    runs = everything(many)
    assert runs == sorted(runs, key=lambda run: (-micros(run.started_at), run.id))
    assert {run.lifecycle for run in search_runs(many, ids(many)).items} == {"active"}
    assert {run.lifecycle for run in search_runs(many, ids(many), view="deleted").items} == {"deleted"}
    assert sum(count_runs(many, ids(many)).values()) == len(search_runs(many, ids(many)).items)


CONDITIONS = [
    ("metrics.auc > 0.9", lambda run: run.metrics.get("auc", math.nan) > 0.9),
    ("metrics.auc <= 0.9 AND params.depth = '2'", lambda run: run.metrics.get("auc", math.nan) <= 0.9 and run.params["depth"] == "2"),
    ("params.depth IN ('1', '3')", lambda run: run.params["depth"] in ("1", "3")),
    ("params.depth != '1' AND metrics.loss = 0", lambda run: run.params["depth"] != "1" and run.metrics["loss"] == 0),
    ("tags.team LIKE 'A%'", lambda run: run.tags.get("team", "").startswith("A")),
    ("tags.team ILIKE 'a%'", lambda run: run.tags.get("team", "").lower().startswith("a")),
    (f"params.note = '{'x' * 300}'", lambda run: len(run.params["note"]) == 300),
    ("params.note LIKE '%xxxx%'", lambda run: len(run.params["note"]) == 300),
    ("attributes.status = 'FAILED'", lambda run: run.status == "failed"),
    ("run_name LIKE 'run 3' AND tags.team != 'Bob'", lambda run: run.name == "run 3" and run.tags.get("team", "Bob") != "Bob"),
    ("params.depth NOT IN ('0') AND attributes.run_name != 'run 1'", lambda run: run.params["depth"] != "0" and run.name != "run 1"),
    ("metrics.none > 0", lambda run: False),
    ("metrics.auc != 0.7", lambda run: "auc" in run.metrics and run.metrics["auc"] != 0.7),
    ("metrics.auc > 0.5 AND metrics.auc < 1.5", lambda run: 0.5 < run.metrics.get("auc", math.nan) < 1.5),
    ("metrics.auc > 1 AND metrics.loss > 0 AND metrics.auc < 1", lambda run: False),
]


@pytest.mark.slow
@pytest.mark.parametrize("few", [0, 10, 2000])
@pytest.mark.parametrize(
    "order", ["", "metrics.auc DESC", "metrics.auc ASC", "params.depth DESC", "metrics.loss, metrics.auc DESC", "end_time"]
)
def test_a_search_finds_what_looking_at_every_run_finds(many: Workspace, order: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FEW", few)  # each way to the answer gives the same one
    monkeypatch.setattr(search, "WALK", 15)
    runs = [run for run in everything(many) if run.deleted_at is None]
    orders = [part.strip() for part in order.split(",") if part]
    for text, holds in CONDITIONS:
        expected = in_order([run for run in runs if holds(run)], orders)
        assert [run.id for run in search_runs(many, ids(many), filter=text, order_by=orders, limit=1000).items] == expected, text
        assert paged(many, text, orders, 7) == expected, text


def in_order(runs: list[Run], orders: list[str]) -> list[str]:
    def place(run: Run) -> tuple[object, ...]:
        parts: list[object] = []
        for order in orders:
            name, _, direction = order.partition(" ")
            value = {
                "metrics.auc": run.metrics.get("auc"),
                "metrics.loss": run.metrics.get("loss"),
                "params.depth": run.params.get("depth"),
                "end_time": micros(run.ended_at) if run.ended_at else None,
            }[name]
            sign = -1 if direction == "DESC" else 1
            rank = 2 if value is None else 1 if value != value else 0
            number = 0 if rank else sign * float(value)  # type: ignore[arg-type]
            parts += [rank, number]
        return (*parts, -micros(run.started_at), run.id)

    return [run.id for run in sorted(runs, key=place)]


def paged(ws: Workspace, text: str, orders: list[str], size: int) -> list[str]:
    found: list[str] = []
    token = None
    for _ in range(COUNT):
        page = search_runs(ws, ids(ws), filter=text, order_by=orders, limit=size, page_token=token)
        found += [run.id for run in page.items]
        token = page.next
        if token is None:
            return found
    raise AssertionError("the pages never end")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("metrics.auc = 'high'", "'auc' is a number; expected a number without quotes"),
        ("metrics.auc LIKE 'x'", "'auc' is a number, which LIKE does not compare"),
        ("params.depth > '3'", "'depth' is text, which > does not compare"),
        ("params.depth = 3", "'depth' is text; expected text in quotes"),
        ("colour = 'red'", "'colour' is no attribute; expected one of run_id, run_name"),
        ("metrics.auc IS NULL", "IS NULL cannot be asked of a metric"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(ws: Workspace, text: str, problem: str) -> None:
    with pytest.raises(FilterRefused, match=problem):
        search_runs(ws, [1], filter=text)


def test_an_order_that_makes_no_sense_is_refused(ws: Workspace) -> None:
    with pytest.raises(FilterRefused, match="runs cannot be ordered by 'colour'"):
        search_runs(ws, [1], order_by=["colour"])
    with pytest.raises(FilterRefused, match="contains duplicate fields"):
        search_runs(ws, [1], order_by=["metrics.a", "metrics.a DESC"])


def test_a_token_of_another_search_is_refused(many: Workspace) -> None:
    token = search_runs(many, ids(many), limit=3).next
    assert token is not None
    for other in ({"filter": "metrics.loss > 0"}, {"order_by": ["metrics.loss"]}, {"view": "all"}):
        with pytest.raises(TokenRefused, match="not one that this search gave"):
            search_runs(many, ids(many), page_token=token, **other)


def test_experiments_are_made_renamed_tagged_and_found(any_ws: Workspace) -> None:
    ensure_default(any_ws)
    ensure_default(any_ws)
    assert [(item.id, item.name) for item in search_experiments(any_ws).items] == [(0, "Default")]
    made = create_experiment(any_ws, "delay", tags={"team": "a"})
    world.tick(any_ws, seconds=1)
    other = create_experiment(any_ws, "other", location="s3://bucket/x")
    set_experiment_tags(any_ws, made.id, {"team": "b", "note": "c"})
    delete_experiment_tag(any_ws, made.id, "note")
    assert rename_experiment(any_ws, made.id, "late").tags == {"team": "b"}
    assert keep_for(any_ws, made.id, 30).keep_days == 30
    assert [item.name for item in search_experiments(any_ws, filter="tags.team = 'b'").items] == ["late"]
    assert [item.name for item in search_experiments(any_ws, filter="name ILIKE 'L%'").items] == ["late"]
    assert [item.id for item in search_experiments(any_ws, order_by=["name DESC"]).items] == [other.id, made.id, 0]
    before = micros(other.created_at) / 1000
    assert [item.id for item in search_experiments(any_ws, filter=f"creation_time >= {before}").items] == [other.id]
    first = search_experiments(any_ws, limit=2)
    assert [item.id for item in search_experiments(any_ws, limit=2, page_token=first.next).items] == [0]


def test_a_deleted_name_is_free_at_once(any_ws: Workspace) -> None:
    old = create_experiment(any_ws, "delay")
    with pytest.raises(Exception, match="experiment 'delay' exists already"):
        create_experiment(any_ws, "delay")
    delete_experiment(any_ws, old.id)
    assert find_experiment(any_ws, "delay") == read_experiment(any_ws, old.id)
    new = create_experiment(any_ws, "delay")
    assert find_experiment(any_ws, "delay") == new
    with pytest.raises(Exception, match="experiment 'delay' exists already"):
        restore_experiment(any_ws, old.id)
    rename_experiment(any_ws, new.id, "newer")
    assert restore_experiment(any_ws, old.id).deleted_at is None
    assert [item.id for item in search_experiments(any_ws, view="all", order_by=["experiment_id"]).items] == [old.id, new.id]


def test_experiments_of_another_project_are_not_seen(any_ws: Workspace) -> None:
    mine = create_experiment(any_ws, "delay")
    create_project(any_ws, "apart")
    theirs = create_experiment(any_ws.acting(any_ws.actor, "apart"), "delay")
    assert theirs.id != mine.id
    assert [item.id for item in search_experiments(any_ws).items] == [mine.id]


def test_runs_of_some_kinds_are_turned_page_by_page(any_ws: Workspace) -> None:
    kinds = ("run", "step", "pipeline", "step", "trial", "run")
    runs = [start_run(any_ws, "a", name=kind, kind=kind) for kind in kinds]
    experiment = runs[0].experiment_id
    first = search_runs(any_ws, [experiment], kinds=("run", "pipeline"), limit=2, details="none")
    rest = search_runs(any_ws, [experiment], kinds=("run", "pipeline"), limit=2, page_token=first.next, details="none")
    assert {run.id for run in (*first.items, *rest.items)} == {runs[place].id for place in (0, 2, 5)}
    assert rest.next is None
    with pytest.raises(TokenRefused, match="not one that this search gave"):
        search_runs(any_ws, [experiment], limit=2, page_token=first.next)
