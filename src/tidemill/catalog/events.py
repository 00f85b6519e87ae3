"""Events: one state change each, append-only, hash-chained per project. Owns their tables and the chain's verification."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, PrimaryKeyConstraint, Table, bindparam, func, insert, select, update

from tidemill.catalog.prepared import Prepared
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, insert_new
from tidemill.core.clock import micros
from tidemill.core.codec import canonical, plain
from tidemill.core.ids import EventId, new_id
from tidemill.core.values import Value

GENESIS = "0" * 64

EVENTS = Table(
    "events",
    METADATA,
    Column("project", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("id", Text, nullable=False, unique=True),
    Column("at", Moment, nullable=False),
    Column("actor", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("cause", Text),
    Column("body", JsonValue(dict[str, Any]), nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    PrimaryKeyConstraint("project", "seq"),
    Index("ix_events_subject", "project", "subject", "seq"),
    Index("ix_events_kind", "project", "kind", "seq"),
)

HEADS = Table(
    "event_heads",
    METADATA,
    Column("project", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
)

_HEAD = Prepared(select(HEADS.c.seq, HEADS.c.hash).where(HEADS.c.project == bindparam("project")).with_for_update())
_APPEND = Prepared(insert(EVENTS))
_MOVE_HEAD = Prepared(update(HEADS).where(HEADS.c.project == bindparam("project")).values(seq=bindparam("seq"), hash=bindparam("hash")))


class EventBody(Value, frozen=True, kw_only=True, tag_field="kind"):
    """What one kind of event says. Subclasses live with their nouns and carry the kind as their tag: `dataset.added`."""


class Event(Value, frozen=True, kw_only=True):
    """One state change as recorded."""

    project: str
    seq: int
    id: EventId
    at: datetime
    actor: str
    kind: str
    subject: str
    reason: str
    cause: EventId | None
    body: dict[str, Any]
    previous: str
    hash: str


class ChainReport(Value, frozen=True, kw_only=True):
    """Outcome of re-computing a project's chain. broken_seq is the first event that does not fit, None when all do."""

    project: str
    events: int
    verified: bool
    broken_seq: int | None = None
    what: str = ""


def append(
    tx: Connection,
    body: EventBody,
    *,
    project: str,
    actor: str,
    at: datetime,
    subject: str,
    reason: str = "",
    cause: EventId | None = None,
) -> EventId:
    """Write an event behind the last one of its project, in the caller's transaction."""
    named = {"project": project}
    head = _HEAD.run(tx, named).fetchone()
    if head is None:
        insert_new(tx, HEADS, [{"project": project, "seq": 0, "hash": GENESIS}])
        head = _HEAD.run(tx, named).fetchone()
    fields = plain(body)
    event = {
        "project": project,
        "seq": head[0] + 1,
        "id": EventId(new_id()),
        "at": at,
        "actor": actor,
        "kind": fields.pop("kind"),
        "subject": subject,
        "reason": reason,
        "cause": cause,
        "body": fields,
        "previous": head[1],
    }
    event["hash"] = _hash(event)
    _APPEND.run(tx, {**event, "at": micros(at), "body": canonical(fields).decode()})
    _MOVE_HEAD.run(tx, {"project": project, "seq": event["seq"], "hash": event["hash"]})
    return EventId(event["id"])


def read_events(
    tx: Connection,
    project: str,
    *,
    subject: str | None = None,
    subject_prefix: str | None = None,
    kinds: Sequence[str] = (),
    after: int = 0,
    until: datetime | None = None,
    limit: int | None = 100,
    newest_first: bool = False,
) -> list[Event]:
    """Return events of a project behind sequence number `after`, oldest first unless told otherwise."""
    query = select(EVENTS).where(EVENTS.c.project == project, EVENTS.c.seq > after)
    if subject is not None:
        query = query.where(EVENTS.c.subject == subject)
    if subject_prefix is not None:
        query = query.where(EVENTS.c.subject.startswith(subject_prefix, autoescape=True))
    if kinds:
        query = query.where(EVENTS.c.kind.in_(kinds))
    if until is not None:
        query = query.where(EVENTS.c.at <= until)
    query = query.order_by(EVENTS.c.seq.desc() if newest_first else EVENTS.c.seq).limit(limit)
    return [_event(row) for row in tx.execute(query)]


def count_events(tx: Connection, *, kinds: Sequence[str]) -> int:
    """Return how many events of some kinds there are, in all projects together: it grows with each one, for events are never deleted."""
    every = EVENTS.c.project.in_(select(HEADS.c.project))  # named one by one, so that the index of kinds serves
    return tx.execute(select(func.count()).select_from(EVENTS).where(every, EVENTS.c.kind.in_(kinds))).scalar_one()


def last_seq(tx: Connection, project: str) -> int:
    """Return the sequence number of a project's newest event, 0 when it has none."""
    return tx.execute(select(HEADS.c.seq).where(HEADS.c.project == project)).scalar_one_or_none() or 0


def verify_chain(tx: Connection, project: str) -> ChainReport:
    """Re-compute every hash of a project's chain and name the first event that does not fit."""
    previous, count = GENESIS, 0
    for event in _stream(tx, project):
        count += 1
        fields = {name: getattr(event, name) for name in event.__struct_fields__}
        wrong = (
            f"event {count} is missing; the next one there is {event.seq}"
            if event.seq != count
            else f"event {event.seq} ({event.kind}) does not continue the one before it"
            if event.previous != previous
            else f"event {event.seq} ({event.kind} of {event.subject}) was changed after it was written"
            if _hash(fields) != event.hash
            else ""
        )
        if wrong:
            return ChainReport(project=project, events=count, verified=False, broken_seq=count, what=wrong)
        previous = event.hash
    head = tx.execute(select(HEADS.c.seq, HEADS.c.hash).where(HEADS.c.project == project)).one_or_none()
    if head is not None and (head.seq, head.hash) != (count, previous):
        what = f"the chain ends at event {count}, but {head.seq} were written"
        return ChainReport(project=project, events=count, verified=False, broken_seq=count + 1, what=what)
    return ChainReport(project=project, events=count, verified=True)


def _stream(tx: Connection, project: str) -> Iterator[Event]:
    query = select(EVENTS).where(EVENTS.c.project == project).order_by(EVENTS.c.seq).execution_options(yield_per=1000)
    for row in tx.execute(query):
        yield _event(row)


def _hash(event: dict[str, Any]) -> str:
    covered = {**event, "at": micros(event["at"])}
    covered.pop("hash", None)
    return hashlib.sha256(canonical(covered)).hexdigest()


def _event(row: Any) -> Event:
    return Event(**row._mapping)
