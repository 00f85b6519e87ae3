"""Versions: what they came of, files of any kind, numbers that are never used twice."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import world
from tests.registry.mlflow_models import MLMODEL
from tidemill.catalog.events import read_events
from tidemill.catalog.lineage import walk
from tidemill.checks.check import CheckResult, list_checks
from tidemill.core.errors import Invalid
from tidemill.core.ids import RunId
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import read_version
from tidemill.registry.bundles import FilesElsewhere, NotServable, describe_bundle, read_spec
from tidemill.registry.models import ModelNotFound, create_model, list_models
from tidemill.registry.trash import delete_version
from tidemill.registry.versions import Origin, bundle_of, create_version, list_versions, register
from tidemill.store.trees import put_tree
from tidemill.tracking.runs import start_run

GOOD = CheckResult(name="auc", verdict="pass", summary="0.75, at least 0.7 expected")


def test_versions_count_up_and_know_where_they_came_from(any_ws: Workspace) -> None:
    run = start_run(any_ws, "train", name="fit", sources=["dataset:flights@3"])
    first = world.model(any_ws, run=run.id, checks=[GOOD], metrics={"auc": 0.75}, tags={"data_until": "2013-06-01"})
    second = world.model(any_ws, slope=2.0)
    assert (first.version, second.version, first.verdict) == (1, 2, "pass")
    assert [version.version for version in list_versions(any_ws, "delay")] == [2, 1]
    assert read_version(any_ws, "delay@1") == first
    assert read_version(any_ws, "delay").version == 2
    assert [model.name for model in list_models(any_ws)] == ["delay"]
    assert [record.result for record in list_checks(any_ws, first.node)] == [GOOD]
    with any_ws.catalog.reading() as tx:
        assert {edge.source for edge in walk(tx, any_ws.project, first.node)} == {f"run:{run.id}", "dataset:flights@3"}


def test_the_same_files_of_the_same_run_are_one_version_for_who_asks_once(any_ws: Workspace) -> None:
    bundle, run = world.bundle(any_ws), start_run(any_ws, "train", name="fit").id
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: register(any_ws, "delay", bundle, run=run, once=True), range(8)))
    assert {version.version for version in made} == {1}
    assert register(any_ws, "delay", bundle, run=run).version == 2
    other = start_run(any_ws, "train", name="again").id
    assert register(any_ws, "delay", bundle, run=other, once=True).version == 3


def test_a_tree_that_does_not_say_what_it_is_is_refused(ws: Workspace) -> None:
    with pytest.raises(Invalid, match=r"say nowhere what they are: expected model\.json or MLmodel among model\.onnx"):
        register(ws, "delay", put_tree(ws.objects, {"model.onnx": b"x"}))
    with pytest.raises(Invalid, match=r"model\.json is not valid JSON"):
        register(ws, "delay", put_tree(ws.objects, {"model.onnx": b"x", "model.json": b"{"}))
    with pytest.raises(Invalid, match="MLmodel is not valid YAML"):
        register(ws, "delay", put_tree(ws.objects, {"MLmodel": b"{"}))
    assert list_models(ws) == []


def test_a_metric_that_is_no_number_is_refused(ws: Workspace) -> None:
    with pytest.raises(
        Invalid, match=r"metrics of model 'delay' are no finite numbers: {'auc': nan}; leave out what could not be measured"
    ):
        world.model(ws, metrics={"auc": float("nan"), "brier": 0.1})
    assert list_models(ws) == []


def test_an_mlflow_model_is_a_version_that_says_how_it_is_served(ws: Workspace) -> None:
    made = register(ws, "delay", put_tree(ws.objects, {"MLmodel": MLMODEL, "model.pkl": b"\x80never opened"}))
    found = describe_bundle(ws, bundle_of(made))
    assert found.mlmodel is not None
    assert (found.format, found.files, sorted(found.mlmodel.flavors)) == ("mlflow", 2, ["python_function", "sklearn"])
    spec = read_spec(ws, bundle_of(made))
    assert (spec.runtime, spec.request_columns) == ("mlflow", ("wind", "carrier"))
    bare = register(ws, "bare", put_tree(ws.objects, {"MLmodel": b"flavors: {sklearn: {}}"}))
    with pytest.raises(NotServable, match=r"they are an MLflow model \(flavors: sklearn\): its MLmodel has no signature; log it with"):
        read_spec(ws, bundle_of(bare))


def test_files_may_lie_elsewhere_or_be_of_any_kind(any_ws: Workspace) -> None:
    create_model(any_ws, "delay")
    origin = Origin(source="s3://bucket/model", run=RunId("a" * 32), run_link="https://ci/7", logged_model="m-1", sources=("dataset:d@1",))
    far = create_version(any_ws, "delay", origin=origin, description="of last year", tags={"a": "b", "long": "x" * 3000})
    assert (far.bundle, far.size_bytes, far.source, far.run, far.run_link, far.logged_model) == (
        None, 0, "s3://bucket/model", "a" * 32, "https://ci/7", "m-1",
    )  # fmt: skip
    assert read_version(any_ws, "delay") == far
    with pytest.raises(FilesElsewhere, match=r"model delay@1 has no files in this workspace \(they lie at s3://bucket/model\)"):
        bundle_of(far)
    near = create_version(any_ws, "delay", origin=Origin(), bundle=put_tree(any_ws.objects, {"notes.txt": b"hello"}))
    assert (near.version, near.size_bytes, describe_bundle(any_ws, bundle_of(near)).format) == (2, 5, "files")
    with pytest.raises(NotServable, match=r"they are files without model\.json or MLmodel"):
        read_spec(any_ws, bundle_of(near))
    with pytest.raises(ModelNotFound, match=r"no model 'fraud' \(there are: delay\)"):
        create_version(any_ws, "fraud", origin=Origin())
    with any_ws.catalog.reading() as tx:
        assert {edge.source for edge in walk(tx, any_ws.project, far.node)} == {"dataset:d@1", f"run:{'a' * 32}", "logged-model:m-1"}
        told = read_events(tx, any_ws.project, kinds=["model.registered"])[0]
    assert told.body["tags"] == {"a": "b"}, "a text of a hundred pages is no news"


def test_the_number_of_a_deleted_version_is_not_used_again(ws: Workspace) -> None:
    world.model(ws)
    world.model(ws)
    delete_version(ws, "delay", 2)
    assert [version.version for version in list_versions(ws, "delay")] == [1]
    assert world.model(ws).version == 3


def test_a_viewer_registers_nothing(ws: Workspace) -> None:
    create_model(ws, "delay")
    with pytest.raises(ActionRefused, match="viewer"):
        create_version(world.acting(ws, "eve", "viewer"), "delay", origin=Origin())


def test_a_number_from_elsewhere_is_kept_where_it_is_free(any_ws: Workspace) -> None:
    create_model(any_ws, "delay")
    made = [create_version(any_ws, "delay", origin=Origin(), wanted=wanted).version for wanted in (3, 1, 3, None, 2)]
    assert made == [3, 1, 4, 5, 2]
