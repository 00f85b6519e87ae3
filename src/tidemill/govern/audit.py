"""The audit log: queries over events, and the proof that none was changed."""

from collections.abc import Sequence
from datetime import datetime

from tidemill.catalog.events import ChainReport, Event, read_events, verify_chain
from tidemill.govern.workspace import Workspace


def list_events(
    ws: Workspace,
    *,
    subject: str | None = None,
    subject_prefix: str | None = None,
    kinds: Sequence[str] = (),
    after: int = 0,
    until: datetime | None = None,
    limit: int | None = 100,
    newest_first: bool = True,
) -> list[Event]:
    """Return what happened in this project, newest first unless told otherwise."""
    ws.require("govern.read")
    with ws.catalog.reading() as tx:
        return read_events(
            tx,
            ws.project,
            subject=subject,
            subject_prefix=subject_prefix,
            kinds=kinds,
            after=after,
            until=until,
            limit=limit,
            newest_first=newest_first,
        )


def verify_audit(ws: Workspace) -> ChainReport:
    """Re-compute the chain of this project's events and name the first that does not fit."""
    ws.require("govern.read")
    with ws.catalog.reading() as tx:
        return verify_chain(tx, ws.project)
