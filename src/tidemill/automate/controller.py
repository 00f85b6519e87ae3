"""The controller: at each moment does what is due. Publishes routes, judges rollouts, runs monitors, fires rules, compacts journals.

Everything it does is done again without harm: each step first looks at the catalog, so that a controller killed at any point is
followed by one that goes on. On a simulated clock it says up to which moment it has settled, and when it next has something to do.
"""

import argparse
import logging
import sys
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import BigInteger, Column, Connection, Table, select

from tidemill.automate import rules
from tidemill.automate.journals import keep_journals
from tidemill.automate.rules import Due, OnEvent, OnSchedule, RuleFired, RunPipeline, StartRollout
from tidemill.automate.upkeep import ask_upkeep
from tidemill.automate.worker import PIPELINE_JOB
from tidemill.catalog import jobs
from tidemill.catalog.events import last_seq, read_events
from tidemill.catalog.schema import METADATA, Moment, Text, upsert
from tidemill.core.clock import elapsed, wait_until
from tidemill.core.errors import Invalid, TidemillError, Unavailable
from tidemill.core.ids import ActorId
from tidemill.core.process import StopSignal, follow_supervisor, on_stop, start_logging
from tidemill.core.values import Value
from tidemill.deploy.arrivals import settle_owed
from tidemill.deploy.evidence import look
from tidemill.deploy.publish import followed, publish
from tidemill.deploy.pushes import collect_pushes
from tidemill.deploy.rollouts import Rollout, advance, list_rollouts, start_rollout
from tidemill.govern.actors import CONTROLLER, PROJECTS, read_actor
from tidemill.govern.workspace import DEFAULT_PROJECT, Workspace, open_workspace
from tidemill.monitor.service import next_window_end, run_due

LOG = logging.getLogger("tidemill.controller")
IDLE_S = 0.2
ARRIVALS_S = 5.0
LOOK_AT_LEAST = timedelta(hours=1)
SIMULATED_PAUSE_S = 0.001
SIMULATED_LOOK_S = 0.02
EVENTS_AT_ONCE = 500
JOBS_S = 3600.0

CONTROLLERS = Table(
    "controllers",
    METADATA,
    Column("project", Text, primary_key=True),
    Column("cursor", BigInteger, nullable=False),
    Column("settled_at", Moment, nullable=False),
    Column("next_due", Moment),
)


class ControllerState(Value, frozen=True, kw_only=True):
    """How far the controller is: all that was due up to settled_at is done. next_due is when it next has something to do by itself."""

    settled_at: datetime | None
    next_due: datetime | None
    behind: int
    open_jobs: int


def read_controller(ws: Workspace) -> ControllerState:
    """Return how far the controller of this workspace is."""
    ws.require("automate.read")
    with ws.catalog.reading() as tx:
        row = tx.execute(select(CONTROLLERS).where(CONTROLLERS.c.project == ws.project)).one_or_none()
        behind = last_seq(tx, ws.project) - (row.cursor if row else 0)
        return ControllerState(
            settled_at=row.settled_at if row else None,
            next_due=row.next_due if row else None,
            behind=behind,
            open_jobs=jobs.open_count(tx, ws.project),
        )


def tick(ws: Workspace, *, stop: StopSignal | None = None) -> None:
    """Do all that is due now in this project. On a simulated clock, also wait for the jobs that it started and for what follows of them."""
    now = ws.clock.now()
    _publish(ws)
    run_due(ws, until=now)
    _judge(ws, now)
    cursor, since = _cursor(ws)
    _fire_schedules(ws, since, now)
    while True:
        cursor = _fire_events(ws, cursor, now)
        _publish(ws)
        if not ws.clock.simulated or not _wait_for_jobs(ws, cursor, stop):
            break
    keep_journals(ws)
    _ask_upkeep(ws, since, now)
    upcoming = next_due(ws, now)
    with ws.catalog.transaction() as tx:
        upsert(tx, CONTROLLERS, [{"project": ws.project, "cursor": cursor, "settled_at": now, "next_due": upcoming}])


def next_due(ws: Workspace, now: datetime) -> datetime | None:
    """Return when the controller next has something to do by itself."""
    with ws.catalog.reading() as tx:
        active = rules.read_active(tx, ws.project)
    moments = [rules.next_scheduled(each.rule.when, now) for each in active if isinstance(each.rule.when, OnSchedule)]
    moments += [rollout.next_at for rollout in list_rollouts(ws, state="running")]
    window_end = next_window_end(ws)
    return min([*moments, *([window_end] if window_end else [])], default=None)


