"""Runs over the wire."""

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.client.call import Caller, Doc, Docs, segment, subpath
from tidemill.core.ids import new_run_id


class Runs:
    """`client.runs`: executions with params, metrics, tags and artifacts."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def start(
        self,
        experiment: str,
        name: str,
        *,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        sources: Sequence[str] = (),
        parent: str | None = None,
        kind: str = "run",
    ) -> Doc:
        """Begin a run. sources are lineage nodes that it reads, such as `dataset:flights@3`."""
        run = new_run_id()  # made here, so that a repeated request starts one run
        body = {
            "id": run,
            "experiment": experiment,
            "name": name,
            "kind": kind,
            "parent": parent,
            "params": {key: str(value) for key, value in (params or {}).items()},
            "tags": dict(tags or {}),
            "sources": list(sources),
        }
        return self._caller.post("/runs", body, once=run)

    def list(self, *, experiment: str | None = None, kinds: Sequence[str] = (), parent: str | None = None, limit: int = 100) -> Docs:
        """Return runs, newest first."""
        return self._caller.get("/runs", experiment=experiment, kinds=kinds, parent=parent, limit=limit)

    def get(self, run: str) -> Doc:
        """Return one run. Raises NotFound."""
        return self._caller.get(f"/runs/{segment(run)}")

    def log_params(self, run: str, params: Mapping[str, Any]) -> None:
        """Write params once. Raises Conflict for another value under a key."""
        self._caller.put(f"/runs/{segment(run)}/params", {key: str(value) for key, value in params.items()})

    def log_metrics(self, run: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Add a point to each metric's history."""
        points = [{"key": key, "value": float(value), "step": step} for key, value in metrics.items()]
        self._caller.post(f"/runs/{segment(run)}/metrics", points)

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Write tags, replacing those of the same key."""
        self._caller.put(f"/runs/{segment(run)}/tags", dict(tags))

    def log_artifact(self, run: str, path: str, data: bytes) -> Doc:
        """Keep bytes under a path of a run."""
        return self._caller.upload("PUT", f"/runs/{segment(run)}/artifacts/{subpath(path)}", data)

    def artifact(self, run: str, path: str) -> bytes:
        """Return the bytes under a path of a run. Raises NotFound."""
        return self._caller.download(f"/runs/{segment(run)}/artifacts/{subpath(path)}")

    def history(self, run: str, key: str) -> Docs:
        """Return all points of a metric in the order in which they were logged."""
        return self._caller.get(f"/runs/{segment(run)}/metrics/{subpath(key)}")

    def end(self, run: str, *, status: str = "finished", message: str = "") -> Doc:
        """Record how a run ended. Ending it again changes nothing."""
        return self._caller.put(f"/runs/{segment(run)}/end", {"status": status, "message": message})
