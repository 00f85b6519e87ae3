"""The controller, tick by tick: what is due is done, once, whoever was killed in between; what cannot be done is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from tests import world
from tests.automate.projects import project
from tests.deploy import worlds
from tests.deploy.worlds import Ledger
from tidemill.automate import controller
from tidemill.automate.controller import next_due, read_controller, tick
from tidemill.automate.rules import OnEvent, OnSchedule, Rule, RunPipeline, StartRollout, list_firings, set_rule
from tidemill.automate.worker import work_once
from tidemill.catalog import jobs
from tidemill.catalog.jobs import Job
from tidemill.core.clock import ManualClock
from tidemill.core.values import replace
from tidemill.deploy.endpoints import create_endpoint, read_endpoint
from tidemill.deploy.plans import RolloutPlan, Stage, canary_plan
from tidemill.deploy.rollouts import list_rollouts, start_rollout
from tidemill.govern.audit import list_events
from tidemill.govern.workspace import Workspace, create_project, grant_role
from tidemill.registry.aliases import promote
from tidemill.serving.config import load
from tidemill.serving.journal import predictions_folder, segments
from tidemill.tracking.experiments import keep_for
from tidemill.tracking.runs import RunNotFound, read_run, start_run
from tidemill.tracking.trash import delete_runs

pytestmark = pytest.mark.slow

REGISTERED = OnEvent(kind="model.registered")


class RealTime(ManualClock):
    """A clock that moves when told, and for which nobody waits: as the machine's clock is to the controller."""

    simulated = False


@pytest.fixture
def ws(any_ws: Workspace) -> Workspace:
    any_ws.clock = RealTime(world.START)
    return any_ws


def firings(ws: Workspace) -> list[tuple[str, str]]:
    return [(firing.rule, firing.outcome) for firing in reversed(list_firings(ws))]


def asked(ws: Workspace) -> list[Job]:
    with ws.catalog.reading() as tx:
        return list(reversed(jobs.list_jobs(tx, ws.project)))


def test_a_rule_acts_once_for_each_event_that_came_after_it(ws: Workspace) -> None:
    world.model(ws)  # in the same moment as the rule, but before it
    set_rule(ws, Rule(name="retrain", when=REGISTERED, do=RunPipeline(pipeline="train", params={"n": 3}), reason="a new one"))
    tick(ws)
    assert firings(ws) == []
    world.model(ws)
    world.model(ws)
    for _ in range(3):
        tick(ws)
    assert firings(ws) == [("retrain", "done"), ("retrain", "done")]
    (first, _) = asked(ws)
    assert (first.args, first.actor, first.state) == ({"pipeline": "train", "params": {"n": 3}}, "owner", "queued")
    fired = next(event for event in list_events(ws, subject="rule:retrain") if event.kind == "rule.fired")
    registered = next(event for event in list_events(ws, subject="model:delay") if event.id == fired.cause)
    assert (registered.kind, fired.reason, fired.actor) == ("model.registered", "a new one", "owner")
    state = read_controller(ws)
    assert (state.behind, state.open_jobs, state.settled_at, state.next_due) == (0, 2, ws.clock.now(), None)


