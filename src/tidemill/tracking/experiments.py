"""Experiments: the names that runs are grouped under. Owns their table."""

from datetime import datetime

from sqlalchemy import BigInteger, Column, Connection, PrimaryKeyConstraint, Table, UniqueConstraint, func, select

from tidemill.catalog.schema import METADATA, Moment, Text, insert_new
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace

EXPERIMENTS = Table(
    "experiments",
    METADATA,
    Column("project", Text, nullable=False),
    Column("id", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "id"),
    UniqueConstraint("project", "name"),
)


class Experiment(Value, frozen=True, kw_only=True):
    """A group of runs."""

    id: int
    name: str
    created_at: datetime


def write_experiment(tx: Connection, project: str, name: str, *, at: datetime) -> int:
    """Return the id of an experiment, made when it is new."""
    mine = select(EXPERIMENTS.c.id).where(EXPERIMENTS.c.project == project, EXPERIMENTS.c.name == name)
    found = tx.execute(mine).scalar_one_or_none()
    if found is None:
        newest = tx.execute(select(func.max(EXPERIMENTS.c.id)).where(EXPERIMENTS.c.project == project)).scalar_one_or_none()
        insert_new(tx, EXPERIMENTS, [{"project": project, "id": (newest or 0) + 1, "name": name, "created_at": at}])
        found = tx.execute(mine).scalar_one()
    return int(found)


def list_experiments(ws: Workspace) -> list[Experiment]:
    """Return the experiments of this project by id."""
    ws.require("tracking.read")
    with ws.catalog.reading() as tx:
        rows = tx.execute(select(EXPERIMENTS).where(EXPERIMENTS.c.project == ws.project).order_by(EXPERIMENTS.c.id)).all()
    return [Experiment(id=row.id, name=row.name, created_at=row.created_at) for row in rows]
