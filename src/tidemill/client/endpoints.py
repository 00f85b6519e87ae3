"""Endpoints and rollouts over the wire."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tidemill.client.call import Caller, Doc, Docs, segment


class Endpoints:
    """`client.endpoints`: names that callers use, what answers behind them, and how that changes."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def create(self, name: str, model: str, *, sticky_by: str | None = None, benchmark: str | None = None, reason: str = "") -> Doc:
        """Make an endpoint that a model version (NAME@VERSION or NAME@alias) answers alone. Raises Conflict when the name is taken.

        benchmark names a version that scores every request along and never answers.
        """
        body = {"name": name, "model": model, "sticky_by": sticky_by, "benchmark": benchmark, "reason": reason}
        return self._caller.post("/endpoints", body)

    def change(self, name: str, *, reason: str = "", **options: Any) -> Doc:
        """Change how an endpoint serves; return it once it does. Raises NotFound, Invalid.

        options: threshold, cached_rows; of its journal: journal_inputs (share), journal_drop, journal_hash (columns), journal_days;
        label_key (the column that labels may come by).
        """
        return self._caller.call("PATCH", f"/endpoints/{segment(name)}", body={"options": options, "reason": reason})

    def list(self) -> Docs:
        """Return all endpoints by name."""
        return self._caller.get("/endpoints")

    def get(self, name: str, *, at: datetime | None = None) -> Doc:
        """Return an endpoint as it is, or as it was at a moment. Raises NotFound."""
        return self._caller.get(f"/endpoints/{segment(name)}", at=at)

    def routes(self, name: str) -> Docs:
        """Return every route that an endpoint had, newest first."""
        return self._caller.get(f"/endpoints/{segment(name)}/routes")

    def rollout(self, name: str, model: str, *, plan: Mapping[str, Any] | Any = None, reason: str = "", override: bool = False) -> Doc:
        """Set a model version against the one that leads. plan: a value of `deploy.plans` or its fields; without one it is a canary."""
        body = {"model": model, "plan": plan, "reason": reason, "override": override}
        return self._caller.post(f"/endpoints/{segment(name)}/rollouts", body)

    def rollouts(self, name: str | None = None, *, state: str | None = None, limit: int = 100) -> Docs:
        """Return rollouts, newest first, of one endpoint or of all."""
        return self._caller.get("/rollouts", endpoint=name, state=state, limit=limit)

    def roll_back(self, name: str, *, reason: str) -> Doc:
        """Take the newest change back: end a running rollout, else return to the variant that led before. Raises Conflict."""
        return self._caller.post(f"/endpoints/{segment(name)}/rollback", {"reason": reason})

    def performance(
        self, name: str, *, by: str = "month", zone: str = "UTC", start: datetime | None = None, end: datetime | None = None
    ) -> Docs:
        """Return how an endpoint did in each day, week or month of local time: what callers were told ("live"), and each variant."""
        return self._caller.get(f"/endpoints/{segment(name)}/performance", by=by, zone=zone, start=start, end=end)

    def skew(
        self, name: str, *, last: int | None = None, start: datetime | None = None, end: datetime | None = None,
        tolerance: float = 0.0, complete: bool = False,
    ) -> Doc:  # fmt: skip
        """Hold the features that an endpoint looked up, for its last answers or those of a span of event time, against history.

        complete: the datasets hold all that has happened; else answers after a dataset's last event are left out.
        """
        told = {"last": last, "start": start, "end": end, "tolerance": tolerance, "complete": complete}
        return self._caller.get(f"/endpoints/{segment(name)}/skew", **told)

    def journal(self, name: str) -> Doc:
        """Return how many answers of an endpoint are in the journal, and how many of them have a label."""
        return self._caller.get(f"/endpoints/{segment(name)}/journal")
