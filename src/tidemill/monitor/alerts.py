"""Alerts: one for each incident, from the window that opens it to the one that closes it. Owns their table."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Column, Connection, Index, Integer, Table, insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text
from tidemill.checks.check import Verdict
from tidemill.core.clock import utc
from tidemill.core.errors import Conflict, NotFound
from tidemill.core.ids import EventId, new_id
from tidemill.core.values import Value, replace
from tidemill.govern.workspace import Workspace
from tidemill.monitor.monitors import MonitorSpec
from tidemill.monitor.report import ASPECTS, SEVERITY, Aspect, Finding, WindowReport

AlertState = Literal["open", "resolved"]

ALERTS = Table(
    "alerts",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("monitor", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("aspect", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("findings", JsonValue(tuple[Finding, ...]), nullable=False),
    Column("windows", Integer, nullable=False),
    Column("quiet_windows", Integer, nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("last_seen_at", Moment, nullable=False),
    Column("resolved_at", Moment),
    Column("silenced_until", Moment),
    Column("view", Text, nullable=False, server_default=""),
    Index("ix_alerts_state", "project", "state", "opened_at"),
    Index("ix_alerts_monitor", "project", "monitor", "aspect", "state"),
)


class Alert(Value, frozen=True, kw_only=True):
    """An incident: what moved in one aspect of an endpoint or of a feature view, from when to when. windows: how many saw it."""

    id: str
    monitor: str
    endpoint: str
    view: str = ""
    aspect: Aspect
    severity: Verdict
    state: AlertState
    what: str
    findings: tuple[Finding, ...]
    windows: int
    quiet_windows: int
    opened_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None
    silenced_until: datetime | None


class AlertOpened(EventBody, frozen=True, kw_only=True, tag="alert.opened"):
    """Something moved that had not."""

    alert: str
    monitor: str
    endpoint: str
    view: str = ""
    aspect: Aspect
    severity: Verdict
    what: str


class AlertResolved(EventBody, frozen=True, kw_only=True, tag="alert.resolved"):
    """What had moved is quiet again, or somebody said so."""

    alert: str
    monitor: str
    endpoint: str
    view: str = ""
    aspect: Aspect


class AlertSilenced(EventBody, frozen=True, kw_only=True, tag="alert.silenced"):
    """An open alert, and those that would follow it in its aspect, say nothing for a while."""

    alert: str
    until: datetime


class AlertNotFound(NotFound):
    """No alert of that id."""

    def __init__(self, alert: str) -> None:
        self.alert = alert
        super().__init__(f"there is no alert {alert!r}; list them with: tidemill alert list")


class AlertClosed(Conflict):
    """The alert is resolved already."""

    def __init__(self, alert: Alert) -> None:
        self.alert = alert
        super().__init__(f"alert {alert.id} was resolved at {alert.resolved_at}; only an open one can be silenced or resolved")


class AlertChange(Value, frozen=True, kw_only=True):
    """What a window does to one alert: opens it, goes on with it, brings it nearer to its end, or resolves it."""

    act: Literal["open", "continue", "quieten", "resolve"]
    alert: Alert
    silent: bool = False


def decide_alerts(report: WindowReport, spec: MonitorSpec, known: Sequence[Alert], *, now: datetime) -> list[AlertChange]:
    """Return what a window's report does to alerts. Pure; known: the open alerts of this monitor, and silenced ones that were resolved."""
    changes = []
    for aspect in ASPECTS:
        if not report.judged(aspect):
            continue  # a window that says nothing neither opens nor closes
        there = next((alert for alert in known if alert.aspect == aspect and alert.state == "open"), None)
        moved = tuple(finding for finding in report.moved if finding.aspect == aspect)
        if moved and there is None:
            until = max((alert.silenced_until for alert in known if alert.aspect == aspect and alert.silenced_until), default=None)
            silent = until is not None and until > now
            fresh = Alert(
                id=new_id(), monitor=spec.name, endpoint=spec.endpoint, view=spec.view, aspect=aspect, severity=SEVERITY[aspect],
                state="open", what=report.what(aspect), findings=moved, windows=1, quiet_windows=0, opened_at=now, last_seen_at=now,
                resolved_at=None, silenced_until=until if silent else None,
            )  # fmt: skip
            changes.append(AlertChange(act="open", alert=fresh, silent=silent))
        elif moved and there is not None:
            on = replace(there, what=report.what(aspect), findings=moved, windows=there.windows + 1, quiet_windows=0, last_seen_at=now)
            changes.append(AlertChange(act="continue", alert=on))
        elif there is not None:
            quiet = replace(there, quiet_windows=there.quiet_windows + 1)
            silent = there.silenced_until is not None and there.silenced_until > now
            if quiet.quiet_windows >= spec.recover_after:
                changes.append(AlertChange(act="resolve", alert=replace(quiet, state="resolved", resolved_at=now), silent=silent))
            else:
                changes.append(AlertChange(act="quieten", alert=quiet))
    return changes


