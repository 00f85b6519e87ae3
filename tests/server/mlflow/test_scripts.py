"""Scripts written for MLflow alone, run as they are: runs, datasets, tables, traces; with keys, and in a project."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.server.mlflow.conftest import Served, control_plane
from tidemill.govern.keys import issue_key
from tidemill.govern.workspace import create_project, open_workspace
from tidemill.tracking.experiments import find_experiment

pytest.importorskip("mlflow")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

RUNS = """
import mlflow, numpy as np, pandas as pd
from mlflow import MlflowClient

mlflow.set_experiment("by hand")
frame = pd.DataFrame({"x": [1.0, 2.0], "y": [0, 1]})
with mlflow.start_run(run_name="outer", description="what it is", tags={"team": "red"}) as outer:
    mlflow.log_params({"depth": 3, "rate": 0.1})
    mlflow.log_input(mlflow.data.from_pandas(frame, name="flights"), context="training")
    for step in range(120):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metrics({"auc": 0.5, "odd": float("nan"), "far": float("inf")}, synchronous=False).wait()
    mlflow.log_table({"q": ["a", "b"]}, "table.json")
    mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), "black.png")
    mlflow.log_text("text", "deep/er/text.txt")
    with mlflow.start_run(nested=True, run_name="inner"):
        mlflow.log_metric("auc", 0.75)
try:
    with mlflow.start_run(run_name="broken"):
        raise KeyError("on purpose")
except KeyError:
    pass
