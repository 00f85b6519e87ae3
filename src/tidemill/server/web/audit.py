"""The audit page: what happened, filtered, and whether the chain holds."""

from collections.abc import Mapping

from tidemill.catalog.events import ChainReport, Event
from tidemill.core.clock import parse_moment
from tidemill.core.values import Value
from tidemill.govern.audit import list_events, verify_audit
from tidemill.govern.workspace import Workspace
from tidemill.server.web.page import Page

SHOWN = 100
RECENT = 2000


class AuditPage(Value, frozen=True, kw_only=True):
    """Context of the audit page. kind, subject and until are the filters in force; older is the `until` of what lies further back."""

    events: tuple[Event, ...]
    kinds: tuple[str, ...]
    kind: str
    subject: str
    until: str
    older: str | None
    chain: ChainReport


def build(ws: Workspace, _path: Mapping[str, str], query: Mapping[str, str]) -> AuditPage:
    """Build the audit page's context. Raises Invalid for a time that cannot be read."""
    kind, subject, until = query.get("kind", ""), query.get("subject", ""), query.get("until", "")
    events = list_events(
        ws,
        kinds=(kind,) if kind else (),
        subject_prefix=subject or None,
        until=parse_moment(until) if until else None,
        limit=SHOWN + 1,
    )
    recent = events if not (kind or subject or until) else list_events(ws, limit=RECENT)
    return AuditPage(
        events=tuple(events[:SHOWN]),
        kinds=tuple(sorted({event.kind for event in recent} | ({kind} if kind else set()))),
        kind=kind,
        subject=subject,
        until=until,
        # inclusive: several events may share a moment, and seeing one twice is better than never
        older=events[SHOWN].at.isoformat() if len(events) > SHOWN else None,
        chain=verify_audit(ws),
    )


PAGE = Page(path="/audit", template="audit.html", section="audit", build=build, title=lambda _: "Audit", context=AuditPage)
