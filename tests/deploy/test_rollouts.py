"""Rollouts: from start to each end, by the plan or by hand, once however many look at the same time."""

import threading
from datetime import timedelta

import pytest

from tests import world
from tests.deploy import worlds
from tests.deploy.worlds import BETTER, UNCLEAR, WORSE, evidence
from tidemill.checks.check import CheckResult
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.deploy.endpoints import EndpointNotFound, create_endpoint, read_endpoint, route_history
from tidemill.deploy.judge import Comparison
from tidemill.deploy.plans import RolloutPlan, Stage, blue_green_plan, shadow_canary_plan
from tidemill.deploy.rollouts import Rollout, RolloutActive, advance, list_rollouts, roll_back, start_rollout
from tidemill.features.definitions import PlansCollide
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import read_aliases
from tidemill.registry.promotion import ChecksFailed

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
PLAN = RolloutPlan(
    policy="shadow, then canary",
    stages=(Stage(share=0.0, hold=HOUR), Stage(share=0.1, hold=HOUR), Stage(share=0.5, hold=HOUR)),
    margin=0.01,
)


@pytest.fixture
def served(any_ws: Workspace) -> Workspace:
    """Three versions, of which the first answers."""
    worlds.three_models(any_ws)
    create_endpoint(any_ws, "delay", "delay@1")
    return any_ws


def kinds(ws: Workspace) -> list[str]:
    return [event.kind for event in reversed(list_events(ws, subject="endpoint:delay"))]


def shares(ws: Workspace) -> dict[str, float]:
    return read_endpoint(ws, "delay").route.shares


def go_on(ws: Workspace, look=BETTER) -> Rollout:
    world.tick(ws, hours=1)
    return advance(ws, list_rollouts(ws, state="running")[0], look)[0]


def promoted(ws: Workspace, reference: str) -> None:
    """Take a version all the way."""
    start_rollout(ws, "delay", reference, plan=blue_green_plan())
    assert go_on(ws).state == "promoted"


def test_a_challenger_goes_through_all_stages_and_takes_over(served: Workspace) -> None:
    started = start_rollout(served, "delay", "delay@2", plan=PLAN, reason="fresher data")
    assert (started.state, started.stage, started.next_at) == ("running", 0, world.START + PLAN.every)
    route = read_endpoint(served, "delay").route
    assert (route.shares, route.shadows) == ({"v1": 1.0, "v2": 0.0}, ("v1", "v2"))
    assert go_on(served, UNCLEAR).stage == 0
    for stage, share in ((1, 0.1), (2, 0.5)):
        assert go_on(served).stage == stage
        assert shares(served) == {"v1": 1 - share, "v2": share}
        assert set(read_endpoint(served, "delay").route.shadows) == {"v1", "v2"}
    ended = go_on(served)
    assert (ended.state, ended.ended_at) == ("promoted", served.clock.now())
    assert ended.seen is not None
    assert ended.seen.touched == 7
    assert "the challenger is better" in ended.reason
    route = read_endpoint(served, "delay").route
    assert (route.shares, [variant.name for variant in route.variants], route.shadows) == ({"v2": 1.0}, ["v2", "v1"], ())
    assert read_aliases(served, "delay") == {"champion": 2}
    assert kinds(served) == [
        "endpoint.created", "endpoint.routed", "rollout.started", "endpoint.routed", "rollout.advanced", "endpoint.routed",
        "rollout.advanced", "endpoint.routed", "rollout.ended", "endpoint.routed",
    ]  # fmt: skip
    assert len(route_history(served, "delay")) == 4  # the first one ended in the moment in which it began


def test_what_follows_names_its_cause(served: Workspace) -> None:
    start_rollout(served, "delay", "delay@2", plan=PLAN)
    routed, started = list_events(served, subject="endpoint:delay", limit=2)
    assert (routed.kind, routed.cause) == ("endpoint.routed", started.id)