def main(argv: list[str] | None = None) -> int:
    """Control until told to stop: `python -m tidemill.automate.controller --home DIR`."""
    parser = argparse.ArgumentParser(prog="tidemill-controller")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--supervised", action="store_true")
    options = parser.parse_args(argv)
    try:
        ws = open_workspace(options.home, actor=CONTROLLER)
    except TidemillError as error:
        sys.stderr.write(f"tidemill: {error}\n")
        return 1
    start_logging(ws.settings.log_level, form=ws.settings.log_format)
    stopping = StopSignal()
    on_stop(stopping.set)
    if options.supervised:
        follow_supervisor()
    LOG.info("controlling %s", ws.home)
    pause_s, look_s = (SIMULATED_PAUSE_S, SIMULATED_LOOK_S) if ws.clock.simulated else (IDLE_S, IDLE_S)
    soonest, looked_s, collected_s = None, -look_s, -ARRIVALS_S
    while not stopping.is_set():
        if elapsed() - collected_s >= ARRIVALS_S:  # by real time: that is how long a push is not in its dataset yet
            for project in _projects(ws):
                _take_arrivals(ws.acting(ws.actor, project))
            collected_s = elapsed()
        # The clock is asked often, for that costs nothing; the catalog only when something is due, or now and then.
        if (soonest is not None and soonest <= ws.clock.now()) or elapsed() - looked_s >= look_s:
            soonest = min(filter(None, [_attend(ws.acting(ws.actor, project), stopping) for project in _projects(ws)]), default=None)
            looked_s = elapsed()
        stopping.wait(pause_s)
    ws.close()
    return 0


def _attend(ws: Workspace, stopping: StopSignal) -> datetime | None:
    """Do what is due in a project, if anything; return when it next has something to do by itself."""
    try:
        if _something_to_do(ws):
            tick(ws, stop=stopping)
        return read_controller(ws).next_due
    except Exception:  # the edge of the process: one project's trouble must not stop the others
        LOG.exception("tick of project %s failed; trying again", ws.project)
        stopping.wait(IDLE_S)
        return None


def _take_arrivals(ws: Workspace) -> None:
    """Make rows of what was pushed to workers, and bring online what is owed there."""
    try:
        collect_pushes(ws)
        settle_owed(ws)
    except Exception:  # the edge of the process, likewise
        LOG.exception("arrivals of project %s wait; trying again", ws.project)


def _something_to_do(ws: Workspace) -> bool:
    state, now = read_controller(ws), ws.clock.now()
    if state.settled_at is None or state.behind > 0 or (state.next_due is not None and state.next_due <= now):
        return True
    return not ws.clock.simulated and now - state.settled_at >= LOOK_AT_LEAST


def _projects(ws: Workspace) -> list[str]:
    with ws.catalog.reading() as tx:
        return list(tx.execute(select(PROJECTS.c.name).order_by(PROJECTS.c.name)).scalars())


def _publish(ws: Workspace) -> None:
    generation = publish(ws)
    if ws.clock.simulated and not followed(ws, generation):
        LOG.warning("serving workers did not reach generation %d in time", generation)


def _judge(ws: Workspace, now: datetime) -> None:
    for rollout in list_rollouts(ws, state="running"):
        if rollout.next_at <= now:
            after, decision = advance(ws, rollout, lambda seen: look(ws, seen))
            LOG.info("rollout %s of %s: %s, %s (%s)", after.id, after.challenger.name, decision.action, decision.reason, after.state)
            _publish(ws)


def _ask_upkeep(ws: Workspace, since: datetime | None, now: datetime) -> None:
    """Have the whole workspace cleaned by a worker, when it is time. Not on a simulated clock: replaying a year would do it 365 times."""
    if since is not None and ws.project == DEFAULT_PROJECT and not ws.clock.simulated and (job := ask_upkeep(ws, since=since, now=now)):
        LOG.info("upkeep was asked for as job %s", job.id)


def _cursor(ws: Workspace) -> tuple[int, datetime | None]:
    with ws.catalog.reading() as tx:
        row = tx.execute(select(CONTROLLERS.c.cursor, CONTROLLERS.c.settled_at).where(CONTROLLERS.c.project == ws.project)).one_or_none()
    return (row.cursor, row.settled_at) if row else (0, None)


def _fire_schedules(ws: Workspace, since: datetime | None, now: datetime) -> None:
    with ws.catalog.reading() as tx:
        active = rules.read_active(tx, ws.project)
    for each in active:
        if isinstance(each.rule.when, OnSchedule):
            moment = rules.scheduled(each.rule.when, after=max(since or each.since, each.since), until=now)
            if moment is not None:
                _act(ws, Due(rule=each.rule, trigger=f"schedule:{moment.isoformat()}", event=None), each.actor, now)


