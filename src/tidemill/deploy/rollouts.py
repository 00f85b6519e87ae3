"""Rollouts: a small state machine in the catalog that takes a challenger through the stages of its plan. Owns its table."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
from sqlalchemy import Column, Connection, Index, Integer, PrimaryKeyConstraint, Table, insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import EventId, new_id
from tidemill.core.values import Value, replace
from tidemill.deploy.endpoints import (
    Endpoint,
    Route,
    Variant,
    check_model,
    fetch_endpoint,
    read_endpoint,
    read_plan,
    variant_of,
    version_of,
    write_route,
)
from tidemill.deploy.judge import Comparison, Decision, compare, decide
from tidemill.deploy.plans import RolloutPlan
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import read_version, write_alias
from tidemill.registry.locks import VersionLocked, check_unlocked
from tidemill.registry.models import hold_registry
from tidemill.registry.promotion import check_override, check_promotable
from tidemill.registry.versions import fetch_key

State = Literal["running", "promoted", "rolled_back", "dropped"]
_OUTCOMES: dict[str, State] = {"promote": "promoted", "roll_back": "rolled_back", "drop": "dropped"}
CHAMPION = "champion"
DATA_UNTIL = "data_until"

ROLLOUTS = Table(
    "rollouts",
    METADATA,
    Column("project", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("champion", JsonValue(Variant), nullable=False),
    Column("challenger", JsonValue(Variant), nullable=False),
    Column("plan", JsonValue(RolloutPlan), nullable=False),
    Column("stage", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("stage_at", Moment, nullable=False),
    Column("next_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("reason", Text, nullable=False),
    Column("seen", JsonValue(Comparison)),
    PrimaryKeyConstraint("project", "id"),
    Index("ix_rollouts_endpoint", "project", "endpoint", "state"),
)


class Rollout(Value, frozen=True, kw_only=True):
    """A challenger on its way to replace the champion of an endpoint."""

    id: str
    endpoint: str
    champion: Variant
    challenger: Variant
    plan: RolloutPlan
    stage: int
    state: State
    started_at: datetime
    stage_at: datetime
    next_at: datetime
    ended_at: datetime | None
    reason: str
    seen: Comparison | None


class RolloutStarted(EventBody, frozen=True, kw_only=True, tag="rollout.started"):
    """A challenger was set against the champion of an endpoint."""

    rollout: str
    endpoint: str
    champion: int
    challenger: int
    policy: str


class RolloutAdvanced(EventBody, frozen=True, kw_only=True, tag="rollout.advanced"):
    """A rollout went on to its next stage."""

    rollout: str
    endpoint: str
    stage: int
    share: float


class RolloutEnded(EventBody, frozen=True, kw_only=True, tag="rollout.ended"):
    """A challenger took over, was rolled back or dropped."""

    rollout: str
    endpoint: str
    challenger: int
    outcome: State
    touched: int
    labels: int


class RolloutActive(Conflict):
    """The endpoint is in another rollout."""

    def __init__(self, endpoint: str, rollout: str, challenger: str) -> None:
        self.endpoint, self.rollout = endpoint, rollout
        super().__init__(
            f"endpoint {endpoint!r} is in a rollout of {challenger} already; wait for its end, "
            f"or end it with: tidemill endpoint rollback {endpoint}"
        )


def start_rollout(
    ws: Workspace,
    endpoint: str,
    reference: str,
    *,
    plan: RolloutPlan,
    reason: str = "",
    override: bool = False,
    cause: EventId | None = None,
) -> Rollout:
    """Set a model version against the one that leads an endpoint.

    Raises RolloutActive, Conflict when it leads already, ChecksFailed unless an approver overrides with a reason, Invalid for another
    model, PlansCollide when it cannot be served beside the champion, VersionLocked when one of the two is locked.
    """
    ws.require("deploy.approve" if override else "deploy.write", endpoint)
    check_override(override=override, reason=reason)
    version, now = read_version(ws, reference), ws.clock.now()
    check_promotable(version, override=override)
    challenger = variant_of(version)
    there = read_endpoint(ws, endpoint)
    check_model(endpoint, there.model, challenger)
    read_plan(ws, [*there.route.variants, *([there.benchmark] if there.benchmark else []), challenger])
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)  # a lock that is taken in this moment comes before or after it, not beside it
        before = fetch_endpoint(tx, ws.project, endpoint)
        active = _active(tx, ws.project, endpoint)
        if active:
            raise RolloutActive(endpoint, active[0].id, active[0].challenger.name)
        champion = before.route.leader
        if champion.name == challenger.name:
            raise Conflict(f"model {version.name}@{version.version} leads endpoint {endpoint!r} already; there is nothing to roll out")
        _check_unlocked(tx, ws.project, champion, challenger)
        made = Rollout(
            id=new_id(), endpoint=endpoint, champion=champion, challenger=challenger, plan=plan, stage=0, state="running", started_at=now,
            stage_at=now, next_at=now + plan.every, ended_at=None, reason=reason, seen=None,
        )  # fmt: skip
        tx.execute(insert(ROLLOUTS).values(project=ws.project, **{name: getattr(made, name) for name in made.__struct_fields__}))
        event = RolloutStarted(
            rollout=made.id, endpoint=endpoint, champion=champion.version, challenger=challenger.version, policy=plan.policy
        )
        event_id = ws.record(tx, event, subject=f"endpoint:{endpoint}", reason=reason, cause=cause)
        why = f"{plan.policy}, stage 1 of {len(plan.stages)}"
        write_route(ws, tx, endpoint, stage_route(made, 0, standby=_standby(made, before)), reason=why, cause=event_id)
    return made


def stage_route(rollout: Rollout, stage: int, *, standby: Sequence[Variant] = ()) -> Route:
    """Return who answers and who scores along in a stage. Both score everything when they are compared; standby stay loaded."""
    share = rollout.plan.stages[stage].share
    champion, challenger = rollout.champion, rollout.challenger
    both = (champion.name, challenger.name) if rollout.plan.margin is not None else ()
    return Route(variants=(champion, challenger, *standby), shares={champion.name: 1 - share, challenger.name: share}, shadows=both)


def advance(
    ws: Workspace, rollout: Rollout, look: Callable[[Rollout], Comparison], *, cause: EventId | None = None
) -> tuple[Rollout, Decision]:
    """Look at the evidence and do what the plan says: hold, go on, promote, roll back or drop.

    Evidence that cannot be judged is told as the reason to hold, until the plan's longest time is over.
    """
    ws.require("deploy.write", rollout.endpoint)
    now = ws.clock.now()
    fault = ""
    try:
        seen = look(rollout)
    except Invalid as error:
        nothing = np.zeros(0)
        seen, fault = compare(nothing, nothing, nothing, plan=rollout.plan), str(error)
    fresher = _data_until(ws, rollout.challenger) >= _data_until(ws, rollout.champion)
    decision = decide(
        rollout.plan, stage=rollout.stage, in_stage=now - rollout.stage_at, in_rollout=now - rollout.started_at, seen=seen, fresher=fresher
    )
    if fault:
        decision = replace(decision, reason=f"{decision.reason}; {fault}")
    if decision.action == "promote" and (kept := _kept(ws, rollout)):
        decision = replace(decision, action="hold", reason=f"{decision.reason}; it waits, for {kept}")
    with ws.catalog.transaction() as tx:
        mine = (ROLLOUTS.c.project == ws.project) & (ROLLOUTS.c.id == rollout.id)
        same = mine & (ROLLOUTS.c.state == "running") & (ROLLOUTS.c.stage == rollout.stage)
        if not tx.execute(
            update(ROLLOUTS).where(same).values(seen=seen, reason=decision.reason, next_at=now + rollout.plan.every)
        ).rowcount:
            return _fetch(tx, ws.project, rollout.id), decision  # somebody else was first
        if decision.action == "advance":
            stage = rollout.stage + 1
            tx.execute(update(ROLLOUTS).where(mine).values(stage=stage, stage_at=now))
            share = rollout.plan.stages[stage].share
            event = RolloutAdvanced(rollout=rollout.id, endpoint=rollout.endpoint, stage=stage, share=share)
            event_id = ws.record(tx, event, subject=f"endpoint:{rollout.endpoint}", reason=decision.reason, cause=cause)
            route = stage_route(rollout, stage, standby=_standby(rollout, fetch_endpoint(tx, ws.project, rollout.endpoint)))
            write_route(ws, tx, rollout.endpoint, route, reason=f"{rollout.plan.policy}: {share:.0%}", cause=event_id)
        elif decision.action != "hold":
            _end(ws, tx, rollout, _OUTCOMES[decision.action], seen, reason=decision.reason, cause=cause)
        return _fetch(tx, ws.project, rollout.id), decision


def roll_back(ws: Workspace, endpoint: str, *, reason: str, cause: EventId | None = None) -> Endpoint:
    """Take the newest change of an endpoint back: end a running rollout, else return to the variant that led before. Raises Conflict."""
    ws.require("deploy.write", endpoint)
    with ws.catalog.transaction() as tx:
        active = _active(tx, ws.project, endpoint)
        if active:
            _end(ws, tx, active[0], "rolled_back", active[0].seen, reason=reason, cause=cause)
            return fetch_endpoint(tx, ws.project, endpoint)
        route = fetch_endpoint(tx, ws.project, endpoint).route
        standby = [variant for variant in route.variants if variant.name != route.leader.name]
        if not standby:
            raise Conflict(
                f"endpoint {endpoint!r} has no earlier variant to return to; roll another version out with: tidemill endpoint rollout"
            )
        back = Route(variants=(standby[0], route.leader), shares={standby[0].name: 1.0})
        write_route(ws, tx, endpoint, back, reason=reason, cause=cause)
        write_alias(ws, tx, fetch_key(tx, ws.project, standby[0].model, standby[0].version), alias=CHAMPION, reason=reason, cause=cause)
        return fetch_endpoint(tx, ws.project, endpoint)


def list_rollouts(ws: Workspace, *, endpoint: str | None = None, state: State | None = None, limit: int = 100) -> list[Rollout]:
    """Return rollouts, newest first."""
    ws.require("deploy.read", endpoint or "*")
    query = (
        select(ROLLOUTS).where(ROLLOUTS.c.project == ws.project).order_by(ROLLOUTS.c.started_at.desc(), ROLLOUTS.c.id.desc()).limit(limit)
    )
    if endpoint is not None:
        query = query.where(ROLLOUTS.c.endpoint == endpoint)
    if state is not None:
        query = query.where(ROLLOUTS.c.state == state)
    with ws.catalog.reading() as tx:
        return [_rollout(row) for row in tx.execute(query)]


def _end(
    ws: Workspace, tx: Connection, rollout: Rollout, outcome: State, seen: Comparison | None, *, reason: str, cause: EventId | None
) -> None:
    mine = (ROLLOUTS.c.project == ws.project) & (ROLLOUTS.c.id == rollout.id)
    tx.execute(update(ROLLOUTS).where(mine).values(state=outcome, ended_at=ws.clock.now(), reason=reason, seen=seen))
    event = RolloutEnded(
        rollout=rollout.id,
        endpoint=rollout.endpoint,
        challenger=rollout.challenger.version,
        outcome=outcome,
        touched=seen.touched if seen else 0,
        labels=seen.labels if seen else 0,
    )
    event_id = ws.record(tx, event, subject=f"endpoint:{rollout.endpoint}", reason=reason, cause=cause)
    winner, other = (rollout.challenger, rollout.champion) if outcome == "promoted" else (rollout.champion, rollout.challenger)
    # The one that was replaced stays at hand, so that going back is a change of shares; one that lost is let go.
    standby = (other,) if outcome == "promoted" else _standby(rollout, fetch_endpoint(tx, ws.project, rollout.endpoint))
    variants = (winner, *standby)
    write_route(ws, tx, rollout.endpoint, Route(variants=variants, shares={winner.name: 1.0}), reason=reason, cause=event_id)
    if outcome == "promoted":
        version = fetch_key(tx, ws.project, winner.model, winner.version)
        write_alias(ws, tx, version, alias=CHAMPION, reason=reason, cause=event_id)


def _check_unlocked(tx: Connection, project: str, *variants: Variant) -> None:
    """Raises VersionLocked when the alias may not go from one to the other, as it does when a rollout promotes."""
    for variant in variants:
        check_unlocked(tx, project, fetch_key(tx, project, variant.model, variant.version))


def _kept(ws: Workspace, rollout: Rollout) -> str:
    """Return why the challenger may not take over now, an empty text when it may."""
    try:
        with ws.catalog.reading() as tx:
            _check_unlocked(tx, ws.project, rollout.champion, rollout.challenger)
    except VersionLocked as error:
        return str(error)
    return ""


def _standby(rollout: Rollout, endpoint: Endpoint) -> tuple[Variant, ...]:
    """Return the variants at hand that are not in the rollout: those that led before."""
    return tuple(v for v in endpoint.route.variants if v.name not in (rollout.champion.name, rollout.challenger.name))


def _data_until(ws: Workspace, variant: Variant) -> str:
    version = version_of(ws, variant)
    return version.tags.get(DATA_UNTIL) or version.created_at.isoformat()


def _active(tx: Connection, project: str, endpoint: str) -> Sequence[Rollout]:
    query = select(ROLLOUTS).where(ROLLOUTS.c.project == project, ROLLOUTS.c.endpoint == endpoint, ROLLOUTS.c.state == "running")
    return [_rollout(row) for row in tx.execute(query)]


def _fetch(tx: Connection, project: str, rollout: str) -> Rollout:
    row = tx.execute(select(ROLLOUTS).where(ROLLOUTS.c.project == project, ROLLOUTS.c.id == rollout)).one_or_none()
    if row is None:
        raise NotFound(f"there is no rollout {rollout!r}; list them with: tidemill endpoint rollouts")
    return _rollout(row)


def _rollout(row: Any) -> Rollout:
    return Rollout(**{name: getattr(row, name) for name in Rollout.__struct_fields__})