def test_a_worse_one_is_dropped_while_it_answers_nobody_and_rolled_back_when_it_does(served: Workspace) -> None:
    start_rollout(served, "delay", "delay@2", plan=PLAN)
    assert go_on(served, WORSE).state == "dropped"
    assert shares(served) == {"v1": 1.0}
    start_rollout(served, "delay", "delay@2", plan=PLAN)
    go_on(served)
    ended = go_on(served, WORSE)
    assert (ended.state, shares(served)) == ("rolled_back", {"v1": 1.0})
    assert [variant.name for variant in read_endpoint(served, "delay").route.variants] == ["v1"]
    assert read_aliases(served, "delay") == {}
    outcomes = [
        event.body["outcome"] for event in list_events(served, subject="endpoint:delay", limit=100) if event.kind == "rollout.ended"
    ]
    assert outcomes == ["rolled_back", "dropped"]
    assert [rollout.state for rollout in list_rollouts(served)] == ["rolled_back", "dropped"]


def test_one_that_shows_nothing_ends_after_the_longest_time(served: Workspace) -> None:
    start_rollout(served, "delay", "delay@2", plan=PLAN)
    world.tick(served, days=14)
    ended = go_on(served, UNCLEAR)
    assert (ended.state, "nothing was shown within 14 days" in ended.reason) == ("dropped", True)


def test_one_that_is_not_fresher_has_to_be_better(served: Workspace) -> None:
    promoted(served, "delay@2")
    start_rollout(served, "delay", "delay@1", plan=PLAN)
    not_worse = evidence(-0.01, 0.009)
    assert go_on(served, not_worse).stage == 0
    start = list_rollouts(served, state="running")[0]
    assert go_on(served, BETTER).stage == 1
    assert start.champion.version == 2


def test_evidence_that_cannot_be_judged_holds_a_rollout_and_says_why(served: Workspace) -> None:
    def odd(_: Rollout) -> Comparison:
        raise Invalid("the challenger's scores reach from 0 to 3")

    start_rollout(served, "delay", "delay@2", plan=PLAN)
    held = go_on(served, odd)
    assert (held.state, held.stage, held.next_at) == ("running", 0, served.clock.now() + PLAN.every)
    assert "the challenger's scores reach from 0 to 3" in held.reason
    world.tick(served, days=14)
    assert go_on(served, odd).state == "dropped"


