"""Rules: when this event, do that. Owns their tables and decides, purely, which of them fire."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter
from sqlalchemy import BigInteger, Column, Connection, Index, PrimaryKeyConstraint, Table, select, update

from tidemill.catalog.events import Event, EventBody, last_seq
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, insert_new, upsert
from tidemill.core.clock import EPOCH
from tidemill.core.errors import Invalid
from tidemill.core.ids import ActorId, EventId, check_name
from tidemill.core.values import Meta, Value, field
from tidemill.deploy.plans import RolloutPlan
from tidemill.govern.workspace import Workspace


class OnEvent(Value, frozen=True, kw_only=True, tag="event", tag_field="on"):
    """Fires for each event of a kind, on a subject (a prefix of it), whose body has these values: `tags.by` looks inside of `tags`."""

    kind: str
    subject: str = ""
    where: dict[str, Any] = field(default_factory=dict)


class OnSchedule(Value, frozen=True, kw_only=True, tag="schedule", tag_field="on"):
    """Fires at the times of a cron expression in a time zone. A firing that was missed while nobody looked happens once, late.

    Where clocks go forward, a time that does not exist is the first one that does; where they go back, a time that comes twice
    counts once, unless the expression is for every hour.
    """

    cron: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        if len(self.cron.split()) != 5 or not croniter.is_valid(self.cron):
            raise Invalid(f"schedule {self.cron!r} was not understood; expected five cron fields, as in '0 6 1 * *': the first at six")
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise Invalid(f"time zone {self.zone!r} is not known; expected an IANA name such as Europe/Berlin") from error
        try:
            croniter(self.cron, EPOCH).get_next(datetime)
        except CroniterBadDateError as error:
            raise Invalid(f"schedule {self.cron!r} never comes; expected a day that some month has") from error


class RunPipeline(Value, frozen=True, kw_only=True, tag="run_pipeline", tag_field="do"):
    """Run a pipeline of the project as a job."""

    pipeline: str
    params: dict[str, Any] = field(default_factory=dict)


class StartRollout(Value, frozen=True, kw_only=True, tag="start_rollout", tag_field="do"):
    """Set the model version that the event registered against the champion of an endpoint."""

    endpoint: str
    plan: RolloutPlan


Trigger = OnEvent | OnSchedule
Action = RunPipeline | StartRollout


class Rule(Value, frozen=True, kw_only=True):
    """When `when` happens, do `do`; not again before `cooldown` has passed since the last firing of any rule of the same group."""

    name: str
    when: Trigger
    do: Action
    cooldown: timedelta = timedelta(0)
    group: str = ""
    reason: Annotated[str, Meta(max_length=500)] = ""
    enabled: bool = True

    def __post_init__(self) -> None:
        check_name(self.name, "rule")


RULES = Table(
    "rules",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("rule", JsonValue(Rule), nullable=False),
    Column("actor", Text, nullable=False),
    Column("since", Moment, nullable=False),
    Column("since_seq", BigInteger, nullable=False),
    PrimaryKeyConstraint("project", "name"),
)

FIRINGS = Table(  # one row for each time that a rule was due: what makes every firing happen once
    "rule_firings",
    METADATA,
    Column("project", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("group", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("message", Text, nullable=False),
    PrimaryKeyConstraint("project", "rule", "trigger"),
    Index("ix_rule_firings_group", "project", "group", "at"),
)


class RuleSet(EventBody, frozen=True, kw_only=True, tag="rule.set"):
    """A rule was made or changed."""

    rule: Rule


class RuleFired(EventBody, frozen=True, kw_only=True, tag="rule.fired"):
    """A rule acted, or was kept from it."""

    rule: str
    trigger: str
    outcome: str
    message: str


class Firing(Value, frozen=True, kw_only=True):
    """One time that a rule was due: trigger is the event or the scheduled time; outcome is done, refused or cooling."""

    rule: str
    trigger: str
    at: datetime
    outcome: str
    message: str


class Active(Value, frozen=True, kw_only=True):
    """A rule that holds: for whom it acts, and since when (the number of the last event that it does not see)."""

    rule: Rule
    actor: ActorId
    since: datetime
    since_seq: int


class Due(Value, frozen=True, kw_only=True):
    """A rule that should act now, and what for."""

    rule: Rule
    trigger: str
    event: Event | None


def set_rule(ws: Workspace, rule: Rule, *, reason: str = "") -> Rule:
    """Make a rule or change it. It sees what happens from now on."""
    ws.require("automate.write", rule.name)
    with ws.catalog.transaction() as tx:
        ws.record(tx, RuleSet(rule=rule), subject=f"rule:{rule.name}", reason=reason)
        since = {"since": ws.clock.now(), "since_seq": last_seq(tx, ws.project)}
        upsert(tx, RULES, [{"project": ws.project, "name": rule.name, "rule": rule, "actor": ws.actor.id, **since}])
    return rule


def list_rules(ws: Workspace) -> list[Rule]:
    """Return the rules of this project by name."""
    ws.require("automate.read")
    with ws.catalog.reading() as tx:
        return list(tx.execute(select(RULES.c.rule).where(RULES.c.project == ws.project).order_by(RULES.c.name)).scalars())


def list_firings(ws: Workspace, *, limit: int = 100) -> list[Firing]:
    """Return what rules did, newest first."""
    ws.require("automate.read")
    query = select(FIRINGS).where(FIRINGS.c.project == ws.project).order_by(FIRINGS.c.at.desc(), FIRINGS.c.rule).limit(limit)
    with ws.catalog.reading() as tx:
        return [Firing(rule=r.rule, trigger=r.trigger, at=r.at, outcome=r.outcome, message=r.message) for r in tx.execute(query)]


def matches(trigger: OnEvent, event: Event) -> bool:
    """Return whether an event is one that a trigger waits for."""
    return (
        event.kind == trigger.kind
        and event.subject.startswith(trigger.subject)
        and all(_inside(event.body, key) == value for key, value in trigger.where.items())
    )


def _inside(body: Any, path: str) -> Any:
    if not isinstance(body, dict):
        return None
    if path in body:  # a name may have dots of its own
        return body[path]
    head, dot, rest = path.partition(".")
    return _inside(body.get(head), rest) if dot else None


def scheduled(trigger: OnSchedule, *, after: datetime, until: datetime) -> datetime | None:
    """Return the latest time of a schedule in (after, until], None when there is none."""
    times = croniter(trigger.cron, (until + timedelta(microseconds=1)).astimezone(ZoneInfo(trigger.zone)))
    latest: datetime = times.get_prev(datetime)
    if _comes_again(trigger, latest):
        latest = latest.replace(fold=0)
    latest = latest.astimezone(UTC)
    return latest if after < latest <= until else None


def next_scheduled(trigger: OnSchedule, after: datetime) -> datetime:
    """Return the next time of a schedule behind a moment."""
    times = croniter(trigger.cron, after.astimezone(ZoneInfo(trigger.zone)))
    moment: datetime = times.get_next(datetime)
    while _comes_again(trigger, moment):
        moment = times.get_next(datetime)
    return moment.astimezone(UTC)


def _comes_again(trigger: OnSchedule, local: datetime) -> bool:
    """Return whether a local time is one that was already there before clocks went back, for a schedule of fixed hours."""
    twice = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()  # the parser's fold alone says nothing
    return local.fold == 1 and twice and not trigger.cron.split()[1].startswith("*")


def read_active(tx: Connection, project: str) -> list[Active]:
    """Return the enabled rules of a project by name."""
    rows = tx.execute(select(RULES).where(RULES.c.project == project).order_by(RULES.c.name))
    return [Active(rule=row.rule, actor=row.actor, since=row.since, since_seq=row.since_seq) for row in rows if row.rule.enabled]


def last_of_group(tx: Connection, project: str, rule: Rule) -> datetime | None:
    """Return when a rule of this rule's group last acted."""
    mine = (FIRINGS.c.project == project) & (FIRINGS.c.group == (rule.group or rule.name)) & (FIRINGS.c.outcome == "done")
    return tx.execute(select(FIRINGS.c.at).where(mine).order_by(FIRINGS.c.at.desc()).limit(1)).scalar_one_or_none()


