"""What has been taken into a dataset already, by source: written in the transaction of the rows, so that neither is without the other.

A source is a folder (a mark is a file, what is told how many of its rows), the pushes to workers (a segment, how far), callers (the key
of a request, what it was answered). Owns its table.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Column, ColumnElement, Connection, PrimaryKeyConstraint, Table, delete, select, update

from tidemill.catalog.schema import METADATA, Moment, Text, insert_new
from tidemill.core.errors import Conflict
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace

MARKS = Table(
    "dataset_marks",
    METADATA,
    Column("project", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("mark", Text, nullable=False),
    Column("told", Text, nullable=False),
    Column("at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "dataset", "source", "mark"),
)


class Mark(Value, frozen=True, kw_only=True):
    """One thing of a source, and how far it has been taken: what was told of it before (None: nothing), and what is to be told."""

    source: str
    mark: str
    before: str | None
    told: str


class AlreadyTaken(Conflict):
    """Somebody else has taken it meanwhile."""

    def __init__(self, name: str, mark: Mark) -> None:
        self.name, self.mark = name, mark
        super().__init__(f"{mark.mark} of {mark.source} was taken into dataset {name!r} by somebody else meanwhile; nothing was added")


def read_marks(ws: Workspace, name: str, source: str) -> dict[str, str]:
    """Return what is told of each thing of a source that was taken."""
    ws.require("datasets.read", name)
    with ws.catalog.reading() as tx:
        rows = tx.execute(select(MARKS.c.mark, MARKS.c.told).where(*_of(ws, name, source))).all()
    return {row.mark: row.told for row in rows}


def write_marks(tx: Connection, ws: Workspace, name: str, marks: Sequence[Mark]) -> None:
    """Say how far things are taken now. Raises AlreadyTaken where they are not as far as they were seen to be."""
    for each in marks:
        row = {"project": ws.project, "dataset": name, "source": each.source, "mark": each.mark, "told": each.told, "at": ws.clock.now()}
        if each.before is None:
            moved = insert_new(tx, MARKS, [row])
        else:
            mine = (*_of(ws, name, each.source), MARKS.c.mark == each.mark, MARKS.c.told == each.before)
            moved = tx.execute(update(MARKS).where(*mine).values(told=each.told, at=row["at"])).rowcount
        if not moved:
            raise AlreadyTaken(name, each)


def marked_datasets(ws: Workspace, source: str) -> list[str]:
    """Return the datasets of this project of which something of a source is told."""
    ws.require("datasets.read")
    mine = (MARKS.c.project == ws.project) & (MARKS.c.source == source)
    with ws.catalog.reading() as tx:
        return list(tx.execute(select(MARKS.c.dataset).where(mine).distinct().order_by(MARKS.c.dataset)).scalars())


def forget_marks(ws: Workspace, name: str, source: str, marks: Sequence[str]) -> None:
    """Say nothing any more of things that cannot come again."""
    if marks:
        with ws.catalog.transaction() as tx:
            tx.execute(delete(MARKS).where(*_of(ws, name, source), MARKS.c.mark.in_(marks)))


def forget_older(tx: Connection, ws: Workspace, name: str, source: str, age: timedelta) -> None:
    """Say nothing any more of what was taken longer ago than an age."""
    tx.execute(delete(MARKS).where(*_of(ws, name, source), MARKS.c.at < ws.clock.now() - age))


def _of(ws: Workspace, name: str, source: str) -> tuple[ColumnElement[bool], ...]:
    return MARKS.c.project == ws.project, MARKS.c.dataset == name, MARKS.c.source == source
