"""Routes of monitors and alerts."""

from datetime import datetime

from tidemill.core.values import Value
from tidemill.core.window import Window
from tidemill.govern.workspace import Workspace
from tidemill.monitor import alerts, monitors, service
from tidemill.monitor.alerts import Alert, AlertState
from tidemill.monitor.monitors import Monitor, MonitorSpec, WindowSeen
from tidemill.monitor.report import WindowReport
from tidemill.server.rest.route import Limit, Route


class SetMonitor(Value, frozen=True, kw_only=True):
    """A monitor as it shall be, and why."""

    monitor: MonitorSpec
    reason: str = ""


class LookAt(Value, frozen=True, kw_only=True):
    """The window to look at; the monitor's next one when none is named."""

    window: Window | None = None


class Resolve(Value, frozen=True, kw_only=True):
    """Why an alert is closed."""

    reason: str = ""


class Silence(Value, frozen=True, kw_only=True):
    """Until when an alert says nothing, and why."""

    until: datetime
    reason: str = ""


def list_monitors(ws: Workspace) -> list[Monitor]:
    """List monitors by name."""
    return monitors.list_monitors(ws)


def set_monitor(ws: Workspace, *, body: SetMonitor) -> Monitor:
    """Make a monitor or change it; it goes on behind the last window that it has seen."""
    return monitors.create_monitor(ws, body.monitor, reason=body.reason)


def get_monitor(ws: Workspace, name: str) -> Monitor:
    """Return a monitor, with the moment up to which it has looked."""
    return monitors.read_monitor(ws, name)


def run_monitor(ws: Workspace, name: str, *, body: LookAt) -> WindowReport:
    """Look at a window now and return what was found."""
    return service.run_monitor(ws, name, body.window)


def list_windows(ws: Workspace, name: str, *, limit: Limit = 100) -> list[WindowSeen]:
    """List the windows that a monitor has looked at, newest first."""
    monitors.read_monitor(ws, name)
    return monitors.list_windows(ws, name, limit=limit)


def list_alerts(
    ws: Workspace,
    *,
    state: AlertState | None = None,
    monitor: str | None = None,
    endpoint: str | None = None,
    view: str | None = None,
    limit: Limit = 100,
) -> list[Alert]:
    """List alerts, newest first."""
    return alerts.list_alerts(ws, state=state, monitor=monitor, endpoint=endpoint, view=view, limit=limit)


def get_alert(ws: Workspace, alert: str) -> Alert:
    """Return an alert with what it found."""
    return alerts.read_alert(ws, alert)


def resolve_alert(ws: Workspace, alert: str, *, body: Resolve) -> Alert:
    """Close an alert by hand; the next window that still moves opens a new one."""
    return alerts.resolve_alert(ws, alert, reason=body.reason)


def silence_alert(ws: Workspace, alert: str, *, body: Silence) -> Alert:
    """Keep an alert, and those that would follow it, from telling anybody until a moment."""
    return alerts.silence_alert(ws, alert, body.until, reason=body.reason)


ROUTES = (
    Route("GET", "/monitors", list_monitors),
    Route("PUT", "/monitors", set_monitor),
    Route("GET", "/monitors/{name}", get_monitor),
    Route("GET", "/monitors/{name}/windows", list_windows),
    Route("POST", "/monitors/{name}/runs", run_monitor),
    Route("GET", "/alerts", list_alerts),
    Route("GET", "/alerts/{alert}", get_alert),
    Route("PUT", "/alerts/{alert}/resolved", resolve_alert),
    Route("PUT", "/alerts/{alert}/silenced", silence_alert),
)
