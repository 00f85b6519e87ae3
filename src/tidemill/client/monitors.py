"""Monitors and alerts over the wire."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tidemill.client.call import Caller, Doc, Docs, segment


class Monitors:
    """`client.monitors`: what is watched, and what was seen."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self) -> Docs:
        """Return all monitors by name."""
        return self._caller.get("/monitors")

    def set(self, monitor: Mapping[str, Any] | Any, *, reason: str = "") -> Doc:
        """Make a monitor or change it: a value of `monitor.monitors`, or its fields."""
        return self._caller.put("/monitors", {"monitor": monitor, "reason": reason})

    def get(self, name: str) -> Doc:
        """Return one monitor, with the moment up to which it has looked. Raises NotFound."""
        return self._caller.get(f"/monitors/{segment(name)}")

    def windows(self, name: str, *, limit: int = 100) -> Docs:
        """Return the windows that a monitor has looked at, newest first."""
        return self._caller.get(f"/monitors/{segment(name)}/windows", limit=limit)

    def report(self, name: str, *, end: datetime | None = None) -> Doc:
        """Return what was found in the newest window, or in the one that ends at a moment. Raises NotFound."""
        return self._caller.get(f"/monitors/{segment(name)}/report", end=end)

    def run(self, name: str, *, window: tuple[datetime, datetime] | None = None) -> Doc:
        """Look at a window now (the monitor's next one unless told) and return what was found."""
        named = {"start": window[0], "end": window[1]} if window is not None else None
        return self._caller.post(f"/monitors/{segment(name)}/runs", {"window": named})


class Alerts:
    """`client.alerts`: what is out of bounds, and was."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(
        self,
        *,
        state: str | None = None,
        monitor: str | None = None,
        endpoint: str | None = None,
        view: str | None = None,
        limit: int = 100,
    ) -> Docs:
        """Return alerts, newest first; state: open or resolved."""
        return self._caller.get("/alerts", state=state, monitor=monitor, endpoint=endpoint, view=view, limit=limit)

    def get(self, alert: str) -> Doc:
        """Return one alert with what it found. Raises NotFound."""
        return self._caller.get(f"/alerts/{segment(alert)}")

    def resolve(self, alert: str, *, reason: str = "") -> Doc:
        """Close an alert by hand. Raises Conflict when it is closed."""
        return self._caller.put(f"/alerts/{segment(alert)}/resolved", {"reason": reason})

    def silence(self, alert: str, until: datetime, *, reason: str = "") -> Doc:
        """Keep an alert, and those that would follow it, from telling anybody until a moment."""
        return self._caller.put(f"/alerts/{segment(alert)}/silenced", {"until": until, "reason": reason})