def test_a_tick_that_was_killed_is_done_again_without_harm(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL."""

    def killed(*_: object, **__: object) -> None:
        raise Killed

    world.model(ws)
    create_endpoint(ws, "delay", "delay@1")
    tick(ws)
    set_rule(ws, Rule(name="release", when=REGISTERED, do=StartRollout(endpoint="delay", plan=canary_plan())))
    set_rule(ws, Rule(name="retrain", when=REGISTERED, do=RunPipeline(pipeline="train")))
    world.model(ws)
    # Killed behind the rollout and before its firing is written; then behind all firings and before the cursor is.
    for name in ("_conclude", "next_due"):
        with monkeypatch.context() as patch:
            patch.setattr(controller, name, killed)
            with pytest.raises(Killed):
                tick(ws)
    tick(ws)
    assert sorted(firings(ws)) == [("release", "done"), ("retrain", "done")]
    assert len(asked(ws)) == len(list_rollouts(ws)) == 1
    kinds = [event.kind for event in list_events(ws, limit=100)]
    assert (kinds.count("rollout.started"), kinds.count("rule.fired")) == (1, 2)


def test_what_a_rule_cannot_do_is_told(ws: Workspace) -> None:
    world.model(ws)
    create_endpoint(ws, "delay", "delay@1")
    release = StartRollout(endpoint="delay", plan=canary_plan())
    for rule in (
        Rule(name="release", when=REGISTERED, do=release),
        Rule(name="nowhere", when=REGISTERED, do=replace(release, endpoint="nowhere")),
        Rule(name="no-model", when=OnEvent(kind="project.created"), do=release),
    ):
        set_rule(ws, rule)
    dev = world.acting(ws, "dev", "developer")
    set_rule(dev, Rule(name="of-dev", when=REGISTERED, do=RunPipeline(pipeline="train")))
    grant_role(ws, "dev", "viewer")
    create_project(ws, "lab")
    world.model(ws)
    world.model(ws)
    tick(ws)
    told: dict[str, list[tuple[str, str]]] = {}
    for firing in sorted(list_firings(ws), key=lambda firing: firing.trigger):  # event ids sort by time
        told.setdefault(firing.rule, []).append((firing.outcome, firing.message))
    assert told["release"][0] == ("done", "rollout of delay@2 started")
    assert told["release"][1][0] == "refused"
    assert "endpoint 'delay' is in a rollout of v2 already" in told["release"][1][1]
    assert [outcome for outcome, _ in told["nowhere"]] == ["refused", "refused"]
    assert "there is no endpoint 'nowhere'" in told["nowhere"][0][1]
    assert "the event names no model version to roll out" in told["no-model"][0][1]
    assert [outcome for outcome, _ in told["of-dev"]] == ["refused", "refused"]
    assert "viewer" in told["of-dev"][0][1]
    assert asked(ws) == []
    events = [event.body["outcome"] for event in list_events(ws, limit=100) if event.kind == "rule.fired"]
    assert len(events) == 7


def test_a_promoted_version_may_be_rolled_out(ws: Workspace) -> None:
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    when = OnEvent(kind="model.promoted", where={"alias": "challenger"})
    set_rule(ws, Rule(name="try", when=when, do=StartRollout(endpoint="delay", plan=canary_plan()), reason="somebody chose it"))
    promote(ws, "delay", 3, alias="challenger")
    tick(ws)
    (rollout,) = list_rollouts(ws)
    assert (rollout.challenger.version, rollout.reason) == (3, "somebody chose it")


def test_rules_of_a_group_rest_together(ws: Workspace) -> None:
    rest = timedelta(days=21)
    for name in ("on-model", "on-model-too"):
        set_rule(ws, Rule(name=name, when=REGISTERED, do=RunPipeline(pipeline="train"), cooldown=rest, group="retrain"))
    set_rule(ws, Rule(name="of-itself", when=REGISTERED, do=RunPipeline(pipeline="train"), cooldown=timedelta(hours=1)))
    world.model(ws)
    tick(ws)
    assert sorted(firings(ws)) == [("of-itself", "done"), ("on-model", "done"), ("on-model-too", "cooling")]
    world.tick(ws, days=20)
    world.model(ws)
    tick(ws)
    assert sorted(firings(ws)[3:]) == [("of-itself", "done"), ("on-model", "cooling"), ("on-model-too", "cooling")]
    world.tick(ws, days=1)
    world.model(ws)
    tick(ws)
    assert sorted(firings(ws)[6:]) == [("of-itself", "done"), ("on-model", "done"), ("on-model-too", "cooling")]
    cooling = next(firing for firing in list_firings(ws) if firing.outcome == "cooling")
    assert cooling.message == "a rule of its group acted at 2013-06-22 00:00; it rests for 21 days, 0:00:00"


def test_a_schedule_that_was_missed_happens_once_and_late(ws: Workspace) -> None:
    tick(ws)
    world.tick(ws, hours=1)
    set_rule(ws, Rule(name="daily", when=OnSchedule(cron="0 6 * * *"), do=RunPipeline(pipeline="train")))
    tick(ws)
    assert (firings(ws), read_controller(ws).next_due) == ([], world.START + timedelta(hours=6))
    world.tick(ws, days=3)
    for _ in range(2):
        tick(ws)
    (firing,) = list_firings(ws)
    assert (firing.trigger, firing.at) == ("schedule:2013-06-03T06:00:00+00:00", ws.clock.now())
    assert read_controller(ws).next_due == world.START + timedelta(days=3, hours=6)


def test_next_due_is_the_nearest_of_schedules_and_rollouts(ws: Workspace) -> None:
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    assert next_due(ws, ws.clock.now()) is None
    set_rule(ws, Rule(name="daily", when=OnSchedule(cron="0 6 * * *"), do=RunPipeline(pipeline="train")))
    assert next_due(ws, ws.clock.now()) == world.START + timedelta(hours=6)
    start_rollout(ws, "delay", "delay@2", plan=replace(canary_plan(), every=timedelta(hours=2)))
    assert next_due(ws, ws.clock.now()) == world.START + timedelta(hours=2)
    world.tick(ws, hours=2)
    tick(ws)
    assert read_controller(ws).next_due == world.START + timedelta(hours=4)


def test_what_lies_in_the_trash_for_its_time_goes_by_itself(ws: Workspace) -> None:
    run, kept = (start_run(ws, "delay", name=name).id for name in ("gone", "kept"))
    keep_for(ws, 1, 7)
    delete_runs(ws, [run])
    tick(ws)
    assert asked(ws) == []
    for day in range(8):
        world.tick(ws, days=1)
        delete_runs(ws, [kept] if day == 5 else [])
        for _ in range(2):
            tick(ws)
        (job,) = [job for job in asked(ws) if job.state == "queued"]
        assert (job.kind, job.actor) == ("upkeep", ws.actor.id)
        assert (work_once(ws, worker="w") or job).state == "done"
    with pytest.raises(RunNotFound, match=run):
        read_run(ws, run)
    assert read_run(ws, kept).deleted_at is not None
    told = [event.body["runs"] for event in list_events(ws, limit=100) if event.kind == "upkeep.done"]
    assert (len(told), sum(told)) == (8, 1)


def test_rollouts_are_judged_when_they_are_due_and_published(ws: Workspace) -> None:
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    plan = RolloutPlan(policy="two steps", stages=(Stage(share=0.5), Stage(share=1.0)), margin=None, every=timedelta(hours=1))
    start_rollout(ws, "delay", "delay@2", plan=plan)
    tick(ws)
    shares = []
    for _ in range(3):
        found = load(ws.state)
        assert found is not None
        shares.append(found.endpoints[0].route.shares)
        world.tick(ws, hours=1)
        tick(ws)
    assert shares == [{"v1": 0.5, "v2": 0.5}, {"v2": 1.0}, {"v2": 1.0}]
    assert list_rollouts(ws)[0].state == "promoted"


def test_a_challenger_that_fails_is_rolled_back(ws: Workspace) -> None:
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    start_rollout(ws, "delay", "delay@2", plan=canary_plan())
    ledger = Ledger(ws)
    ledger.fail(5, variant="v2")
    ledger.close()
    world.tick(ws, hours=1)
    tick(ws)
    (rollout,) = list_rollouts(ws)
    assert (rollout.state, "the challenger failed on 5 of 5 rows" in rollout.reason) == ("rolled_back", True)
    assert read_endpoint(ws, "delay").route.shares == {"v1": 1.0}


def test_finished_segments_become_parquet_and_trouble_with_them_harms_nothing(ws: Workspace) -> None:
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    ledger, stranger = Ledger(ws), Ledger(ws, "gone")
    for day in range(3):
        for each in (ledger, stranger):
            each.predict({str(day): 0.5}, at=world.START + timedelta(days=day))
    folder = predictions_folder(ws.state, "delay")
    tick(ws)
    assert (len(segments(folder)), len(list(folder.glob("parquet/day=*/*.parquet")))) == (1, 2)
    assert len(segments(predictions_folder(ws.state, "gone"))) == 3  # of no endpoint of this project
    ledger.close()
    (folder / "parquet" / "day=2013-06-03").write_text("a file where a folder should be")
    tick(ws)
    assert len(segments(folder)) == 1
    assert read_controller(ws).behind == 0
    stranger.close()


def test_on_a_simulated_clock_a_tick_waits_for_jobs_and_for_what_follows_of_them(any_ws: Workspace) -> None:
    name = project(any_ws.home)
    set_rule(any_ws, Rule(name="retrain", when=REGISTERED, do=RunPipeline(pipeline=name)))
    set_rule(any_ws, Rule(name="again", when=OnEvent(kind="job.ended"), do=RunPipeline(pipeline=name), cooldown=timedelta(days=1)))
    world.model(any_ws)
    with worker_thread(any_ws):
        tick(any_ws)
    assert sorted(firings(any_ws)) == [("again", "cooling"), ("again", "done"), ("retrain", "done")]
    state = read_controller(any_ws)
    assert (state.behind, state.open_jobs) == (0, 0)
    assert [job.state for job in asked(any_ws)] == ["done", "done"]


@contextmanager
def worker_thread(ws: Workspace) -> Iterator[None]:
    """Do jobs in a thread while a block runs."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            if work_once(ws, worker="thread") is None:
                stop.wait(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_each_project_has_a_controller_of_its_own(ws: Workspace) -> None:
    create_project(ws, "lab")
    lab = ws.acting(ws.actor, "lab")
    set_rule(lab, Rule(name="retrain", when=REGISTERED, do=RunPipeline(pipeline="train")))
    world.model(ws)
    for each in (ws, lab):
        tick(each)
    assert (firings(ws), firings(lab)) == ([], [])
    world.model(lab)
    tick(lab)
    assert (firings(ws), firings(lab)) == ([], [("retrain", "done")])
