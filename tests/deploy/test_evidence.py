"""What a rollout sees: both variants' scores of the same rows, the labels that have come, answers and failures."""

import pytest

from tests import world
from tests.deploy import worlds
from tests.deploy.worlds import Ledger
from tidemill.deploy.endpoints import create_endpoint
from tidemill.deploy.evidence import look
from tidemill.deploy.plans import canary_plan
from tidemill.deploy.rollouts import Rollout, start_rollout
from tidemill.govern.workspace import Workspace, create_project
from tidemill.serving.archive import compact

pytestmark = pytest.mark.slow


@pytest.fixture
def rollout(ws: Workspace) -> Rollout:
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    return start_rollout(ws, "delay", "delay@2", plan=canary_plan())


@pytest.fixture
def ledger(ws: Workspace):
    ledger = Ledger(ws)
    yield ledger
    ledger.close()


def test_nothing_has_happened_yet(ws: Workspace, rollout: Rollout) -> None:
    comparison = look(ws, rollout)
    assert (comparison.labels, comparison.touched, comparison.scored, comparison.failed) == (0, 0, 0, 0)
    assert (comparison.lower, comparison.upper) == (-1.0, 1.0)


def test_rows_that_both_scored_and_whose_label_has_come_are_compared(ws: Workspace, rollout: Rollout, ledger: Ledger) -> None:
    ledger.predict({"before": 0.9}, at=world.START - (world.tick(ws, hours=1) - world.START))
    ledger.predict({"a": 0.8, "b": 0.4})
    ledger.predict({"a": 0.6, "b": 0.2}, variant="v2", shadow=True)
    ledger.predict({"c": 0.7}, variant="v2")  # the challenger answered, the champion scored along
    ledger.predict({"c": 0.1}, variant="v1", shadow=True)
    ledger.predict({"alone": 0.5})
    ledger.predict({"unlabelled": 0.5})
    ledger.predict({"unlabelled": 0.5}, variant="v2", shadow=True)
    ledger.predict({"other": 0.5}, variant="v3", shadow=True)
    world.tick(ws, hours=1)
    ledger.label({"a": 1, "b": False, "c": 1.0, "alone": 1, "before": 1, "other": 0})
    world.tick(ws, hours=1)
    comparison = look(ws, rollout)
    assert (comparison.labels, comparison.touched, comparison.scored, comparison.failed) == (3, 1, 4, 0)
    assert comparison.champion_loss == pytest.approx((0.2**2 + 0.4**2 + 0.9**2) / 3)
    assert comparison.challenger_loss == pytest.approx((0.4**2 + 0.2**2 + 0.3**2) / 3)
    assert comparison.difference == pytest.approx(comparison.challenger_loss - comparison.champion_loss)
    ledger.close()
    assert compact(ws.state, "delay").segments == 2
    assert look(ws, rollout) == comparison


def test_a_label_that_is_not_known_yet_is_not_seen(ws: Workspace, rollout: Rollout, ledger: Ledger) -> None:
    for variant, shadow in (("v1", False), ("v2", True)):
        ledger.predict({"a": 0.8}, variant=variant, shadow=shadow)
    ledger.label({"a": 1}, at=world.tick(ws, hours=2))
    assert look(ws, rollout).labels == 0
    world.tick(ws, seconds=1)
    assert look(ws, rollout).labels == 1


def test_a_corrected_label_counts_as_it_was_told_last(ws: Workspace, rollout: Rollout, ledger: Ledger) -> None:
    for variant, shadow in (("v1", False), ("v2", True)):
        ledger.predict({"a": 1.0}, variant=variant, shadow=shadow)
    ledger.label({"a": 1})
    ledger.label({"a": 0})
    world.tick(ws, seconds=1)
    assert look(ws, rollout).champion_loss == 1.0


def test_labels_that_are_text_are_others_business(ws: Workspace, rollout: Rollout, ledger: Ledger) -> None:
    for variant, shadow in (("v1", False), ("v2", True)):
        ledger.predict({"a": 1.0, "b": 1.0}, variant=variant, shadow=shadow)
    ledger.label({"a": "cat", "b": 1, "of nobody": "dog"})
    world.tick(ws, seconds=1)
    assert look(ws, rollout).labels == 1


def test_rows_on_which_the_challenger_failed_are_counted(ws: Workspace, rollout: Rollout, ledger: Ledger) -> None:
    ledger.fail(3, variant="v2")
    ledger.fail(5, variant="v1")
    ledger.predict({"a": 0.5, "b": 0.5}, variant="v2")
    world.tick(ws, seconds=1)
    comparison = look(ws, rollout)
    assert (comparison.touched, comparison.scored, comparison.failed) == (2, 2, 3)


def test_an_endpoint_of_another_project_has_a_journal_of_its_own(ws: Workspace, rollout: Rollout, ledger: Ledger) -> None:
    create_project(ws, "lab")
    lab = ws.acting(ws.actor, "lab")
    worlds.three_models(lab)
    create_endpoint(lab, "delay", "delay@1")
    theirs = start_rollout(lab, "delay", "delay@2", plan=canary_plan())
    ledger.predict({"a": 0.5}, variant="v2")
    world.tick(ws, seconds=1)
    assert (look(ws, rollout).touched, look(lab, theirs).touched) == (1, 0)
