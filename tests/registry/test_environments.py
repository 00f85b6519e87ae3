"""Environments: the way of a version to production, with the whole history, and the gate before it."""

from typing import Any

import pytest

from tests import world
from tidemill.checks.check import CheckResult
from tidemill.core.errors import Invalid
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import read_version
from tidemill.registry.environments import environment_history, move, newest_by_environment, read_environments
from tidemill.registry.models import ModelNotFound
from tidemill.registry.promotion import ChecksFailed

BAD = CheckResult(name="auc", verdict="fail", summary="0.5 is no better than chance")


def test_a_version_goes_its_way_and_every_stay_is_remembered(any_ws: Workspace) -> None:
    world.model(any_ws)
    assert read_version(any_ws, "delay@1").environment == ""
    moments = []
    for environment in ("dev", "staging", "production"):
        assert move(any_ws, "delay", 1, environment=environment, reason=f"to {environment}").environment == environment
        moments.append(any_ws.clock.now())
        world.tick(any_ws, days=1)
    assert read_version(any_ws, "delay@1").environment == "production"
    assert read_environments(any_ws, "delay") == {1: "production"}
    assert read_environments(any_ws, "delay", at=moments[1]) == {1: "staging"}
    assert [(s.environment, s.reason, s.valid_from, s.valid_to) for s in environment_history(any_ws, "delay")] == [
        ("production", "to production", moments[2], None),
        ("staging", "to staging", moments[1], moments[2]),
        ("dev", "to dev", moments[0], moments[1]),
    ]
    told = list_events(any_ws, kinds=["model.moved"])[0]
    assert told.body == {"model": "delay", "version": 1, "environment": "production", "previous": "staging"}
    move(any_ws, "delay", 1, environment="")
    assert read_environments(any_ws, "delay") == {}


def test_moving_to_where_it_stands_is_no_news(ws: Workspace) -> None:
    world.model(ws)
    move(ws, "delay", 1, environment="dev")
    world.tick(ws, hours=1)
    assert move(ws, "delay", 1, environment="dev").updated_at == ws.clock.now()
    assert (len(environment_history(ws, "delay")), len(list_events(ws, kinds=["model.moved"]))) == (1, 1)


def test_what_stood_there_can_be_archived(any_ws: Workspace) -> None:
    for _ in range(3):
        world.model(any_ws)
    for version in (1, 2):
        move(any_ws, "delay", version, environment="production")
    world.tick(any_ws, hours=1)
    move(any_ws, "delay", 3, environment="production", archive=True)
    assert read_environments(any_ws, "delay") == {1: "archived", 2: "archived", 3: "production"}
    assert environment_history(any_ws, "delay")[-1].valid_to is not None
    assert {event.reason for event in list_events(any_ws, kinds=["model.moved"])} == {"", "version 3 takes its place in production"}
    for environment in ("archived", ""):
        with pytest.raises(Invalid, match="nothing can be archived by a move to"):
            move(any_ws, "delay", 3, environment=environment, archive=True)


def test_production_wants_checks_that_did_not_fail(ws: Workspace) -> None:
    world.model(ws, checks=[BAD])
    move(ws, "delay", 1, environment="staging")
    with pytest.raises(ChecksFailed, match="delay@1 failed its checks and cannot be promoted"):
        move(ws, "delay", 1, environment="production")
    with pytest.raises(Invalid, match="an override needs a reason"):
        move(ws, "delay", 1, environment="production", override=True)
    with pytest.raises(ActionRefused, match=r"registry\.approve"):
        move(world.acting(ws, "dee", "developer"), "delay", 1, environment="production", override=True, reason="hurry")
    assert move(world.acting(ws, "ann", "approver"), "delay", 1, environment="production", override=True, reason="x").environment


@pytest.mark.parametrize(
    ("version", "environment", "error", "says"),
    [(1, "Production", Invalid, "environment 'Production' is not known; expected one of dev, staging, production, archived"),
     (1, "qa", Invalid, "environment 'qa' is not known"), (9, "dev", ModelNotFound, "there is no model 'delay@9'")],
)  # fmt: skip
def test_what_is_not_there_is_told(ws: Workspace, version: int, environment: str, error: Any, says: str) -> None:
    world.model(ws)
    with pytest.raises(error, match=says):
        move(ws, "delay", version, environment=environment)


def test_the_newest_of_each_environment(any_ws: Workspace) -> None:
    for name in ("delay", "fraud"):
        for _ in range(4):
            world.model(any_ws, name)
    for version, environment in ((1, "production"), (2, "production"), (3, "dev")):
        move(any_ws, "delay", version, environment=environment)
    with any_ws.catalog.reading() as tx:
        found = newest_by_environment(tx, any_ws.project, ["delay", "fraud", "nothing"])
    assert [(each.name, each.environment, each.version) for each in found] == [
        ("delay", "", 4), ("delay", "dev", 3), ("delay", "production", 2), ("fraud", "", 4),
    ]  # fmt: skip
