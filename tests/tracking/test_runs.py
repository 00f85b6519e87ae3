"""Runs: params once, metrics with history, the latest value, and an end."""

import pytest

from tests import world
from tidemill.catalog.lineage import walk
from tidemill.core.errors import Invalid
from tidemill.core.ids import RunId, new_run_id
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.tracking.experiments import list_experiments
from tidemill.tracking.runs import (
    Metric,
    ParamRewritten,
    RunNotFound,
    end_run,
    list_runs,
    log_artifact,
    log_metrics,
    log_params,
    metric_history,
    read_run,
    set_tags,
    start_run,
)


def test_a_run_is_read_back_with_all_that_was_logged(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="first", params={"depth": 3, "rate": 0.1}, tags={"who": "me"}, sources=["dataset:flights@1"])
    log_metrics(
        any_ws, run.id, [Metric(key="loss", value=1.0, step=1), Metric(key="loss", value=0.5, step=2), Metric(key="auc", value=0.7)]
    )
    log_metrics(any_ws, run.id, {"loss": 0.25})
    set_tags(any_ws, run.id, {"who": "you"})
    artifact = log_artifact(any_ws, run.id, "plots/roc.svg", b"<svg/>")
    ended = end_run(any_ws, run.id)
    assert ended == read_run(any_ws, run.id)
    assert (ended.status, ended.params, ended.tags) == ("finished", {"depth": "3", "rate": "0.1"}, {"who": "you"})
    assert ended.metrics == {"loss": 0.25, "auc": 0.7}
    assert ended.artifacts == (artifact,)
    assert [point.value for point in metric_history(any_ws, run.id, "loss")] == [1.0, 0.5, 0.25]
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


def test_a_metric_that_is_no_number_is_told_so_and_nothing_is_logged(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r")
    with pytest.raises(Invalid, match=r"metric 'loss' of run .* is NaN at step 2; log a number"):
        log_metrics(any_ws, run.id, [Metric(key="auc", value=0.7), Metric(key="loss", value=float("nan"), step=2)])
    assert read_run(any_ws, run.id).metrics == {}


def test_a_viewer_may_look_and_not_log(ws: Workspace) -> None:
    run = start_run(ws, "delay", name="r")
    viewer = world.acting(ws, "vic", "viewer")
    assert read_run(viewer, run.id).id == run.id
    with pytest.raises(ActionRefused, match=r"tracking\.write"):
        log_metrics(viewer, run.id, {"x": 1.0})
