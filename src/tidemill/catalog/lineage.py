"""Lineage: edges between artifacts and runs, written in the transaction of what they describe.

A node is named `dataset:NAME@V`, `run:ID`, `model:NAME@V`, `service:NAME@V`, `endpoint:NAME`, `artifact:DIGEST` or `check:ID`.
An edge points the way that data flows: from what was used to what came of it.
"""

from datetime import datetime
from typing import Literal

from sqlalchemy import Column, Connection, Index, PrimaryKeyConstraint, Table, literal, select
from sqlalchemy.dialects.postgresql import insert as insert_or  # what is used of it here reads the same on SQLite

from tidemill.catalog.prepared import Prepared
from tidemill.catalog.schema import METADATA, Moment, Text
from tidemill.core.clock import micros
from tidemill.core.values import Value

EDGES = Table(
    "edges",
    METADATA,
    Column("project", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("relation", Text, nullable=False),
    Column("at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "source", "target", "relation"),
    Index("ix_edges_target", "project", "target"),
)

_LINK = Prepared(insert_or(EDGES).on_conflict_do_nothing())


class Edge(Value, frozen=True, kw_only=True):
    """One step of lineage."""

    source: str
    target: str
    relation: str
    at: datetime


def link(tx: Connection, project: str, *, source: str, target: str, relation: str, at: datetime) -> None:
    """Record that target came of source. Recording it again changes nothing."""
    _LINK.run(tx, {"project": project, "source": source, "target": target, "relation": relation, "at": micros(at)})


def walk(
    tx: Connection, project: str, node: str, *, direction: Literal["upstream", "downstream"] = "upstream", depth: int = 20
) -> list[Edge]:
    """Return the edges that lead to node (upstream) or away from it, nearest first, each once."""
    here, there = (EDGES.c.target, EDGES.c.source) if direction == "upstream" else (EDGES.c.source, EDGES.c.target)
    first = select(EDGES, there.label("next"), literal(1).label("depth")).where(EDGES.c.project == project, here == node)
    steps = first.cte("steps", recursive=True)
    more = select(EDGES, there.label("next"), (steps.c.depth + 1).label("depth")).where(
        EDGES.c.project == project, here == steps.c.next, steps.c.depth < depth
    )
    steps = steps.union(more)
    rows = tx.execute(select(steps).order_by(steps.c.depth, steps.c.at, steps.c.source, steps.c.target))
    edges = {
        (row.source, row.target, row.relation): Edge(source=row.source, target=row.target, relation=row.relation, at=row.at) for row in rows
    }
    return list(edges.values())
