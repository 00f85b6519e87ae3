"""Versions side by side: every aspect, differences marked, nothing asked of what is not there."""

import pyarrow as pa
import pytest

from tests import world
from tests.registry.mlflow_models import MLMODEL
from tidemill.checks.check import CheckResult
from tidemill.core.errors import Invalid
from tidemill.core.ids import RunId
from tidemill.datasets.versions import add
from tidemill.deploy.endpoints import create_endpoint
from tidemill.deploy.origins import read_origins
from tidemill.deploy.versions import VersionComparison, compare_versions, lines
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import AliasNotFound, promote, read_version
from tidemill.registry.environments import move
from tidemill.registry.versions import Origin, create_version
from tidemill.store.trees import put_tree
from tidemill.tracking.batches import Metric, log_batch
from tidemill.tracking.runs import start_run

pytestmark = pytest.mark.slow


def lived(ws: Workspace) -> None:
    """Two trainings of one model, and a version that came from elsewhere."""
    add(ws, "flights", pa.table({"id": [1, 2]}))
    for number in (1, 2):
        run = start_run(
            ws, "train", name="fit", sources=["dataset:flights@1"], params={"depth": 3, "rate": number}, tags={"code": f"commit{number}"}
        )
        log_batch(ws, run.id, metrics=[Metric(key="loss", value=0.5 / number)])
        check = CheckResult(name="auc", verdict="pass" if number == 1 else "warn", summary="?")
        world.model(ws, slope=float(number), run=run.id, metrics={"auc": 0.7 + number / 100}, checks=[check], tags={"n": str(number)})
    bundle = put_tree(ws.objects, {"MLmodel": MLMODEL})
    far = Origin(run=RunId("f" * 32), source="mlflow-artifacts:/1/x", sources=("dataset:theirs@deadbeef", "dataset:theirs@12345678"))
    create_version(ws, "delay", origin=far, bundle=bundle)
    create_endpoint(ws, "delay", "delay@2")
    promote(ws, "delay", 2, alias="champion")
    move(ws, "delay", 1, environment="staging")


def facts(found: VersionComparison) -> dict[tuple[str, str], tuple[object, ...]]:
    return {(line.aspect, line.name): line.values for line in found.lines}


def test_every_aspect_stands_side_by_side(any_ws: Workspace) -> None:
    lived(any_ws)
    found = compare_versions(any_ws, ["delay@1", "delay@champion", "delay@3"])
    assert [version.version for version in found.versions] == [1, 2, 3]
    told = facts(found)
    assert told["version", "environment"] == ("staging", None, None)
    assert told["version", "aliases"] == (None, "champion", None)
    assert told["version", "runs at"] == (None, "delay (answers 100%)", None)
    assert told["metrics", "auc"] == (0.71, 0.72, None)
    assert told["params", "depth"] == ("3", "3", None)
    assert told["params", "rate"] == ("1", "2", None)
    assert told["run metrics", "loss"] == (0.5, 0.25, None)
    assert told["checks", "auc"] == ("pass", "warn", None)
    assert told["signature", "in x"] == ("double", "double", None)
    assert told["signature", "in wind"] == (None, None, "double")
    assert told["signature", "flavors"] == (None, None, "python_function, sklearn")
    assert told["origin", "code"] == ("commit1", "commit2", None)
    assert told["origin", "data"] == ("flights@1", "flights@1", "theirs@12345678, theirs@deadbeef")
    assert told["tags", "n"] == ("1", "2", None)
    same = {(line.aspect, line.name) for line in compare_versions(any_ws, ["delay@1", "delay@2"]).lines if line.same}
    assert {("params", "depth"), ("origin", "data"), ("signature", "in x"), ("version", "by")} <= same
    assert not {("params", "rate"), ("metrics", "auc"), ("checks", "auc"), ("version", "bundle")} & same


def test_where_a_version_came_from(any_ws: Workspace) -> None:
    lived(any_ws)
    origins = read_origins(any_ws, read_version(any_ws, "delay@2"))
    assert ([run.name for run in origins.runs], origins.code, origins.data) == (["fit"], "commit2", ("flights@1",))
    assert [dataset.rows for dataset in origins.datasets] == [2]
    far = read_origins(any_ws, read_version(any_ws, "delay@3"))
    assert (far.runs, far.datasets, far.data) == ((), (), ("theirs@12345678", "theirs@deadbeef"))


def test_a_value_that_is_no_number_equals_itself() -> None:
    (line,) = lines([{"metrics": {"a": float("nan")}}, {"metrics": {"a": float("nan")}}])
    assert line.same


def test_too_few_and_what_is_not_there(ws: Workspace) -> None:
    world.model(ws)
    with pytest.raises(Invalid, match="1 versions cannot be compared; name 2 to 20 of them"):
        compare_versions(ws, ["delay@1"])
    with pytest.raises(AliasNotFound, match="no alias 'champion'"):
        compare_versions(ws, ["delay@1", "delay@champion"])
