"""What scripts do, through MLflow's own client: every request that it sends, and what it makes of the answers."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.server.mlflow.scenes_runs import T0
from tests.server.mlflow.sides import Side, attempt, listening


def a_day_of_work(side: Side) -> None:
    """Experiments, runs, metrics, artifacts, a registered model: as a script writes them."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=side.url, registry_uri=side.url)
    with listening(side), side.labelled("client/experiment"):
        experiment = client.create_experiment("client", tags={"team": "red"})
        client.get_experiment(experiment)
        client.get_experiment_by_name("client")
        client.set_experiment_tag(experiment, "k", "v")
        client.search_experiments(filter_string="name = 'client'")
        attempt(side, lambda: client.create_experiment("client"))
        attempt(side, lambda: client.get_experiment("987654"))
        side.note(client.get_experiment_by_name("nobody"))
    with listening(side), side.labelled("client/run"):
        run = client.create_run(experiment, start_time=T0, run_name="one", tags={"a": "b"}).info.run_id
        client.log_param(run, "depth", 3)
        client.log_metric(run, "auc", 0.5, timestamp=T0, step=0)
        client.log_metric(run, "auc", 0.75, timestamp=T0 + 1, step=1)
        client.log_metric(run, "nan", float("nan"), timestamp=T0)
        client.log_metric(run, "inf", float("inf"), timestamp=T0)
        client.set_tag(run, "t", "x")
        client.log_batch(
            run, [Metric("b", n, T0 + n, n) for n in range(50)], [Param(f"p{n}", str(n)) for n in range(20)], [RunTag("u", "v")]
        )
        attempt(side, lambda: client.log_param(run, "depth", 4))
        attempt(side, lambda: client.log_batch(run, [Metric("b", n, T0, n) for n in range(1001)]))
        client.delete_tag(run, "t")
        client.set_terminated(run, "FINISHED", T0 + 9000)
        found = client.get_run(run)
        side.note({"params": found.data.params, "metrics": found.data.metrics, "status": found.info.status, "end": found.info.end_time})
        side.note([[point.value, point.timestamp, point.step] for point in client.get_metric_history(run, "auc")])
        side.note([found.info.run_name for found in client.search_runs([experiment], "metrics.auc > 0.7 and params.depth = '3'")])
    _files(side, client, run)
    _trash(side, client, experiment, run)
    _registered(side, client, experiment)


def _files(side: Side, client: Any, run: str) -> None:
    with listening(side), side.labelled("client/files"), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sub").mkdir()
        (Path(folder) / "a.txt").write_text("hello")
        (Path(folder) / "sub" / "b.bin").write_bytes(bytes(2000))
        client.log_artifact(run, f"{folder}/a.txt")
        client.log_artifact(run, f"{folder}/a.txt", "there")
        client.log_artifacts(run, folder, "all")
        client.log_text(run, "words", "text.txt")
        client.log_dict(run, {"a": 1}, "deep/er/dict.json")
        for path in (None, "all", "all/sub", "a.txt", "none"):
            side.note([[info.path, info.is_dir, info.file_size] for info in client.list_artifacts(run, path)])
        got = Path(client.download_artifacts(run, "all", folder))
        side.note(sorted(str(path.relative_to(got)) for path in got.rglob("*")))
        _refused(side, lambda: client.log_artifact(run, f"{folder}/a.txt", "../out"))
        _refused(side, lambda: client.download_artifacts(run, "none.txt", folder))


def _trash(side: Side, client: Any, experiment: str, run: str) -> None:
    from mlflow.entities import ViewType

    with listening(side), side.labelled("client/trash"):
        client.delete_run(run)
        attempt(side, lambda: client.log_metric(run, "late", 1, timestamp=T0))
        side.note(len(client.search_runs([experiment])))
        side.note(len(client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)))
        client.restore_run(run)
        side.note(len(client.search_runs([experiment], run_view_type=ViewType.ALL)))
        attempt(side, lambda: client.get_run("0" * 32))
        client.update_run(run, status="RUNNING", name="again")
        client.rename_experiment(experiment, "client renamed")


def _registered(side: Side, client: Any, experiment: str) -> None:
    with listening(side), side.labelled("client/registry"):
        run = client.create_run(experiment, start_time=T0, run_name="two").info.run_id
        client.log_text(run, "flavors: {}\n", "model/MLmodel")
        client.create_registered_model("m", tags={"a": "b"}, description="d")
        attempt(side, lambda: client.create_registered_model("m"))
        source = f"{client.get_run(run).info.artifact_uri}/model"
        client.create_model_version("m", source, run)
        client.create_model_version("m", source, run, tags={"x": "y"})
        client.set_registered_model_alias("m", "champion", "1")
        side.note(client.get_model_version_by_alias("m", "champion").version)
        client.set_registered_model_alias("m", "champion", 2)
        side.note(client.get_model_version_by_alias("m", "champion").version)
        attempt(side, lambda: client.get_model_version_by_alias("m", "nobody"))
        client.set_model_version_tag("m", "1", "k", "v")
        side.note(client.get_model_version("m", "1").tags)
        side.note(client.get_model_version_download_uri("m", "1"))
        side.note([found.version for found in client.search_model_versions("name = 'm'")])
        side.note([found.name for found in client.search_registered_models("name LIKE 'm%'")])
        side.note(client.get_registered_model("m").aliases)
        client.delete_registered_model_alias("m", "champion")
        client.delete_model_version("m", "1")
        attempt(side, lambda: client.get_model_version("m", "1"))
        client.rename_registered_model("m", "m2")
        client.delete_registered_model("m2")
        attempt(side, lambda: client.get_registered_model("m2"))


def _refused(side: Side, act: Callable[[], Any]) -> None:
    """Note that something is refused, however it is: MLflow's client tells failed transfers in several ways."""
    try:
        act()
    except Exception:  # noqa: BLE001
        side.note("refused")
    else:
        side.note("done")


SCENES = (a_day_of_work,)
