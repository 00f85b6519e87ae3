"""Routes of the audit log and of lineage."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from tidemill.catalog.events import ChainReport, Event
from tidemill.catalog.lineage import Edge, walk
from tidemill.core.values import Meta
from tidemill.govern import audit
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import Limit, Route


def list_events(
    ws: Workspace,
    *,
    subject: str | None = None,
    subject_prefix: str | None = None,
    kinds: Sequence[str] = (),
    after: int = 0,
    until: datetime | None = None,
    limit: Limit = 100,
    newest_first: bool = True,
) -> list[Event]:
    """List what happened, newest first."""
    return audit.list_events(
        ws,
        subject=subject,
        subject_prefix=subject_prefix,
        kinds=kinds,
        after=after,
        until=until,
        limit=limit,
        newest_first=newest_first,
    )


def verify_audit(ws: Workspace) -> ChainReport:
    """Re-compute the chain of events and name the first that does not fit."""
    return audit.verify_audit(ws)


def lineage(
    ws: Workspace, node: str, *, direction: Literal["upstream", "downstream"] = "upstream", depth: Annotated[int, Meta(ge=1, le=50)] = 20
) -> list[Edge]:
    """List the edges that lead to a node, or away from it, nearest first."""
    ws.require("catalog.read", node)
    with ws.catalog.reading() as tx:
        return walk(tx, ws.project, node, direction=direction, depth=depth)


ROUTES = (
    Route("GET", "/events", list_events),
    Route("GET", "/audit", verify_audit),
    Route("GET", "/lineage/{node:path}", lineage),
)
