"""Assessments: what people and judges say of a trace: feedback, and what was expected of it. Owns their table."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from sqlalchemy import Column, Connection, Index, PrimaryKeyConstraint, Table, delete, select, update

from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, insert_new
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import new_id
from tidemill.core.values import Value, replace
from tidemill.govern.workspace import Workspace
from tidemill.tracking.traces import TRACES, TraceNotFound

AssessmentKind = Literal["feedback", "expectation", "issue"]
NAME_MAX, ID_MAX = 250, 50

ASSESSMENTS = Table(
    "assessments",
    METADATA,
    Column("project", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("trace", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("body", JsonValue(dict[str, Any]), nullable=False),
    Column("overrides", Text),
    Column("valid", JsonValue(bool), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "id"),
    Index("ix_assessments_trace", "project", "trace", "created_at"),
    Index("ix_assessments_name", "project", "kind", "name"),
)


class Assessment(Value, frozen=True, kw_only=True):
    """One judgement. value: as JSON text, for searches; body: all that was said, as it came."""

    id: str
    trace: str
    name: str
    kind: AssessmentKind
    value: str
    body: dict[str, Any]
    overrides: str | None = None
    valid: bool = True


class AssessmentNotFound(NotFound):
    """No assessment of that id on that trace."""

    def __init__(self, trace: str, assessment: str) -> None:
        self.trace, self.assessment = trace, assessment
        super().__init__(f"Assessment with ID {assessment[:80]!r} not found for trace {trace[:80]!r}; list them with the trace")


class AssessmentExists(Conflict):
    """The id is taken."""

    def __init__(self, assessment: str) -> None:
        self.assessment = assessment
        super().__init__(f"an assessment {assessment!r} exists already; send it without an id, and it gets a fresh one")


def create_assessment(ws: Workspace, assessment: Assessment) -> Assessment:
    """Keep a judgement of a trace; one that it overrides counts no more.

    Raises TraceNotFound, AssessmentNotFound, AssessmentExists, Invalid.
    """
    ws.require("tracking.write", assessment.trace)
    check_assessment(assessment)
    made = assessment if assessment.id else replace(assessment, id=f"a-{new_id()}")
    with ws.catalog.transaction() as tx:
        there = select(TRACES.c.id).where(TRACES.c.project == ws.project, TRACES.c.id == made.trace)
        if tx.execute(there).first() is None:
            raise TraceNotFound(made.trace)
        if made.overrides:
            _fetch(tx, ws.project, made.trace, made.overrides)
            _set_valid(tx, ws.project, made.overrides, valid=False)
        now = ws.clock.now()
        row = {name: getattr(made, name) for name in made.__struct_fields__}
        if not insert_new(tx, ASSESSMENTS, [{"project": ws.project, **row, "created_at": now, "updated_at": now}]):
            raise AssessmentExists(made.id)
    return made


def check_assessment(assessment: Assessment) -> None:
    """Raises Invalid for a name or an id that cannot be kept."""
    if not 1 <= len(assessment.name) <= NAME_MAX:
        raise Invalid(f"assessment_name {assessment.name[:80]!r} is not usable; expected 1 to {NAME_MAX} characters")
    if len(assessment.id) > ID_MAX or "/" in assessment.id:
        raise Invalid(f"assessment id {assessment.id[:80]!r} is not usable; expected at most {ID_MAX} characters without slashes")


def read_assessment(ws: Workspace, trace: str, assessment: str) -> Assessment:
    """Return a judgement. Raises AssessmentNotFound."""
    ws.require("tracking.read", trace)
    with ws.catalog.reading() as tx:
        return _fetch(tx, ws.project, trace, assessment)


def read_assessments(ws: Workspace, traces: Sequence[str]) -> dict[str, list[Assessment]]:
    """Return the judgements of each of some traces, the oldest first."""
    ws.require("tracking.read")
    found: dict[str, list[Assessment]] = {trace: [] for trace in traces}
    mine = (ASSESSMENTS.c.project == ws.project) & ASSESSMENTS.c.trace.in_(traces)
    with ws.catalog.reading() as tx:
        for row in tx.execute(select(ASSESSMENTS).where(mine).order_by(ASSESSMENTS.c.created_at, ASSESSMENTS.c.id)):
            found[row.trace].append(_assessment(row))
    return found


def update_assessment(ws: Workspace, trace: str, assessment: str, *, change: Callable[[Assessment], Assessment]) -> Assessment:
    """Replace what a judgement says by what change makes of it; of two who change it at once, one sees what the other said.

    Raises AssessmentNotFound, Invalid, and what change raises.
    """
    ws.require("tracking.write", trace)
    with ws.catalog.transaction() as tx:
        there = (ASSESSMENTS.c.project == ws.project) & (ASSESSMENTS.c.id == assessment)
        tx.execute(select(ASSESSMENTS.c.id).where(there).with_for_update())
        made = change(_fetch(tx, ws.project, trace, assessment))
        check_assessment(made)
        changed = update(ASSESSMENTS).where(there)
        tx.execute(changed.values(name=made.name, value=made.value, body=made.body, updated_at=ws.clock.now()))
    return made


def delete_assessment(ws: Workspace, trace: str, assessment: str) -> None:
    """Remove a judgement; one that it overrode counts again. An absent one is no error. Raises TraceNotFound."""
    ws.require("tracking.write", trace)
    with ws.catalog.transaction() as tx:
        there = select(TRACES.c.id).where(TRACES.c.project == ws.project, TRACES.c.id == trace)
        if tx.execute(there).first() is None:
            raise TraceNotFound(trace)
        mine = (ASSESSMENTS.c.project == ws.project) & (ASSESSMENTS.c.trace == trace) & (ASSESSMENTS.c.id == assessment)
        row = tx.execute(select(ASSESSMENTS.c.overrides).where(mine)).one_or_none()
        if row is not None:
            tx.execute(delete(ASSESSMENTS).where(mine))
            if row.overrides:
                _set_valid(tx, ws.project, row.overrides, valid=True)


def _set_valid(tx: Connection, project: str, assessment: str, *, valid: bool) -> None:
    tx.execute(update(ASSESSMENTS).where(ASSESSMENTS.c.project == project, ASSESSMENTS.c.id == assessment).values(valid=valid))


def _fetch(tx: Connection, project: str, trace: str, assessment: str) -> Assessment:
    mine = (ASSESSMENTS.c.project == project) & (ASSESSMENTS.c.trace == trace) & (ASSESSMENTS.c.id == assessment)
    row = tx.execute(select(ASSESSMENTS).where(mine)).one_or_none()
    if row is None:
        raise AssessmentNotFound(trace, assessment)
    return _assessment(row)


def _assessment(row: Any) -> Assessment:
    return Assessment(**{name: getattr(row, name) for name in Assessment.__struct_fields__})
