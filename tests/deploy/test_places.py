"""Where a version runs: every endpoint, in every role, now and back then."""

from datetime import timedelta

import pytest

from tests import world
from tests.deploy.worlds import BETTER
from tests.registry.mlflow_models import MLMODEL
from tidemill.core.codec import encode
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest
from tidemill.core.values import replace
from tidemill.deploy.endpoints import create_endpoint, read_endpoint
from tidemill.deploy.places import Place, where_runs
from tidemill.deploy.plans import canary_plan
from tidemill.deploy.rollouts import advance, roll_back, start_rollout
from tidemill.deploy.versions import compare_versions
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import read_aliases, read_version
from tidemill.registry.bundles import FilesElsewhere, NotServable, read_spec
from tidemill.registry.describe import rename_model
from tidemill.registry.locks import VersionLocked, lock, unlock
from tidemill.registry.models import create_model
from tidemill.registry.trash import delete_model
from tidemill.registry.versions import Origin, create_version, register
from tidemill.serving.runtimes.runtime import RuntimeRefused
from tidemill.store.trees import put_tree

pytestmark = pytest.mark.slow


def shown(places: list[Place]) -> list[tuple[str, str, str, float]]:
    return [(place.endpoint, place.variant, place.role, place.share) for place in places]


def test_where_a_version_runs_changes_with_a_rollout(any_ws: Workspace) -> None:
    first, second = world.model(any_ws), world.model(any_ws, slope=2.0)
    create_endpoint(any_ws, "delay", "delay@1", benchmark="delay@1")
    create_endpoint(any_ws, "other", "delay@1")
    assert shown(where_runs(any_ws, first)) == [
        ("delay", "v1", "benchmark", 0),
        ("delay", "v1", "answers", 1),
        ("other", "v1", "answers", 1),
    ]
    assert where_runs(any_ws, second) == []
    world.tick(any_ws, hours=1)
    rollout = start_rollout(any_ws, "delay", "delay@2", plan=canary_plan(shares=(0.0, 0.25), hold=timedelta(0)))
    assert shown(where_runs(any_ws, second)) == [("delay", "v2", "shadow", 0)]
    for _ in rollout.plan.stages:
        world.tick(any_ws, hours=1)
        rollout, _ = advance(any_ws, rollout, BETTER)
    assert rollout.state == "promoted"
    assert shown(where_runs(any_ws, second)) == [("delay", "v2", "answers", 1)]
    assert ("delay", "v1", "standby", 0) in shown(where_runs(any_ws, first))
    history = where_runs(any_ws, second, past=True)
    assert [(place.role, place.share) for place in history] == [("answers", 1), ("answers", 0.25), ("shadow", 0)]
    assert [place.valid_to for place in history] == [None, history[0].valid_from, history[1].valid_from]


def test_a_rename_keeps_everything_running(any_ws: Workspace) -> None:
    world.model(any_ws)
    world.model(any_ws, slope=2.0)
    create_endpoint(any_ws, "delay", "delay@1")
    rename_model(any_ws, "delay", "late")
    world.model(any_ws)  # another model takes the name
    assert shown(where_runs(any_ws, read_version(any_ws, "late@1"))) == [("delay", "v1", "answers", 1)]
    assert where_runs(any_ws, read_version(any_ws, "delay@1")) == []
    with pytest.raises(Invalid, match="answers with model 'delay', and delay~2@1 is of another"):
        start_rollout(any_ws, "delay", "delay@1", plan=canary_plan())
    world.tick(any_ws, hours=1)
    rollout = start_rollout(any_ws, "delay", "late@2", plan=canary_plan(shares=(0.5,), hold=timedelta(0)))
    world.tick(any_ws, hours=1)
    assert advance(any_ws, rollout, BETTER)[0].state == "promoted"
    assert (read_aliases(any_ws, "late"), read_aliases(any_ws, "delay")) == ({"champion": 2}, {})
    delete_model(any_ws, "late")
    assert roll_back(any_ws, "delay", reason="the trash keeps nothing from running").route.leader.version == 1


def test_a_rollout_waits_while_a_version_is_locked(ws: Workspace) -> None:
    world.model(ws)
    world.model(ws, slope=2.0)
    create_endpoint(ws, "delay", "delay@1")
    lock(ws, "delay", 1, reason="frozen")
    with pytest.raises(VersionLocked, match="model delay@1 is locked by 'owner'"):
        start_rollout(ws, "delay", "delay@2", plan=canary_plan())
    unlock(ws, "delay", 1)
    rollout = start_rollout(ws, "delay", "delay@2", plan=canary_plan(shares=(0.5,), hold=timedelta(0)))
    lock(ws, "delay", 2, reason="not before Monday")
    world.tick(ws, hours=1)
    rollout, decision = advance(ws, rollout, BETTER)
    assert (rollout.state, decision.action) == ("running", "hold")
    assert "it waits, for model delay@2 is locked by 'owner' since 2013-06-01 00:00 UTC (not before Monday)" in rollout.reason
    unlock(ws, "delay", 2)
    world.tick(ws, hours=1)
    assert advance(ws, rollout, BETTER)[0].state == "promoted"
    lock(ws, "delay", 2, reason="frozen")
    with pytest.raises(VersionLocked, match="model delay@2 is locked"):
        roll_back(ws, "delay", reason="by hand")
    assert read_endpoint(ws, "delay").route.leader.version == 2


def test_what_cannot_be_served_is_said_when_it_is_deployed(ws: Workspace) -> None:
    register(ws, "theirs", put_tree(ws.objects, {"MLmodel": b"flavors: {sklearn: {}}", "model.pkl": b"\x80"}))
    with pytest.raises(NotServable, match=r"cannot be served: they are an MLflow model \(flavors: sklearn\): its MLmodel has no signature"):
        create_endpoint(ws, "delay", "theirs@1")
    register(ws, "pickled", put_tree(ws.objects, {"MLmodel": MLMODEL, "model.pkl": b"\x80"}))
    with pytest.raises(RuntimeRefused, match=r"models of runtime 'mlflow' \(it trusts: lightgbm, onnx, xgboost\)"):
        create_endpoint(ws, "delay", "pickled@1")
    create_model(ws, "far")
    create_version(ws, "far", origin=Origin(source="s3://b/m"))
    with pytest.raises(FilesElsewhere, match=r"model far@1 has no files in this workspace \(they lie at s3://b/m\)"):
        create_endpoint(ws, "delay", "far@1")
    world.model(ws)
    create_endpoint(ws, "delay", "delay@1")
    with pytest.raises(Invalid, match="answers with model 'delay', and theirs@1 is of another"):
        start_rollout(ws, "delay", "theirs@1", plan=canary_plan())
    register(ws, "delay", Digest(put_tree(ws.objects, {"MLmodel": b"flavors: {}"})))
    with pytest.raises(NotServable, match=r"an MLflow model \(flavors: none\)"):
        start_rollout(ws, "delay", "delay@2", plan=canary_plan())
    assert len(compare_versions(ws, ["delay@1", "delay@2", "far@1"]).versions) == 3


def test_a_runtime_that_the_server_does_not_trust_is_refused_when_it_is_deployed(ws: Workspace) -> None:
    spec = replace(read_spec(ws, world.bundle(ws)), runtime="python", file="model.py:predict")
    register(ws, "delay", put_tree(ws.objects, {"model.py": b"def predict(columns): ...", "model.json": encode(spec)}))
    with pytest.raises(RuntimeRefused, match=r"does not load models of runtime 'python' \(it trusts: lightgbm, onnx, xgboost\)"):
        create_endpoint(ws, "delay", "delay@1")
