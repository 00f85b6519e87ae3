"""Check results and their evidence: one type for data, models, monitors and releases. Owns their table.

Whoever asks the question computes the numbers and the verdict; this module gives them a shape and keeps them.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Column, Connection, Index, Table, insert, select

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.schema import METADATA, Moment, Text
from tidemill.core.codec import canonical, decode
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest, EventId, new_id
from tidemill.core.values import Json, Value, field, replace
from tidemill.govern.workspace import Workspace

Verdict = Literal["pass", "warn", "fail"]

CHECKS = Table(
    "check_results",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("artifact", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Index("ix_check_results_subject", "project", "subject", "at"),
)


class EvidenceTable(Value, frozen=True, kw_only=True):
    """Rows that show why: sample rows of a violation, metrics by slice, bins of a curve."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Json, ...], ...]


class Evidence(Value, frozen=True, kw_only=True):
    """What a verdict rests on. A threshold has the key of the value that it bounds."""

    values: dict[str, float] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    tables: tuple[EvidenceTable, ...] = ()
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # JSON has no such numbers: written, the evidence could not be read again.
        if odd := [key for numbers in (self.values, self.thresholds) for key, value in numbers.items() if not math.isfinite(value)]:
            raise Invalid(f"evidence {', '.join(odd)} is no finite number; leave out what could not be measured, and say so in the summary")


class CheckResult(Value, frozen=True, kw_only=True):
    """The answer to one named question, in one sentence, with its evidence."""

    name: str
    verdict: Verdict
    summary: str
    evidence: Evidence = Evidence()


class CheckRecord(Value, frozen=True, kw_only=True):
    """A result tied to what it judged and kept as an artifact."""

    id: str
    subject: str
    result: CheckResult
    artifact: Digest
    at: datetime


class ChecksRecorded(EventBody, frozen=True, kw_only=True, tag="checks.recorded"):
    """Something was judged."""

    verdicts: dict[str, Verdict]


def overall(results: Sequence[CheckResult]) -> Verdict:
    """Return the gate's verdict: the worst of all, pass when there is nothing to say."""
    verdicts = {result.verdict for result in results}
    return "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "pass"


def record_checks(
    ws: Workspace, subject: str, results: Sequence[CheckResult], *, reason: str = "", cause: EventId | None = None
) -> list[CheckRecord]:
    """Keep results as artifacts tied to the node that they judged."""
    ws.require("checks.write", subject)
    records = keep_results(ws, subject, results)
    with ws.catalog.transaction() as tx:
        write_judgement(ws, tx, subject, records, reason=reason, cause=cause)
    return records


def keep_results(ws: Workspace, subject: str, results: Sequence[CheckResult]) -> list[CheckRecord]:
    """Put results into the object store and return the records that are to be written of them."""
    at = ws.clock.now()
    return [
        CheckRecord(id=new_id(), subject=subject, result=result, artifact=ws.objects.put(canonical(result)), at=at) for result in results
    ]


def write_judgement(
    ws: Workspace, tx: Connection, subject: str, records: Sequence[CheckRecord], *, reason: str = "", cause: EventId | None = None
) -> None:
    """Write records of one subject with their lineage and event, in the caller's transaction."""
    write_checks(tx, ws.project, [replace(record, subject=subject) for record in records])
    verdicts = {record.result.name: record.result.verdict for record in records}
    ws.record(tx, ChecksRecorded(verdicts=verdicts), subject=subject, reason=reason, cause=cause)


def write_checks(tx: Connection, project: str, records: Sequence[CheckRecord]) -> None:
    """Write records with their lineage, in the caller's transaction."""
    for record in records:
        row = {"name": record.result.name, "verdict": record.result.verdict, "summary": record.result.summary}
        tx.execute(
            insert(CHECKS).values(id=record.id, project=project, subject=record.subject, artifact=record.artifact, at=record.at, **row)
        )
        link(tx, project, source=record.subject, target=f"check:{record.id}", relation="judged", at=record.at)


def list_checks(ws: Workspace, subject: str, *, limit: int = 200) -> list[CheckRecord]:
    """Return what was found about a node, newest first, with the evidence."""
    ws.require("checks.read", subject)
    query = (
        select(CHECKS)
        .where(CHECKS.c.project == ws.project, CHECKS.c.subject == subject)
        .order_by(CHECKS.c.at.desc(), CHECKS.c.id)
        .limit(limit)
    )
    with ws.catalog.reading() as tx:
        rows = tx.execute(query).all()
    return [_record(row, decode(ws.objects.get(row.artifact), CheckResult, what=f"check {row.id}")) for row in rows]


def _record(row: Any, result: CheckResult) -> CheckRecord:
    return CheckRecord(id=row.id, subject=row.subject, result=result, artifact=Digest(row.artifact), at=row.at)
