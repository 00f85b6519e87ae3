"""From one answer back: every step of the way is there, as it was at the time."""

from datetime import timedelta

import pyarrow as pa
import pytest

from tests import world
from tests.deploy import worlds
from tests.deploy.worlds import BETTER, Ledger
from tidemill.checks.check import CheckResult
from tidemill.datasets.versions import add
from tidemill.deploy.endpoints import EndpointNotFound, create_endpoint
from tidemill.deploy.plans import canary_plan
from tidemill.deploy.rollouts import advance, start_rollout
from tidemill.deploy.trace import trace
from tidemill.govern.workspace import Workspace, create_project
from tidemill.serving.history import PredictionNotFound
from tidemill.tracking.runs import end_run, start_run

pytestmark = pytest.mark.slow

CHECK = CheckResult(name="auc", verdict="pass", summary="0.75, at least 0.7 expected")


@pytest.fixture
def released(ws: Workspace):
    """One version answers from June on, the next one took over a day later; both answered and were told what came true."""
    add(ws, "flights", pa.table({"id": [1, 2]}))
    for number in (1, 2):
        whole = start_run(ws, "train", name="train", kind="pipeline", tags={"code": f"commit{number}"})
        step = start_run(ws, "train", name="fit", kind="step", parent=whole.id, sources=["dataset:flights@1"])
        world.model(ws, slope=float(number), run=step.id, checks=[CHECK])
        end_run(ws, step.id)
        end_run(ws, whole.id)
    create_endpoint(ws, "delay", "delay@1", reason="June begins")
    ledger = Ledger(ws)
    world.tick(ws, hours=1)
    ledger.predict({"early": 0.2}, carrier="UA", delay=3.5)
    world.tick(ws, days=1)
    rollout = start_rollout(ws, "delay", "delay@2", plan=canary_plan(shares=(0.1, 0.5), hold=timedelta(0)), reason="fresher")
    for _ in rollout.plan.stages:
        world.tick(ws, hours=1)
        rollout, _ = advance(ws, rollout, BETTER)
    world.tick(ws, hours=1)
    ledger.predict({"late": 0.9}, variant="v2", carrier="AA", delay=60.0)
    ledger.predict({"late": 0.1}, variant="v1", shadow=True)
    ledger.label({"late": 1, "early": "no idea"})
    yield ws
    ledger.close()


def test_the_way_back_from_an_answer(released: Workspace) -> None:
    found = trace(released, "late")
    assert (found.prediction.score, found.prediction.version, found.prediction.columns) == (0.9, 2, {"carrier": "AA", "delay": 60.0})
    assert found.label == 1.0
    assert found.model.node == "model:delay@2"
    assert [record.result for record in found.checks] == [CHECK]
    assert [(run.kind, run.name) for run in found.runs] == [("pipeline", "train"), ("step", "fit")]
    assert found.code == "commit2"
    assert [dataset.node for dataset in found.datasets] == ["dataset:flights@1"]
    assert found.route is not None
    assert found.route.route.shares == {"v2": 1.0}
    assert [event.kind for event in found.release] == [
        "rollout.started",
        "endpoint.routed",
        "rollout.advanced",
        "endpoint.routed",
        "rollout.ended",
        "endpoint.routed",
    ]
    assert found.release[0].reason == "fresher"


def test_what_happened_afterwards_is_no_part_of_it(released: Workspace) -> None:
    found = trace(released, "early", endpoint="delay")
    assert (found.prediction.version, found.code, found.label) == (1, "commit1", "no idea")
    assert found.route is not None
    assert (found.route.route.shares, found.route.reason) == ({"v1": 1.0}, "June begins")
    assert [event.kind for event in found.release] == ["endpoint.created", "endpoint.routed"]


def test_what_was_not_answered_is_not_found(released: Workspace) -> None:
    with pytest.raises(PredictionNotFound, match="no prediction 'never' was journaled; expected an id that an endpoint answered with"):
        trace(released, "never")
    with pytest.raises(EndpointNotFound, match="there is no endpoint 'nothing'"):
        trace(released, "late", endpoint="nothing")


def test_another_projects_answers_are_not_told(released: Workspace) -> None:
    create_project(released, "lab")
    lab = released.acting(released.actor, "lab")
    worlds.three_models(lab)
    create_endpoint(lab, "delay", "delay@1")
    with pytest.raises(PredictionNotFound):
        trace(lab, "late")
    with pytest.raises(PredictionNotFound):
        trace(lab, "late", endpoint="delay")


def test_a_viewer_may_follow_an_answer(released: Workspace) -> None:
    assert trace(world.acting(released, "eve", "viewer"), "late").model.version == 2