client = MlflowClient()
run = client.get_run(outer.info.run_id)
assert run.data.params == {"depth": "3", "rate": "0.1"} and run.info.status == "FINISHED" and run.info.end_time >= run.info.start_time
assert run.data.metrics["loss"] == 1 / 120 and np.isnan(run.data.metrics["odd"]) and run.data.metrics["far"] > 1e308
assert run.data.tags["mlflow.note.content"] == "what it is" and run.data.tags["mlflow.source.type"] == "LOCAL"
assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == list(range(120))
(given,) = run.inputs.dataset_inputs
assert (given.dataset.name, given.tags[0].value) == ("flights", "training")
assert mlflow.load_table("table.json", run_ids=[run.info.run_id])["q"].tolist() == ["a", "b"]
assert mlflow.artifacts.load_text(run.info.artifact_uri + "/deep/er/text.txt") == "text"
found = mlflow.search_runs(experiment_names=["by hand"], filter_string="dataset.name = 'flights' and metrics.auc < 0.6")
assert found.run_id.tolist() == [run.info.run_id]
inner = mlflow.search_runs(experiment_names=["by hand"], filter_string=f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
assert inner["tags.mlflow.runName"].tolist() == ["inner"]
assert mlflow.search_runs(experiment_names=["by hand"], filter_string="status = 'FAILED'")["tags.mlflow.runName"].tolist() == ["broken"]
with mlflow.start_run(run_id=run.info.run_id):
    mlflow.log_metric("auc", 0.625, step=1)
assert client.get_run(run.info.run_id).data.metrics["auc"] == 0.625
"""

TRACES = """
import mlflow
from mlflow.entities import AssessmentSource, Feedback, SpanEvent, SpanType

experiment = mlflow.set_experiment("calls").experiment_id

@mlflow.trace(name="outer", attributes={"k": 1})
def ask(x):
    with mlflow.start_span("inner", span_type=SpanType.TOOL) as span:
        span.set_inputs({"q": x})
        span.set_outputs([1, 2])
        span.add_event(SpanEvent("seen", attributes={"a": "b"}))
    mlflow.update_current_trace(tags={"team": "red"}, metadata={"mlflow.trace.session": "s1"})
    if x > 5:
        raise ValueError("too large")
    return {"y": x + 1}

with mlflow.start_run() as run:
    ask(3)
first = mlflow.get_last_active_trace_id()
try:
    ask(9)
except ValueError:
    pass
mlflow.flush_trace_async_logging()
second = mlflow.get_last_active_trace_id()

trace = mlflow.get_trace(first)
assert [(span.name, span.span_type, span.inputs, span.outputs) for span in trace.data.spans] == [
    ("outer", "UNKNOWN", {"x": 3}, {"y": 4}), ("inner", "TOOL", {"q": 3}, [1, 2])]
assert trace.data.spans[1].parent_id == trace.data.spans[0].span_id and trace.data.spans[1].events[0].attributes == {"a": "b"}
assert trace.info.tags["team"] == "red" and trace.info.trace_metadata["mlflow.sourceRun"] == run.info.run_id
assert (trace.info.state.value, mlflow.get_trace(second).info.state.value) == ("OK", "ERROR")
assert mlflow.get_trace(second).data.spans[0].status.description == "ValueError: too large"

def ids(text, **more):
    return [t.info.trace_id for t in mlflow.search_traces(locations=[experiment], filter_string=text, return_type="list", **more)]

assert ids("") == [second, first] and ids("", order_by=["timestamp_ms ASC"]) == [first, second]
assert ids("trace.status = 'ERROR'") == [second] and ids("tags.team = 'red'", max_results=1) == [second]
assert ids("trace.name = 'outer' AND attributes.timestamp_ms > 0") == [second, first]
assert ids("metadata.`mlflow.trace.session` = 's1'") == [second, first]
assert ids("span.type = 'TOOL'") == [second, first] and ids("span.name = 'none'") == []
assert [t.info.trace_id for t in mlflow.search_traces(locations=[experiment], run_id=run.info.run_id, return_type="list")] == [first]

said = mlflow.log_feedback(trace_id=first, name="good", value=True, rationale="why", source=AssessmentSource("HUMAN", "bob"))
wanted = mlflow.log_expectation(trace_id=first, name="answer", value={"z": 1})
assert mlflow.get_assessment(first, said.assessment_id).value is True
mlflow.update_assessment(first, said.assessment_id, Feedback(name="good", value=False))
mlflow.override_feedback(trace_id=first, assessment_id=said.assessment_id, value=0.5)
mlflow.delete_assessment(first, wanted.assessment_id)
assert [(one.value, one.valid) for one in mlflow.get_trace(first).info.assessments] == [(False, False), (0.5, True)]
assert ids("feedback.good = '0.5'") == [first]

mlflow.set_trace_tag(first, "a", "b")
mlflow.delete_trace_tag(first, "team")
assert {key: value for key, value in mlflow.get_trace(first).info.tags.items() if not key.startswith("mlflow.")} == {"a": "b"}
client = mlflow.MlflowClient()
span = client.start_trace("by hand", inputs={"a": 1}, experiment_id=experiment)
client.end_trace(span.trace_id, outputs={"b": 2})
mlflow.flush_trace_async_logging()
assert mlflow.get_trace(span.trace_id).data.spans[0].outputs == {"b": 2}
assert client.delete_traces(experiment, trace_ids=[first]) == 1
assert mlflow.get_trace(first) is None and ids("") == [span.trace_id, second]
"""

PROJECT = """
import mlflow
mlflow.set_experiment("there")
with mlflow.start_run() as run:
    mlflow.log_metric("a", 1)
    mlflow.log_text("text", "a/b.txt")
assert mlflow.MlflowClient().get_run(run.info.run_id).data.tags["mlflow.user"]
assert mlflow.artifacts.load_text(run.info.artifact_uri + "/a/b.txt") == "text"
"""


def run(script: str, url: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    (folder / "script.py").write_text(script)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "script.py"], capture_output=True, text=True, check=False, cwd=folder,
        env={**kept, "MLFLOW_TRACKING_URI": url, "MLFLOW_DISABLE_TELEMETRY": "true", **environment},
    )  # fmt: skip


@pytest.mark.parametrize("script", [RUNS, TRACES], ids=["runs", "traces"])
def test_scripts_run_as_they_are(tidemill: Served, tmp_path: Path, script: str) -> None:
    done = run(script, tidemill.url, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_keys_come_as_token_or_password_and_a_project_by_its_name(tmp_path: Path) -> None:
    with control_plane(tmp_path, authentication="keys") as served:
        with open_workspace(served.home) as ws:
            create_project(ws, "other")
            key = issue_key(ws.acting(ws.actor, "other"), "dora", role="developer", lifetime=timedelta(hours=1)).token
        for shown in ({"MLFLOW_TRACKING_TOKEN": key}, {"MLFLOW_TRACKING_USERNAME": "dora", "MLFLOW_TRACKING_PASSWORD": key}):
            done = run(PROJECT, served.url, tmp_path, MLFLOW_WORKSPACE="other", **shown)
            assert done.returncode == 0, done.stderr[-3000:]
            elsewhere = run(PROJECT, served.url, tmp_path, **shown)
            assert "PERMISSION_DENIED" in elsewhere.stderr
        assert "UNAUTHENTICATED" in run(PROJECT, served.url, tmp_path, MLFLOW_WORKSPACE="other", MLFLOW_TRACKING_TOKEN="x").stderr
        with open_workspace(served.home) as ws:
            assert find_experiment(ws, "there") is None
            assert find_experiment(ws.acting(ws.actor, "other"), "there") is not None
