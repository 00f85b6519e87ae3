"""The trash: what is deleted is there until its time is up, can be had back until then, and is gone from every table after."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import BigInteger, Integer, select

from tests import world
from tidemill.catalog.schema import METADATA
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.tracking import trash
from tidemill.tracking.batches import Metric, Series, log_batch, log_series
from tidemill.tracking.experiments import (
    ExperimentNotFound,
    create_experiment,
    delete_experiment,
    find_experiment,
    keep_for,
    read_experiment,
    restore_experiment,
)
from tidemill.tracking.files import keep_file
from tidemill.tracking.inputs import DatasetInput, InputDataset, ModelOutput, log_inputs, log_outputs
from tidemill.tracking.logged_models import (
    LoggedModelNotFound,
    create_logged_model,
    delete_logged_model,
    read_logged_model,
    restore_logged_model,
    set_model_tags,
)
from tidemill.tracking.runs import RUNS, RunNotFound, delete_run, end_run, list_runs, log_artifact, read_run, start_run
from tidemill.tracking.trash import delete_runs, list_trash, purge, restore_runs

# What happened has happened: these tell of it for ever.
PAST = {"events", "event_heads", "edges"}


def full_run(ws: Workspace, experiment: str = "delay", name: str = "r") -> str:
    """A run that has something in every table that a run can have something in."""
    run = start_run(ws, experiment, name=name, params={"depth": 3}, tags={"who": "me"})
    log_batch(ws, run.id, metrics=[Metric(key="loss", value=0.5)])
    log_series(ws, run.id, [Series(key="auc", values=bytes(8), steps=bytes(8), times=bytes(8))], writer="w", number=1)
    log_artifact(ws, run.id, "model/weights", b"weights")
    log_artifact(ws, run.id, "note", b"note")
    log_inputs(ws, run.id, [DatasetInput(dataset=InputDataset(name=f"d-{name}", digest="1", source_type="x", source="y"))])
    end_run(ws, run.id)
    log_batch(ws, run.id, metrics=[Metric(key="loss", value=0.75)])  # blocks, and a tail behind them
    return run.id


def logged_model(ws: Workspace, run: str) -> str:
    experiment = read_run(ws, run).experiment_id
    model = create_logged_model(ws, experiment, name="m", source_run=run, params={"a": "b"}, tags={"c": "d"})
    set_model_tags(ws, model.id, {"e": "f"})
    log_outputs(ws, run, [ModelOutput(model=model.id)])
    keep_file(ws, f"{experiment}/models/{model.id}/artifacts/MLmodel", ws.objects.put(b"MLmodel"), 7)
    return model.id


def rows(ws: Workspace) -> dict[str, list[Any]]:
    with ws.catalog.reading() as tx:
        return {name: list(tx.execute(select(table))) for name, table in METADATA.tables.items() if name not in PAST}


def mentions(ws: Workspace, *words: str, number: int | None = None) -> dict[str, int]:
    """Return table -> rows that name any of these words, or this run's number."""
    found: dict[str, int] = {}
    for name, lines in rows(ws).items():
        numbered = [c.name for c in METADATA.tables[name].columns if c.name in ("run", "no") and isinstance(c.type, BigInteger | Integer)]
        numbered = [] if name == "input_datasets" else numbered
        hits = [
            row
            for row in lines
            if any(word in str(value) for value in row for word in words)
            or (number is not None and any(getattr(row, column) == number for column in numbered))
        ]
        if hits:
            found[name] = len(hits)
    return found


def number_of(ws: Workspace, run: str) -> int:
    with ws.catalog.reading() as tx:
        return tx.execute(select(RUNS.c.no).where(RUNS.c.id == run)).scalar_one()


def test_what_is_purged_is_gone_from_every_table_and_nothing_else_is(any_ws: Workspace) -> None:
    kept = full_run(any_ws, name="kept")
    before = rows(any_ws)
    run = full_run(any_ws, name="gone")
    model = logged_model(any_ws, run)
    number = number_of(any_ws, run)
    assert len(mentions(any_ws, run, model, "d-gone", number=number)) >= 13
    delete_runs(any_ws, [run])
    delete_logged_model(any_ws, model)
    purged = purge(any_ws, now=True)
    assert (purged.runs, purged.models, purged.experiments) == ((run,), (model,), ())
    assert (purged.files, purged.file_bytes) == (3, len("weights") + len("note") + 7)
    assert mentions(any_ws, run, model, "d-gone", number=number) == {}
    assert rows(any_ws) == before
    assert read_run(any_ws, kept).metrics == {"loss": 0.75, "auc": 0.0}
    with pytest.raises(RunNotFound, match="there is no run"):
        read_run(any_ws, run)
    with pytest.raises(LoggedModelNotFound, match="there is no logged model"):
        read_logged_model(any_ws, model, deleted=True)
    (event, *_) = [event for event in list_events(any_ws, limit=100) if event.kind == "trash.purged" and event.body.get("runs")]
    assert event.body["runs"] == [run]


