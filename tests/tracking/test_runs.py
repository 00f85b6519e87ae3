"""Runs: params once, metrics with history, the latest value, and an end."""

from datetime import timedelta

import numpy as np
import pytest

from tests import world
from tidemill.catalog.lineage import walk
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import RunId, new_run_id
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.tracking.batches import Metric, Series, log_batch, log_metrics, log_params, log_series, set_tags
from tidemill.tracking.experiments import ExperimentInTrash, delete_experiment, find_experiment, list_experiments
from tidemill.tracking.facts import ParamRewritten
from tidemill.tracking.runs import (
    RunInTrash,
    RunNotFound,
    delete_run,
    delete_tag,
    end_run,
    list_runs,
    log_artifact,
    metric_history,
    read_run,
    restore_run,
    start_run,
    update_run,
)


def test_a_run_is_read_back_with_all_that_was_logged(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="first", params={"depth": 3, "rate": 0.1}, tags={"who": "me"}, sources=["dataset:flights@1"])
    log_metrics(
        any_ws, run.id, [Metric(key="loss", value=1.0, step=1), Metric(key="loss", value=0.5, step=2), Metric(key="auc", value=0.7)]
    )
    log_metrics(any_ws, run.id, [Metric(key="loss", value=0.25, step=3)])
    set_tags(any_ws, run.id, {"who": "you"})
    artifact = log_artifact(any_ws, run.id, "plots/roc.svg", b"<svg/>")
    ended = end_run(any_ws, run.id)
    assert ended == read_run(any_ws, run.id)
    assert (ended.status, ended.params, ended.tags) == ("finished", {"depth": "3", "rate": "0.1"}, {"who": "you"})
    assert ended.metrics == {"loss": 0.25, "auc": 0.7}
    assert ended.artifacts == (artifact,)
    assert ended.last["loss"].step == 3
    points = metric_history(any_ws, run.id, "loss")
    assert (points.values.tolist(), points.steps.tolist()) == ([1.0, 0.5, 0.25], [1, 2, 3])
    with any_ws.catalog.reading() as tx:
        assert [edge.source for edge in walk(tx, any_ws.project, run.node)] == ["dataset:flights@1"]


