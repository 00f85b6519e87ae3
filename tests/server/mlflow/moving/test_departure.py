"""Export: what is written is a store that the real MLflow opens, with everything in it, and that comes back the same."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mlflow = pytest.importorskip("mlflow")

from tests import world  # noqa: E402
from tests.server.mlflow.moving.filled import COUNTS, client_of, fill  # noqa: E402
from tidemill.cli.main import main  # noqa: E402
from tidemill.core.errors import Conflict  # noqa: E402
from tidemill.core.ids import RunId  # noqa: E402
from tidemill.govern.workspace import Workspace  # noqa: E402
from tidemill.registry.aliases import promote  # noqa: E402
from tidemill.registry.environments import move  # noqa: E402
from tidemill.registry.models import create_model  # noqa: E402
from tidemill.registry.trash import delete_model  # noqa: E402
from tidemill.server.mlflow.moving.arrival import bring  # noqa: E402
from tidemill.server.mlflow.moving.departure import leave  # noqa: E402
from tidemill.server.mlflow.moving.origin import open_store  # noqa: E402
from tidemill.tracking.batches import Metric, log_batch  # noqa: E402
from tidemill.tracking.experiments import create_experiment, delete_experiment  # noqa: E402
from tidemill.tracking.runs import end_run, log_artifact, start_run  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    fill(f"sqlite:///{folder}/mlflow.db", folder / "scratch", location=(folder / "artifacts").as_uri())
    return folder / "mlflow.db"


def brought(ws: Workspace, address: Path) -> Any:
    with closing(open_store(str(address))) as store:
        return bring(ws, store)


def told(client: Any, experiment: str) -> list[Any]:
    """What a client says of an experiment: everything but where files lie."""
    found = []
    for run in client.search_runs([experiment], run_view_type=3, order_by=["start_time ASC"]):
        run = client.get_run(run.info.run_id)
        histories = {
            key: sorted((p.step, p.timestamp, repr(p.value)) for p in client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }
        tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.user"}
        info = (run.info.run_id, run.info.run_name, run.info.status, run.info.start_time, run.info.end_time, run.info.lifecycle_stage)
        inputs = [(each.dataset.to_dictionary(), [(t.key, t.value) for t in each.tags]) for each in run.inputs.dataset_inputs]
        models = [each.model_id for each in run.inputs.model_inputs], [(each.model_id, each.step) for each in run.outputs.model_outputs]
        files = sorted(_listed(client, run.info.run_id, ""))
        found.append((info, run.data.params, tags, histories, inputs, models, files))
    for model in sorted(client.search_logged_models([experiment]), key=lambda each: str(each.name)):
        points = [(p.key, p.value, p.step, p.timestamp, p.dataset_name, p.run_id) for p in model.metrics or ()]
        found.append(
            (model.model_id, model.name, model.model_type, str(model.status), model.params, model.tags, points, model.source_run_id)
        )
    return found


def _listed(client: Any, run: str, folder: str) -> list[str]:
    found = []
    for entry in client.list_artifacts(run, folder or None):
        found += _listed(client, run, entry.path) if entry.is_dir else [entry.path]
    return found


def registered(client: Any) -> list[Any]:
    return [
        (
            model.name, model.description, model.tags, {alias: str(number) for alias, number in model.aliases.items()},
            [
                (version.version, version.description or "", version.tags, version.current_stage, version.run_id, version.run_link or "")
                for version in sorted(client.search_model_versions(f'name = "{model.name}"'), key=lambda each: int(each.version))
            ],
        )
        for model in client.search_registered_models()
    ]  # fmt: skip


def test_what_came_from_mlflow_goes_back_the_same(ws: Workspace, original: Path, tmp_path: Path) -> None:
    brought(ws, original)
    left = leave(ws, tmp_path / "out")
    assert left.agrees, left.counts
    with client_of(f"sqlite:///{original}") as client:
        flights = client.get_experiment_by_name("flights").experiment_id
        before = told(client, flights), registered(client)
    with client_of(f"sqlite:///{tmp_path}/out/mlflow.db") as client:
        after = told(client, client.get_experiment_by_name("flights").experiment_id), registered(client)
        assert [experiment.lifecycle_stage for experiment in client.search_experiments(view_type=2)] == ["deleted"]
        folder = mlflow.artifacts.download_artifacts("models:/delay@champion", dst_path=str(tmp_path / "got"))
        assert (Path(folder) / "model.pkl").read_bytes() == b"\x80never opened"
        made = client.create_run("0")
        client.log_metric(made.info.run_id, "goes", 1.0)
        assert client.get_run(made.info.run_id).data.metrics == {"goes": 1.0}, "MLflow goes on with it"
    assert after == before


def test_it_comes_back_into_another_workspace(ws: Workspace, original: Path, tmp_path: Path) -> None:
    brought(ws, original)
    leave(ws, tmp_path / "out")
    with world.workspace(tmp_path / "other") as other:
        found = brought(other, tmp_path / "out" / "mlflow.db")
        # The export writes who made a run as a tag, where there was none.
        counts = {each.kind: each.ours for each in found.counts}
        assert (found.agrees, {**counts, "tags": COUNTS["tags"]}) == (True, COUNTS)


def test_what_was_made_here_is_there(ws: Workspace, tmp_path: Path) -> None:
    whole = start_run(ws, "train", name="whole", kind="pipeline")
    step = start_run(ws, "train", name="fit", kind="step", parent=whole.id, params={"depth": 3}, tags={"code": "abc"})
    log_batch(ws, step.id, metrics=[Metric(key="loss", value=0.5, step=1), Metric(key="loss", value=0.5, step=1)])
    log_artifact(ws, step.id, "plots/roc.txt", b"roc")
    end_run(ws, step.id, status="failed")
    version = world.model(ws, slope=2.0, run=step.id, tags={"a": "b"})
    promote(ws, "delay", 1, alias="champion")
    move(ws, "delay", 1, environment="staging")
    create_model(ws, "trash")
    delete_model(ws, "trash")
    for _ in range(2):
        delete_experiment(ws, create_experiment(ws, "old").id)
    left = leave(ws, tmp_path / "out")
    assert left.agrees, left.counts
    assert left.notes == (
        f"1 points of 'loss' in run {step.id} equal others in time, step and value: MLflow keeps one",
        "1 models and 0 versions in the trash are not written",
    )
    with client_of(f"sqlite:///{tmp_path}/out/mlflow.db") as client:
        run = client.get_run(step.id)
        assert (run.info.status, run.info.run_name, run.data.params) == ("FAILED", "fit", {"depth": "3"})
        assert run.data.tags == {"code": "abc", "mlflow.parentRunId": whole.id, "mlflow.runName": "fit", "mlflow.user": "owner"}
        assert [entry.path for entry in client.list_artifacts(step.id, "plots")] == ["plots/roc.txt"]
        found = client.get_model_version_by_alias("delay", "champion")
        assert (found.run_id, found.tags, found.current_stage) == (RunId(step.id), {"a": "b"}, "Staging")
        loaded = mlflow.pyfunc.load_model("models:/delay@champion")
        score = loaded.predict({"numeric": np.array([[1.0]], np.float32)})["score"].ravel()[0]
        assert score == pytest.approx(1 / (1 + np.exp(-2.0)))
        names = {each.name for each in client.search_experiments(view_type=2)}
        assert {name.partition(" ")[0] for name in names} == {"old"}
        assert len(names) == 2
    assert version.version == 1


def test_a_store_that_is_there_is_not_written_over(ws: Workspace, tmp_path: Path) -> None:
    leave(ws, tmp_path / "out")
    with pytest.raises(Conflict, match="holds an MLflow store already; name a folder that is new or empty"):
        leave(ws, tmp_path / "out")


def test_an_export_that_fails_leaves_no_store(ws: Workspace, tmp_path: Path) -> None:
    run = start_run(ws, "train", name="fit")
    artifact = log_artifact(ws, run.id, "a.txt", b"a")
    ws.objects.delete(artifact.digest)
    with pytest.raises(Exception, match="is not in"):
        leave(ws, tmp_path / "out")
    assert not list((tmp_path / "out").glob("mlflow.db*"))


def test_the_command_says_how_to_open_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world.init(tmp_path / "home").close()
    assert main(["export", "mlflow", str(tmp_path / "out"), "--home", str(tmp_path / "home")]) == 0
    told = capsys.readouterr().out
    assert f"open it with: mlflow server --backend-store-uri sqlite:///{tmp_path}/out/mlflow.db" in told
    with closing(sqlite3.connect(tmp_path / "out" / "mlflow.db")) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchall() == [("6953534de441",)]
    assert main(["export", "mlflow", str(tmp_path / "out"), "--home", str(tmp_path / "home"), "--json"]) == 1
    assert "holds an MLflow store already" in capsys.readouterr().err