def write_changes(tx: Connection, ws: Workspace, changes: Sequence[AlertChange], *, cause: EventId | None = None) -> None:
    """Write alerts and tell of those that opened or closed, in the caller's transaction."""
    for change in changes:
        alert = change.alert
        row = {name: getattr(alert, name) for name in alert.__struct_fields__}
        if change.act == "open":
            tx.execute(insert(ALERTS).values(project=ws.project, **row))
        else:
            tx.execute(update(ALERTS).where(ALERTS.c.id == alert.id).values(**row))
        if change.act == "open" and not change.silent:
            opened = AlertOpened(
                alert=alert.id,
                monitor=alert.monitor,
                endpoint=alert.endpoint,
                view=alert.view,
                aspect=alert.aspect,
                severity=alert.severity,
                what=alert.what,
            )
            ws.record(tx, opened, subject=f"monitor:{alert.monitor}", reason=alert.what, cause=cause)
        elif change.act == "resolve" and not change.silent:
            ws.record(tx, _resolved(alert), subject=f"monitor:{alert.monitor}", reason="quiet again", cause=cause)


def list_alerts(
    ws: Workspace, *, state: AlertState | None = None, monitor: str | None = None, endpoint: str | None = None, view: str | None = None,
    limit: int = 100,
) -> list[Alert]:  # fmt: skip
    """Return alerts, newest first."""
    ws.require("monitor.read")
    query = select(ALERTS).where(ALERTS.c.project == ws.project)
    for column, wanted in ((ALERTS.c.state, state), (ALERTS.c.monitor, monitor), (ALERTS.c.endpoint, endpoint), (ALERTS.c.view, view)):
        if wanted is not None:
            query = query.where(column == wanted)
    with ws.catalog.reading() as tx:
        return [_alert(row) for row in tx.execute(query.order_by(ALERTS.c.opened_at.desc(), ALERTS.c.id).limit(limit))]


def read_alert(ws: Workspace, alert: str) -> Alert:
    """Return an alert by id. Raises AlertNotFound."""
    ws.require("monitor.read")
    with ws.catalog.reading() as tx:
        return _fetch(tx, ws.project, alert)


def resolve_alert(ws: Workspace, alert: str, *, reason: str = "") -> Alert:
    """Close an alert by hand; the next window that still moves opens a new one. Raises AlertNotFound, AlertClosed."""
    ws.require("monitor.write", alert)
    now = ws.clock.now()
    with ws.catalog.transaction() as tx:
        there = _fetch_open(tx, ws.project, alert)
        closed = replace(there, state="resolved", resolved_at=now)
        tx.execute(update(ALERTS).where(ALERTS.c.id == alert).values(state="resolved", resolved_at=now))
        ws.record(tx, _resolved(there), subject=f"monitor:{there.monitor}", reason=reason)
    return closed


def silence_alert(ws: Workspace, alert: str, until: datetime, *, reason: str = "") -> Alert:
    """Keep an open alert, and new ones of its monitor and aspect, from telling anybody until a moment.

    Raises AlertNotFound, AlertClosed.
    """
    ws.require("monitor.write", alert)
    with ws.catalog.transaction() as tx:
        there = _fetch_open(tx, ws.project, alert)
        quiet = replace(there, silenced_until=utc(until))
        tx.execute(update(ALERTS).where(ALERTS.c.id == alert).values(silenced_until=quiet.silenced_until))
        ws.record(tx, AlertSilenced(alert=alert, until=utc(until)), subject=f"monitor:{there.monitor}", reason=reason)
    return quiet


def fetch_known(tx: Connection, project: str, monitor: str, *, now: datetime) -> list[Alert]:
    """Return a monitor's alerts that bear on its next window: open ones, and those whose silence lasts."""
    mine = (ALERTS.c.project == project) & (ALERTS.c.monitor == monitor)
    return [_alert(row) for row in tx.execute(select(ALERTS).where(mine, (ALERTS.c.state == "open") | (ALERTS.c.silenced_until > now)))]


def _fetch(tx: Connection, project: str, alert: str) -> Alert:
    row = tx.execute(select(ALERTS).where(ALERTS.c.project == project, ALERTS.c.id == alert)).one_or_none()
    if row is None:
        raise AlertNotFound(alert)
    return _alert(row)


def _fetch_open(tx: Connection, project: str, alert: str) -> Alert:
    there = _fetch(tx, project, alert)
    if there.state != "open":
        raise AlertClosed(there)
    return there


def _resolved(alert: Alert) -> AlertResolved:
    return AlertResolved(alert=alert.id, monitor=alert.monitor, endpoint=alert.endpoint, view=alert.view, aspect=alert.aspect)


def _alert(row: Any) -> Alert:
    return Alert(**{name: getattr(row, name) for name in Alert.__struct_fields__})