def test_a_param_is_written_once(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r", params={"depth": 3})
    log_params(any_ws, run.id, {"depth": 3, "rate": 1})
    with pytest.raises(ParamRewritten, match=r"param 'depth' of run .* is '3' already and cannot become '4'"):
        log_params(any_ws, run.id, {"depth": 4, "other": 1})
    assert read_run(any_ws, run.id).params == {"depth": "3", "rate": "1"}


def test_a_retried_start_is_the_same_run(any_ws: Workspace) -> None:
    run_id = new_run_id()
    first = start_run(any_ws, "delay", name="r", run_id=run_id)
    assert start_run(any_ws, "delay", name="r", run_id=run_id) == first
    assert [event.kind for event in list_events(any_ws, subject=f"run:{run_id}")] == ["run.started"]


def test_an_ended_run_stays_as_it_ended(ws: Workspace) -> None:
    run = start_run(ws, "delay", name="r")
    end_run(ws, run.id, status="failed", message="no data")
    world.tick(ws, hours=1)
    assert end_run(ws, run.id).status == "failed"


def test_runs_are_listed_by_experiment_kind_and_parent(ws: Workspace) -> None:
    whole = start_run(ws, "train", name="whole", kind="pipeline")
    part = start_run(ws, "train", name="part", kind="step", parent=whole.id)
    other = start_run(ws, "other", name="other")
    assert {run.id for run in list_runs(ws)} == {whole.id, part.id, other.id}
    assert [run.id for run in list_runs(ws, experiment="other")] == [other.id]
    assert [run.id for run in list_runs(ws, kinds=["step"])] == [part.id]
    assert [run.id for run in list_runs(ws, parent=whole.id)] == [part.id]
    assert [experiment.name for experiment in list_experiments(ws)] == ["train", "other"]


def test_an_unknown_run_is_told_so(ws: Workspace) -> None:
    with pytest.raises(RunNotFound, match="there is no run 'nope'"):
        read_run(ws, "nope")
    with pytest.raises(RunNotFound, match="there is no run"):
        log_metrics(ws, RunId("nope"), {"x": 1})


def test_nan_and_infinities_are_kept(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r")
    odd = [float("nan"), float("inf"), float("-inf"), 1e308]
    log_batch(any_ws, run.id, metrics=[Metric(key=f"m{i}", value=value) for i, value in enumerate(odd)])
    log_batch(any_ws, run.id, metrics=[Metric(key="all", value=value, step=i) for i, value in enumerate(odd)])
    found = read_run(any_ws, run.id).metrics
    assert [str(found[f"m{i}"]) for i in range(4)] == ["nan", "inf", "-inf", "1e+308"]
    assert [str(value) for value in metric_history(any_ws, run.id, "all").values.tolist()] == ["nan", "inf", "-inf", "1e+308"]


def test_the_latest_point_is_that_of_the_highest_step_then_time_then_value(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r")
    now = any_ws.clock.now()
    log_batch(any_ws, run.id, metrics=[Metric(key="m", value=5.0, step=9, at=now)])
    log_batch(any_ws, run.id, metrics=[Metric(key="m", value=7.0, step=3, at=now + timedelta(hours=1))])
    assert read_run(any_ws, run.id).metrics == {"m": 5.0}
    log_batch(any_ws, run.id, metrics=[Metric(key="m", value=4.0, step=9, at=now), Metric(key="m", value=float("nan"), step=9, at=now)])
    assert read_run(any_ws, run.id).metrics == {"m": 5.0}
    log_batch(any_ws, run.id, metrics=[Metric(key="m", value=1.0, step=9, at=now + timedelta(seconds=1))])
    assert read_run(any_ws, run.id).metrics == {"m": 1.0}


def test_a_batch_is_written_whole_or_not_at_all(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r", params={"depth": "3"})
    with pytest.raises(ParamRewritten, match="cannot become '4'"):
        log_batch(any_ws, run.id, metrics=[Metric(key="m", value=1.0)], params={"rate": "1", "depth": "4"}, tags={"a": "b"})
    with pytest.raises(Invalid, match=r"metric key '../x' is not usable; expected letters, digits"):
        log_batch(any_ws, run.id, metrics=[Metric(key="m", value=1.0), Metric(key="../x", value=1.0)], tags={"a": "b"})
    with pytest.raises(Invalid, match=r"tag 'long' has 9000 characters; expected at most 8000"):
        log_batch(any_ws, run.id, params={"rate": "1"}, tags={"long": "x" * 9000})
    found = read_run(any_ws, run.id)
    assert (found.params, found.tags, found.metrics) == ({"depth": "3"}, {}, {})


def series(key: str, values: list[float], first: int = 0) -> Series:
    steps = np.arange(first, first + len(values), dtype=np.int64)
    return Series(key=key, values=np.array(values).tobytes(), steps=steps.tobytes(), times=(steps * 1000).tobytes())


def test_columns_that_are_sent_again_count_once(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r")
    for number in (0, 0, 1, 1, 0):
        log_series(
            any_ws, run.id, [series("loss", [1.0, 0.5], first=2 * number), series("acc", [float(number)])], writer="w", number=number
        )
    log_series(any_ws, run.id, [series("loss", [9.0], first=100)], writer="other", number=0)
    assert metric_history(any_ws, run.id, "loss").values.tolist() == [1.0, 0.5, 1.0, 0.5, 9.0]
    assert metric_history(any_ws, run.id, "acc").values.tolist() == [0.0, 1.0]
    assert read_run(any_ws, run.id).metrics == {"acc": 1.0, "loss": 9.0}
    with pytest.raises(Invalid, match="expected three equal columns of 8 bytes a point"):
        Series(key="x", values=b"12345678", steps=b"", times=b"")


def test_the_trash_takes_nothing_and_gives_all_back(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r", tags={"a": "b"})
    delete_run(any_ws, run.id)
    delete_run(any_ws, run.id)
    assert list_runs(any_ws) == []
    assert [found.id for found in list_runs(any_ws, view="deleted")] == [run.id]
    assert read_run(any_ws, run.id).lifecycle == "deleted"
    for write in (
        lambda: log_metrics(any_ws, run.id, {"m": 1.0}),
        lambda: delete_tag(any_ws, run.id, "a"),
        lambda: end_run(any_ws, run.id),
    ):
        with pytest.raises(RunInTrash, match=f"restore it with: tidemill run restore {run.id}"):
            write()
    restore_run(any_ws, run.id)
    log_metrics(any_ws, run.id, {"m": 1.0})
    assert [event.kind for event in list_events(any_ws, subject=run.node)] == ["run.moved", "run.moved", "run.started"]


def test_a_run_may_be_renamed_ended_and_opened_again(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r")
    assert update_run(any_ws, run.id, name="better").name == "better"
    assert update_run(any_ws, run.id, status="finished").ended_at == any_ws.clock.now()
    assert update_run(any_ws, run.id, status="running").ended_at is None
    assert update_run(any_ws, run.id, status="failed").status == "failed"
    kinds = [event.kind for event in list_events(any_ws, subject=run.node)]
    assert kinds == ["run.ended", "run.started", "run.ended", "run.started"]


def test_a_tag_is_removed_once(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r", tags={"a": "b", "c": "d"})
    delete_tag(any_ws, run.id, "a")
    assert read_run(any_ws, run.id).tags == {"c": "d"}
    with pytest.raises(NotFound, match="has no tag 'a'; nothing was removed"):
        delete_tag(any_ws, run.id, "a")


def test_no_run_starts_in_an_experiment_that_was_deleted(any_ws: Workspace) -> None:
    start_run(any_ws, "delay", name="r")
    old = find_experiment(any_ws, "delay")
    assert old is not None
    delete_experiment(any_ws, old.id)
    with pytest.raises(ExperimentInTrash, match="is in the trash; restore it first"):
        start_run(any_ws, old.id, name="r")
    assert start_run(any_ws, "delay", name="r").experiment_id != old.id


def test_a_viewer_may_look_and_not_log(ws: Workspace) -> None:
    run = start_run(ws, "delay", name="r")
    viewer = world.acting(ws, "vic", "viewer")
    assert read_run(viewer, run.id).id == run.id
    with pytest.raises(ActionRefused, match=r"tracking\.write"):
        log_metrics(viewer, run.id, {"x": 1.0})


def test_a_list_reads_no_more_metrics_than_it_shows(any_ws: Workspace) -> None:
    for name in ("one", "two"):
        run = start_run(any_ws, "delay", name=name)
        log_batch(any_ws, run.id, metrics=[Metric(key=f"m{number:03d}", value=float(number)) for number in range(300)])
    assert [run.metrics for run in list_runs(any_ws, metrics=2)] == [{"m000": 0.0, "m001": 1.0}] * 2
    assert [len(run.metrics) for run in list_runs(any_ws)] == [300, 300]