def has_fired(tx: Connection, project: str, due: Due) -> bool:
    """Return whether it is written already how a rule dealt with a trigger."""
    mine = (FIRINGS.c.project == project) & (FIRINGS.c.rule == due.rule.name) & (FIRINGS.c.trigger == due.trigger)
    return tx.execute(select(FIRINGS.c.outcome).where(mine)).first() is not None


def claim_firing(tx: Connection, project: str, due: Due, *, at: datetime) -> bool:
    """Note that a rule acts for a trigger; False when it has already. In the caller's transaction."""
    row = {"project": project, "rule": due.rule.name, "trigger": due.trigger, "group": due.rule.group or due.rule.name, "at": at}
    return bool(insert_new(tx, FIRINGS, [{**row, "outcome": "claimed", "message": ""}]))


def note_outcome(tx: Connection, project: str, due: Due, *, outcome: str, message: str) -> None:
    """Write how a firing went, in the caller's transaction."""
    mine = (FIRINGS.c.project == project) & (FIRINGS.c.rule == due.rule.name) & (FIRINGS.c.trigger == due.trigger)
    tx.execute(update(FIRINGS).where(mine).values(outcome=outcome, message=message))


def cause_of(due: Due) -> EventId | None:
    """Return the event that a firing follows from."""
    return due.event.id if due.event else None