def _fire_events(ws: Workspace, cursor: int, now: datetime) -> int:
    with ws.catalog.reading() as tx:
        active = rules.read_active(tx, ws.project)
    while True:
        with ws.catalog.reading() as tx:
            found = read_events(tx, ws.project, after=cursor, limit=EVENTS_AT_ONCE)
        for event in found:
            for each in active:
                if isinstance(each.rule.when, OnEvent) and event.seq > each.since_seq and rules.matches(each.rule.when, event):
                    _act(ws, Due(rule=each.rule, trigger=event.id, event=event), each.actor, now)
            cursor = event.seq
        if not found:
            return cursor


def _act(ws: Workspace, due: Due, actor: ActorId, now: datetime) -> None:
    """Do what a rule says, as the actor who set it; once, however often it is tried. What cannot be done is noted as refused."""
    with ws.catalog.reading() as tx:
        if rules.has_fired(tx, ws.project, due):
            return
        last = rules.last_of_group(tx, ws.project, due.rule)
    if last is not None and due.rule.cooldown > timedelta(0) and now < last + due.rule.cooldown:
        with ws.catalog.transaction() as tx:
            if rules.claim_firing(tx, ws.project, due, at=now):
                message = f"a rule of its group acted at {last:%Y-%m-%d %H:%M}; it rests for {due.rule.cooldown}"
                rules.note_outcome(tx, ws.project, due, outcome="cooling", message=message)
        return
    try:
        with ws.catalog.reading() as tx:
            own = ws.acting(read_actor(tx, actor, project=ws.project), ws.project)
        if isinstance(due.rule.do, RunPipeline):
            _run_pipeline(own, due, due.rule.do, now)
        else:
            _start_rollout(own, due, due.rule.do, now)
    except Unavailable:
        raise  # a disk or a database that is gone for a moment is no answer: the whole tick is tried again
    except TidemillError as error:
        _conclude(ws, due, now, outcome="refused", message=str(error))


def _run_pipeline(ws: Workspace, due: Due, action: RunPipeline, now: datetime) -> None:
    ws.require("pipelines.write", action.pipeline)
    with ws.catalog.transaction() as tx:
        if not rules.claim_firing(tx, ws.project, due, at=now):
            return
        message = f"pipeline {action.pipeline} was asked for"
        _note(ws, tx, due, outcome="done", message=message)
        args = {"pipeline": action.pipeline, "params": action.params}
        key = f"{due.rule.name}:{due.trigger}"
        jobs.enqueue(tx, project=ws.project, kind=PIPELINE_JOB, args=args, actor=ws.actor.id, at=now, key=key, cause=rules.cause_of(due))


def _start_rollout(ws: Workspace, due: Due, action: StartRollout, now: datetime) -> None:
    body = due.event.body if due.event is not None else {}
    model, version = body.get("name", body.get("model")), body.get("version")
    if due.event is None or model is None or version is None:
        raise Invalid("the event names no model version to roll out; let the rule wait for model.registered or model.promoted")
    # A controller that was killed right after it had started the rollout finds it there.
    if not any(_is_for(rollout, version, due.event.at) for rollout in list_rollouts(ws, endpoint=action.endpoint, limit=20)):
        reason = due.rule.reason or f"rule {due.rule.name}"
        start_rollout(ws, action.endpoint, f"{model}@{version}", plan=action.plan, reason=reason, cause=due.event.id)
    _conclude(ws, due, now, outcome="done", message=f"rollout of {model}@{version} started")


def _conclude(ws: Workspace, due: Due, now: datetime, *, outcome: str, message: str) -> None:
    with ws.catalog.transaction() as tx:
        if rules.claim_firing(tx, ws.project, due, at=now):
            _note(ws, tx, due, outcome=outcome, message=message)


def _note(ws: Workspace, tx: Connection, due: Due, *, outcome: str, message: str) -> None:
    rules.note_outcome(tx, ws.project, due, outcome=outcome, message=message)
    event = RuleFired(rule=due.rule.name, trigger=due.trigger, outcome=outcome, message=message)
    ws.record(tx, event, subject=f"rule:{due.rule.name}", reason=due.rule.reason, cause=rules.cause_of(due))


def _wait_for_jobs(ws: Workspace, cursor: int, stop: StopSignal | None) -> bool:
    """Wait for open jobs; return whether anything has happened that rules have not seen yet."""

    def quiet() -> bool:
        with ws.catalog.reading() as tx:
            return (stop is not None and stop.is_set()) or jobs.open_count(tx, ws.project) == 0

    if stop is not None and stop.is_set():
        return False
    wait_until(quiet, timeout_s=JOBS_S, every_s=0.01, slowest_s=0.05)
    with ws.catalog.reading() as tx:
        return last_seq(tx, ws.project) > cursor


def _is_for(rollout: Rollout, version: int, since: datetime) -> bool:
    return rollout.challenger.version == version and rollout.started_at >= since


if __name__ == "__main__":
    raise SystemExit(main())
