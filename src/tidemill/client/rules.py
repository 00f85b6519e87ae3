"""Rules, pipelines and jobs over the wire."""

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.client.call import Caller, Doc, Docs, segment


class Rules:
    """`client.rules`: when this event, do that."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self) -> Docs:
        """Return all rules by name."""
        return self._caller.get("/rules")

    def set(self, rule: Mapping[str, Any] | Any, *, reason: str = "") -> Doc:
        """Make a rule or change it: a value of `automate.rules`, or its fields. It sees what happens from now on."""
        return self._caller.put("/rules", {"rule": rule, "reason": reason})

    def firings(self, *, limit: int = 100) -> Docs:
        """Return what rules did, newest first."""
        return self._caller.get("/rule-firings", limit=limit)


class Jobs:
    """`client.jobs`: work that worker processes do."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self, *, states: Sequence[str] = (), limit: int = 100) -> Docs:
        """Return jobs, newest first."""
        return self._caller.get("/jobs", states=states, limit=limit)

    def get(self, job: str) -> Doc:
        """Return one job. Raises NotFound."""
        return self._caller.get(f"/jobs/{segment(job)}")


class Pipelines:
    """`client.pipelines`: what the project's Python files define."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self) -> Doc:
        """Return the pipelines that the project declares, by name."""
        return self._caller.get("/pipelines")

    def run(self, name: str, params: Mapping[str, Any] | None = None, *, reason: str = "") -> Doc:
        """Ask for a run; return the job that a worker does. Its end shows in `client.jobs.get`."""
        return self._caller.post(f"/pipelines/{segment(name)}/runs", {"params": dict(params or {}), "reason": reason})