def test_an_experiment_is_purged_with_all_that_it_holds(any_ws: Workspace) -> None:
    before = rows(any_ws)
    run = full_run(any_ws, "weather")
    model = logged_model(any_ws, run)
    experiment = find_experiment(any_ws, "weather")
    assert experiment is not None
    delete_experiment(any_ws, experiment.id)
    assert create_experiment(any_ws, "weather").id != experiment.id  # the name is free at once
    purged = purge(any_ws, now=True)
    assert (purged.experiments, purged.runs, purged.models) == ((experiment.id,), (run,), (model,))
    with pytest.raises(ExperimentNotFound, match="there is no experiment"):
        read_experiment(any_ws, experiment.id)
    left = rows(any_ws)
    assert len(left.pop("experiments")) == len(before.pop("experiments")) + 1
    assert left == before


def test_the_trash_is_kept_for_its_time(ws: Workspace) -> None:
    run, other = full_run(ws), full_run(ws, "price")
    delay = read_run(ws, run).experiment_id
    delete_runs(ws, [run, other])
    (first, second) = list_trash(ws)
    assert (first.experiment, first.runs, first.due, first.keep_days) == ("delay", 1, 0, 30)
    assert first.next_due == world.START + timedelta(days=30)
    keep_for(ws, delay, 2)
    world.tick(ws, days=2)
    assert purge(ws).runs == (run,)
    world.tick(ws, days=27)
    assert purge(ws).runs == ()
    world.tick(ws, days=1)
    assert [(trash.experiment, trash.due, trash.next_due) for trash in list_trash(ws)] == [("price", 1, None)]
    assert purge(ws).runs == (other,)
    assert list_trash(ws) == []
    keep_for(ws, delay, None)
    assert second.keep_days == 30


def test_a_deleted_experiment_keeps_its_runs_until_its_time_is_up(ws: Workspace) -> None:
    run = full_run(ws)
    experiment = read_run(ws, run).experiment_id
    delete_experiment(ws, experiment)
    world.tick(ws, days=29)
    assert purge(ws) == purge(ws)
    assert [trash.whole for trash in list_trash(ws)] == [True]
    restore_experiment(ws, experiment)
    world.tick(ws, days=10)
    assert purge(ws).runs == ()
    assert read_run(ws, run).deleted_at is None


def test_runs_go_and_come_with_their_parts(any_ws: Workspace) -> None:
    whole = start_run(any_ws, "tune", name="whole")
    part = start_run(any_ws, "tune", name="part", parent=whole.id)
    deep = start_run(any_ws, "tune", name="deep", parent=part.id)
    other = start_run(any_ws, "tune", name="other")
    assert delete_runs(any_ws, [whole.id, whole.id]) == 3
    assert delete_runs(any_ws, [whole.id]) == 0
    assert [run.id for run in list_runs(any_ws)] == [other.id]
    assert restore_runs(any_ws, [part.id]) == 2
    assert {run.id for run in list_runs(any_ws)} == {other.id, part.id, deep.id}
    with pytest.raises(RunNotFound, match="there is no run 'nope'"):
        delete_runs(any_ws, [other.id, "nope"])
    assert read_run(any_ws, other.id).deleted_at is None


def test_what_something_is_made_of_is_kept(ws: Workspace) -> None:
    run, other = full_run(ws), full_run(ws)
    experiment = read_run(ws, run).experiment_id
    delete_runs(ws, [run, other])
    purged = purge(ws, now=True, keep=[f"run:{run}"])
    assert (purged.runs, purged.kept) == ((other,), (f"run:{run}",))
    delete_experiment(ws, experiment)
    purged = purge(ws, now=True, keep=[f"run:{run}"])
    assert (purged.experiments, purged.kept) == ((), (f"run:{run}",))
    assert read_run(ws, run).params == {"depth": "3"}
    assert purge(ws, now=True).experiments == (experiment,)


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_restored_while_the_trash_is_emptied_stays(any_ws: Workspace, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = full_run(any_ws)
    model = logged_model(any_ws, run)
    experiment = read_run(any_ws, run).experiment_id
    before = rows(any_ws)
    if whole:
        delete_experiment(any_ws, experiment)
    else:
        delete_runs(any_ws, [run])
        delete_logged_model(any_ws, model)
    listed = trash._in_parts

    def restoring(ids: Sequence[str]) -> Iterator[Sequence[str]]:  # what was found due is not any more
        if whole:
            restore_experiment(any_ws, experiment)
        else:
            restore_runs(any_ws, [run])
            restore_logged_model(any_ws, model)
        return listed(ids)

    monkeypatch.setattr(trash, "_in_parts", restoring)
    purged = purge(any_ws, now=True)
    assert (purged.experiments, purged.runs, purged.models, purged.files) == ((), (), (), 0)
    if not whole:
        assert rows(any_ws) == before
    assert read_run(any_ws, run).metrics == {"loss": 0.75, "auc": 0.0}


@pytest.mark.slow
def test_many_runs_are_purged_in_batches(any_ws: Workspace) -> None:
    ids = [start_run(any_ws, "delay", name=f"r{number}").id for number in range(250)]
    for run in ids:
        delete_run(any_ws, run)
    assert len(purge(any_ws, now=True).runs) == 250
    assert len([event for event in list_events(any_ws, limit=2000) if event.kind == "trash.purged"]) == 3


def test_only_an_admin_purges(ws: Workspace) -> None:
    developer = world.acting(ws, "dev", "developer")
    run = full_run(developer)
    assert delete_runs(developer, [run]) == 1
    with pytest.raises(ActionRefused, match=r"tracking\.admin"):
        purge(developer)
    with pytest.raises(ActionRefused, match=r"tracking\.write"):
        restore_runs(world.acting(ws, "vic", "viewer"), [run])
