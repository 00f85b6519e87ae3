"""`tidemill monitor` and `tidemill alert`: what is watched, what windows said, what is amiss."""

from pathlib import Path
from typing import get_args

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, table
from tidemill.monitor import alerts, monitors
from tidemill.monitor.alerts import AlertState


@click.group()
def monitor() -> None:
    """Monitors: what endpoints and feature views are held against, window by window."""


@monitor.command("list")
@workspace_options
@json_option
def list_(home: Path | None, project: str | None, as_json: bool) -> None:
    """List monitors with when they look next."""
    found = monitors.list_monitors(opened(home, project))
    columns = ("monitor", "of", "every", "detector", "seen until", "looks next", "by")
    rows = [(m.name, m.spec.subject, m.spec.every, m.spec.detector, m.seen_until, m.next_due, m.actor) for m in found]
    emit(found, as_json=as_json, text=lambda: table(columns, rows))


@monitor.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@workspace_options
@json_option
def windows(name: str, limit: int, home: Path | None, project: str | None, as_json: bool) -> None:
    """List the windows that monitor NAME has looked at, newest first, with what moved."""
    ws = opened(home, project)
    monitors.read_monitor(ws, name)
    found = monitors.list_windows(ws, name, limit=limit)
    reports = [monitors.read_report(ws, seen) for seen in found]
    rows = [
        (s.start, s.end, s.verdict, s.rows, s.labels, "; ".join(finding.text for finding in r.moved[:3]) or r.fault or r.note)
        for s, r in zip(found, reports, strict=True)
    ]
    emit(reports, as_json=as_json, text=lambda: table(("from", "to", "verdict", "rows", "labels", "what moved"), rows))


@click.group()
def alert() -> None:
    """Alerts: one for each incident, from the window that opened it to the one that closed it."""


@alert.command("list")
@click.option("--state", type=click.Choice(get_args(AlertState)), help="Only those that are open, or resolved.")
@click.option("--endpoint", help="Only those of one endpoint.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@workspace_options
@json_option
def list_alerts(
    state: AlertState | None, endpoint: str | None, limit: int, home: Path | None, project: str | None, as_json: bool
) -> None:  # fmt: skip
    """List alerts, newest first."""
    found = alerts.list_alerts(opened(home, project), state=state, endpoint=endpoint, limit=limit)
    columns = ("alert", "state", "severity", "of", "aspect", "opened", "resolved", "what")
    rows = [(a.id, a.state, a.severity, a.view or a.endpoint, a.aspect, a.opened_at, a.resolved_at, a.what) for a in found]
    emit(found, as_json=as_json, text=lambda: table(columns, rows))


@alert.command()
@click.argument("alert_id", metavar="ALERT")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def resolve(alert_id: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Close an ALERT by hand; the next window that still moves opens a new one."""
    closed = alerts.resolve_alert(opened(home, project), alert_id, reason=reason)
    emit(closed, as_json=as_json, text=lambda: f"alert {closed.id} of {closed.view or closed.endpoint} ({closed.aspect}) is resolved")
