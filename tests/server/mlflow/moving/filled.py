"""MLflow stores that the real MLflow wrote, with something of everything in them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, LoggedModelOutput, Metric, Param

T0 = 1_700_000_000_000
POINTS = 7
# What `fill` writes, as an import counts it.
COUNTS = {
    "experiments": 4, "runs": 6, "params": 12, "tags": 7, "metrics": 22, "metric points": 48, "artifacts": 9, "dataset inputs": 6,
    "logged models": 2, "registered models": 2, "model versions": 3, "model tags": 4, "aliases": 3,
}  # fmt: skip


@contextmanager
def client_of(uri: str) -> Iterator[Any]:
    """A client of a store; MLflow asks the global address when it follows models:/ sources."""
    before = mlflow.get_tracking_uri()
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield mlflow.MlflowClient()
    finally:
        mlflow.set_tracking_uri(before)
        mlflow.set_registry_uri(None)
        del os.environ["MLFLOW_ALLOW_FILE_STORE"]


def fill(uri: str, folder: Path, *, location: str | None = None) -> None:
    """Fill a store. location: where the experiment's artifacts lie, None for where MLflow puts them."""
    (folder / "notes" / "deep").mkdir(parents=True)
    (folder / "notes" / "a b.txt").write_text("hello")
    (folder / "notes" / "deep" / "ü.bin").write_bytes(bytes(range(256)) * 300)
    with client_of(uri) as client:
        experiment = client.create_experiment("flights", artifact_location=location, tags={"team": "ops"})
        runs = [_run(client, experiment, number, folder) for number in range(5)]
        client.delete_run(runs[4])
        for number in range(2):
            _logged_model(client, experiment, runs, number, folder)
        gone = client.create_experiment("gone")
        client.create_run(gone, run_name="in the trash", start_time=T0)
        client.delete_experiment(gone)
        client.create_experiment("empty, ünd odd name #1")
        _models(client, experiment, runs)


def _run(client: Any, experiment: str, number: int, folder: Path) -> str:
    run = client.create_run(experiment, run_name=f"run {number}", tags={"n": str(number)}, start_time=T0 + number * 1000)
    key: str = run.info.run_id
    metrics = [Metric("loss", 1 / (step + 1), T0 + step, step) for step in range(POINTS if number else 2)]
    metrics += [Metric("odd/value", value, T0, 0) for value in ([float("nan")], [float("inf")], [-float("inf")], [1e-300], [0.1])[number]]
    metrics += [Metric("two words", number, T0, 3), *([Metric("late", 2.0, T0 + 5, 9), Metric("late", 1.0, T0, 1)] if number == 1 else [])]
    metrics += [Metric("big", 1e18, T0, 2**40)] if number else []
    params = [Param("depth", "3"), Param("note/ü", "a\nb" if number == 1 else "c"), *([Param("long", "p" * 6000)] if number < 2 else [])]
    client.log_batch(key, metrics=metrics, params=params)
    data = Dataset("flights", "d1", "local", "{}", "schema" if number else None, None)
    client.log_inputs(key, [DatasetInput(data, [InputTag("mlflow.data.context", "train")])])
    if number == 2:
        client.log_inputs(key, [DatasetInput(Dataset("other", "d2", "http", "{}", None, "profile"), [])])
    if number == 1:
        client.set_tag(key, "mlflow.parentRunId", "f" * 32)
        client.set_tag(key, "long", "t" * 7000)
    if number < 3:
        client.log_artifacts(key, str(folder / "notes"), "notes")
    if number != 3:
        client.set_terminated(key, status=("FINISHED", "FAILED", "KILLED", "", "FINISHED")[number], end_time=T0 + 9000)
    return key


def _logged_model(client: Any, experiment: str, runs: list[str], number: int, folder: Path) -> None:
    made = client.create_logged_model(
        experiment, name=f"model{number}", source_run_id=runs[number], params={"x": "1"}, tags={"y": "ü"}, model_type="classifier"
    )
    client.log_outputs(runs[number], [LoggedModelOutput(made.model_id, number + 3)])
    client.log_inputs(runs[2], models=[LoggedModelInput(made.model_id)])
    client.log_metric(runs[number], "auc", 0.7 + number, model_id=made.model_id, dataset_name="flights", dataset_digest="d1", timestamp=T0)
    files = folder / f"model{number}"
    files.mkdir()
    (files / "MLmodel").write_text(f"flavors: {{sklearn: {{}}}}\nmodel_uuid: u{number}\n")
    if number == 0:
        (files / "model.pkl").write_bytes(b"\x80never opened")
    client.log_model_artifacts(made.model_id, str(files))
    client.finalize_logged_model(made.model_id, ("READY", "FAILED")[number])


def _models(client: Any, experiment: str, runs: list[str]) -> None:
    logged = sorted(client.search_logged_models([experiment]), key=lambda model: str(model.name))
    client.create_registered_model("delay", tags={"team": "ops", "odd key": "x"}, description="Late?")
    client.create_model_version("delay", f"models:/{logged[0].model_id}", model_id=logged[0].model_id, tags={"n": "1"}, description="first")
    client.create_model_version("delay", f"{client.get_run(runs[1]).info.artifact_uri}/notes", run_id=runs[1])
    client.create_model_version("delay", "s3://bucket/elsewhere", tags={"n": "3"}, run_link="https://ci/7")
    client.create_model_version("delay", "s3://bucket/deleted")
    client.delete_model_version("delay", 4)
    client.create_registered_model("späte #2 (empty)")
    client.set_registered_model_alias("delay", "champion", 1)
    client.set_registered_model_alias("delay", "20260503", 3)
    client.set_registered_model_alias("delay", "old", 3)
    client.transition_model_version_stage("delay", 1, "Production")
    client.transition_model_version_stage("delay", 2, "Archived")