def test_only_one_of_many_who_look_at_once_goes_on(served: Workspace) -> None:
    rollout = start_rollout(served, "delay", "delay@2", plan=PLAN)
    world.tick(served, hours=1)
    everybody = threading.Barrier(4)

    def look(seen: Rollout) -> Comparison:
        everybody.wait(20)
        return BETTER(seen)

    threads = [threading.Thread(target=advance, args=(served, rollout, look)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list_rollouts(served)[0].stage == 1
    assert kinds(served).count("rollout.advanced") == 1


def test_one_who_looks_late_changes_nothing(served: Workspace) -> None:
    stale = start_rollout(served, "delay", "delay@2", plan=PLAN)
    world.tick(served, hours=1)
    roll_back(served, "delay", reason="by hand")
    after, decision = advance(served, stale, BETTER)
    assert (decision.action, after.state, after.reason, shares(served)) == ("advance", "rolled_back", "by hand", {"v1": 1.0})


def test_by_hand_a_running_rollout_is_ended_first(served: Workspace) -> None:
    promoted(served, "delay@2")
    start_rollout(served, "delay", "delay@3", plan=PLAN)
    go_on(served)
    roll_back(served, "delay", reason="looks odd")
    assert shares(served) == {"v2": 1.0}
    assert read_aliases(served, "delay") == {"champion": 2}
    ended = list_rollouts(served)[0]
    assert (ended.state, ended.reason, ended.seen is not None) == ("rolled_back", "looks odd", True)
    # The one that led before is still at hand.
    roll_back(served, "delay", reason="and that one too")
    assert shares(served) == {"v1": 1.0}
    assert read_aliases(served, "delay") == {"champion": 1}
    roll_back(served, "delay", reason="no, not that one")
    assert (shares(served), read_aliases(served, "delay")) == ({"v2": 1.0}, {"champion": 2})


def test_an_endpoint_that_never_changed_has_nothing_to_return_to(served: Workspace) -> None:
    with pytest.raises(Conflict, match="endpoint 'delay' has no earlier variant to return to; roll another version out with"):
        roll_back(served, "delay", reason="why not")


def test_what_cannot_be_rolled_out_is_named(served: Workspace) -> None:
    world.model(served, "other")
    world.model(served, slope=9.0, checks=[CheckResult(name="auc", verdict="fail", summary="no better than chance")])
    with pytest.raises(Conflict, match="model delay@1 leads endpoint 'delay' already; there is nothing to roll out"):
        start_rollout(served, "delay", "delay@1", plan=PLAN)
    with pytest.raises(Invalid, match="answers with model 'delay', and other@1 is of another; register it as a version of 'delay'"):
        start_rollout(served, "delay", "other@1", plan=PLAN)
    with pytest.raises(EndpointNotFound, match="there is no endpoint 'nothing'"):
        start_rollout(served, "nothing", "delay@2", plan=PLAN)
    with pytest.raises(
        ChecksFailed, match=r"model delay@4 failed its checks and cannot be promoted; see why with: tidemill model show delay@4"
    ):
        start_rollout(served, "delay", "delay@4", plan=PLAN)
    with pytest.raises(Invalid, match="an override needs a reason"):
        start_rollout(served, "delay", "delay@4", plan=PLAN, override=True)
    developer = world.acting(served, "dev", "developer")
    with pytest.raises(ActionRefused, match="developer"):
        start_rollout(developer, "delay", "delay@4", plan=PLAN, override=True, reason="I know better")
    start_rollout(world.acting(served, "ann", "approver"), "delay", "delay@4", plan=PLAN, override=True, reason="the check is wrong")
    with pytest.raises(
        RolloutActive, match="is in a rollout of v4 already; wait for its end, or end it with: tidemill endpoint rollback delay"
    ):
        start_rollout(developer, "delay", "delay@2", plan=PLAN)
    assert len(list_rollouts(served)) == 1


def test_a_challenger_that_cannot_be_served_beside_the_champion_is_refused(ws: Workspace) -> None:
    worlds.services(ws)
    worlds.model_on(ws, "delay@1")
    worlds.model_on(ws, "delay@2")
    create_endpoint(ws, "delay", "delay@1")
    with pytest.raises(PlansCollide, match="serve models that pin different versions behind different endpoints"):
        start_rollout(ws, "delay", "delay@2", plan=PLAN)
    assert (list_rollouts(ws), shares(ws)) == ([], {"v1": 1.0})


def test_a_plan_without_comparison_lets_nobody_score_along(served: Workspace) -> None:
    start_rollout(served, "delay", "delay@2", plan=blue_green_plan(hold=HOUR))
    route = read_endpoint(served, "delay").route
    assert (route.shares, route.shadows) == ({"v1": 0.0, "v2": 1.0}, ())
    assert go_on(served, WORSE).state == "promoted"


def test_rollouts_are_listed_by_endpoint_and_state(served: Workspace) -> None:
    create_endpoint(served, "other", "delay@1")
    start_rollout(served, "other", "delay@3", plan=shadow_canary_plan())
    promoted_ids = []
    start_rollout(served, "delay", "delay@2", plan=blue_green_plan())
    world.tick(served, hours=1)
    promoted_ids.append(advance(served, list_rollouts(served, endpoint="delay")[0], BETTER)[0].id)
    assert [rollout.id for rollout in list_rollouts(served, state="promoted")] == promoted_ids
    assert [rollout.endpoint for rollout in list_rollouts(served, state="running")] == ["other"]
    assert len(list_rollouts(served, limit=1)) == 1
    with pytest.raises(NotFound):
        advance(served.acting(served.actor, "nowhere"), list_rollouts(served)[0], BETTER)
