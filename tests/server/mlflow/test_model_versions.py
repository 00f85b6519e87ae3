"""What versions are made of: files of runs, logged models, other versions, places elsewhere; loaded back by MLflow itself."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mlflow = pytest.importorskip("mlflow")
from mlflow.exceptions import MlflowException  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from tests import world  # noqa: E402
from tests.server.mlflow.registry import Place, serving  # noqa: E402
from tidemill.catalog.lineage import walk  # noqa: E402
from tidemill.core.digest import digest_bytes  # noqa: E402
from tidemill.core.errors import NotFound  # noqa: E402
from tidemill.govern.workspace import Workspace, open_workspace  # noqa: E402
from tidemill.registry.aliases import read_version  # noqa: E402
from tidemill.registry.bundles import describe_bundle  # noqa: E402
from tidemill.registry.trash import delete_version  # noqa: E402
from tidemill.server.mlflow.native import find_native, list_native  # noqa: E402
from tidemill.store.trees import read_tree  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
X, Y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("versions")) as made:
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(made.url)
        mlflow.set_registry_uri(made.url)
        yield made
        mlflow.set_tracking_uri(before)
        mlflow.set_registry_uri(None)


@pytest.fixture
def client(place: Place) -> Any:
    return place.client


@pytest.fixture
def ws(place: Place) -> Iterator[Workspace]:
    with open_workspace(place.home) as found:
        yield found


def refused(act: Callable[[], Any]) -> str:
    with pytest.raises(MlflowException) as caught:
        act()
    assert (caught.value.error_code, caught.value.get_http_status_code()) == ("INVALID_PARAMETER_VALUE", 400)
    return str(caught.value.message)


def test_a_model_that_was_logged_is_loaded_by_its_alias(client: Any, ws: Workspace) -> None:
    with mlflow.start_run() as run:
        fitted = LogisticRegression().fit(X, Y)
        logged = mlflow.sklearn.log_model(fitted, name="model", input_example=X, registered_model_name="line")
    client.set_registered_model_alias("line", "champion", "1")
    loaded = mlflow.pyfunc.load_model("models:/line@champion")
    assert loaded.predict(X).tolist() == fitted.predict(X).tolist()
    assert mlflow.sklearn.load_model("models:/line/1").predict(X).tolist() == fitted.predict(X).tolist()
    again = mlflow.register_model(logged.model_uri, "line")
    assert (again.version, again.run_id) == ("2", run.info.run_id)

    version = read_version(ws, "line@champion")
    assert version.bundle is not None
    files = describe_bundle(ws, version.bundle)
    assert files.mlmodel is not None
    assert (files.format, "sklearn" in files.mlmodel.flavors, files.mlmodel.model_id) == ("mlflow", True, logged.model_id)
    assert (version.run, version.logged_model, version.size_bytes) == (run.info.run_id, logged.model_id, files.size_bytes)
    with ws.catalog.reading() as tx:
        sources = {edge.source for edge in walk(tx, ws.project, version.node)}
    assert {f"run:{run.info.run_id}", f"logged-model:{logged.model_id}"} <= sources
    told = client.get_logged_model(logged.model_id).tags["mlflow.modelVersions"]
    assert told.startswith('[{"name": "line", "version": 1}'), "the client writes its own entries behind the server's"


def test_a_bundle_that_was_registered_here_is_loaded_by_mlflow(client: Any, ws: Workspace, tmp_path: Path) -> None:
    made = world.model(ws, "late", slope=2.0)
    assert made.bundle is not None
    loaded = mlflow.pyfunc.load_model("models:/late/1")
    score = loaded.predict({"numeric": np.array([[1.0]], np.float32)})["score"].ravel()[0]
    assert score == pytest.approx(1 / (1 + np.exp(-2.0)))
    place = client.get_model_version_download_uri("late", "1")
    folder = Path(mlflow.artifacts.download_artifacts(place, dst_path=str(tmp_path)))
    own = {entry.path: entry.digest for entry in read_tree(ws.objects, made.bundle).entries}
    assert {path.name for path in folder.iterdir()} == {*own, "MLmodel"}
    assert {name: digest_bytes((folder / name).read_bytes()) for name in own} == own

    inside = place.removeprefix("mlflow-artifacts:/")
    assert [entry.name for entry in list_native(ws, inside)] == sorted({*own, "MLmodel"})
    for missing in (
        f"{inside}/no",
        f"{inside}0/MLmodel",
        "registered-models/no/1/MLmodel",
        f"{inside}/../1/MLmodel",
        "other/1/MLmodel",
        "registered-models/=zz/1/MLmodel",
    ):
        with pytest.raises(NotFound):
            find_native(ws, missing)
        assert list_native(ws, missing) == []
    delete_version(ws, "late", 1)
    assert list_native(ws, inside) == [], "what is in the trash is not handed out"


def test_a_bundle_under_an_odd_name_is_fetched_too(client: Any, ws: Workspace, tmp_path: Path) -> None:
    client.create_registered_model("50% späte #1?")
    world.model(ws, "50% späte #1?")
    place = client.get_model_version_download_uri("50% späte #1?", "1")
    assert (Path(mlflow.artifacts.download_artifacts(place, dst_path=str(tmp_path))) / "MLmodel").exists()


def test_files_of_a_run_are_kept_as_they_were(client: Any, ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"weights")
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}\nmodel_uuid: u1\n")
    run = client.create_run("0")
    client.log_artifacts(run.info.run_id, str(tmp_path))
    client.create_registered_model("files")
    for source in (f"runs:/{run.info.run_id}/model", f"{run.info.artifact_uri}/model"):
        made = client.create_model_version("files", source, run_id=run.info.run_id)
        version = read_version(ws, f"files@{made.version}")
        assert version.bundle is not None
        assert [entry.path for entry in read_tree(ws.objects, version.bundle).entries] == ["MLmodel", "weights.bin"]
        assert (version.source, client.get_model_version_download_uri("files", made.version)) == (source, source)
        folder = mlflow.artifacts.download_artifacts(f"models:/files/{made.version}", dst_path=str(tmp_path / made.version))
        assert (Path(folder) / "weights.bin").read_bytes() == b"weights"
    empty = client.create_model_version("files", f"runs:/{run.info.run_id}/nothing", run_id=run.info.run_id)
    assert read_version(ws, f"files@{empty.version}").bundle is None


def test_a_version_may_be_made_of_another(client: Any, ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"w")
    run = client.create_run("0")
    client.log_artifact(run.info.run_id, str(tmp_path / "w"), "model")
    client.create_registered_model("origin")
    client.create_model_version("origin", f"runs:/{run.info.run_id}/model", run_id=run.info.run_id)
    client.set_registered_model_alias("origin", "best", 1)
    client.transition_model_version_stage("origin", 1, "Staging")
    copied = client.copy_model_version("models:/origin/1", "copy")
    assert (copied.version, copied.source, copied.run_id) == ("1", "models:/origin/1", run.info.run_id)
    for source in ("models:/origin@best", "models:/origin/Staging", "models:/origin/latest"):
        made = client._get_registry_client().store.create_model_version("copy", source)
        assert (made.source, made.run_id) == ("models:/origin/1", run.info.run_id)
    client.delete_registered_model("origin")
    assert client.get_model_version_download_uri("copy", 1) == f"runs:/{run.info.run_id}/model"
    assert read_version(ws, "copy@1").bundle == read_version(ws, "copy@4").bundle is not None


def test_a_source_must_be_of_what_is_named_beside_it(client: Any) -> None:
    run, other = client.create_run("0"), client.create_run("0")
    model = client.create_logged_model("0", name="m", source_run_id=run.info.run_id)
    client.create_registered_model("strict")
    create = client._get_registry_client().store.create_model_version
    root, mine = run.info.artifact_uri, run.info.run_id
    for source, named in (
        ("/etc/passwd", {}), ("file:///etc", {}), ("file:///etc", {"run_id": mine}), ("relative/path", {"run_id": mine}),
        (f"{root}/../../x", {"run_id": mine}), (f"{root}/%2e%2e/x", {"run_id": mine}), (f"{root}/%252e%252e%252fx", {"run_id": mine}),
        (f"{root}/model", {}), (f"{root}/model", {"run_id": other.info.run_id}), (f"{root}/model", {"model_id": model.model_id}),
        ("mlflow-artifacts:/0/x", {"run_id": mine}), ("mlflow-artifacts://elsewhere:5000/0/x", {"run_id": mine}),
        (f"runs:/{mine}/model", {}), (f"runs:/{mine}/model", {"run_id": other.info.run_id}),
        (f"runs:/{mine}/m", {"model_id": model.model_id}),
        (f"models:/{model.model_id}", {}), (f"models:/{model.model_id}", {"model_id": "m-" + "0" * 32}), ("models:/", {}),
        ("models://host/strict/1", {}), ("models:/strict@nothing", {}), ("http://h/api/2.0/mlflow-artifacts/artifacts/0/x", {}),
    ):  # fmt: skip
        assert refused(lambda source=source, named=named: create("strict", source, **named)), source
    assert client.search_model_versions("name = 'strict'") == []
    made = create("strict", f"models:/{model.model_id}", model_id=model.model_id)
    assert (made.run_id, client.get_model_version_download_uri("strict", 1)) == (mine, model.artifact_location)
    assert create("strict", f"{model.artifact_location}", model_id=model.model_id).run_id == mine
    assert create("strict", "s3://bucket/../ok/m".replace("../", "")).run_id == ""


def test_a_local_path_is_taken_only_where_the_experiment_keeps_its_files(client: Any, ws: Workspace, tmp_path: Path) -> None:
    experiment = client.create_experiment("local", artifact_location=tmp_path.as_uri())
    run = client.create_run(experiment)
    client.create_registered_model("local")
    create = client._get_registry_client().store.create_model_version
    made = create("local", f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    assert read_version(ws, f"local@{made.version}").bundle is None, "the server reads nobody's disk"
    refused(lambda: create("local", tmp_path.as_uri(), run_id=run.info.run_id))
    refused(lambda: create("local", f"{run.info.artifact_uri}/../x", run_id=run.info.run_id))
