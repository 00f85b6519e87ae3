"""Runs over the wire."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tidemill.client.call import Caller, Doc, Docs, segment, subpath
from tidemill.client.history import History
from tidemill.client.uploads import at_once, send_file
from tidemill.core.digest import digest_file
from tidemill.core.errors import Corrupt, Invalid
from tidemill.core.ids import new_id, new_run_id

PAGE = 1000


class Runs:
    """`client.runs`: executions with params, metrics, tags and artifacts. Code that runs logs with `tm.run` instead."""

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

    def search(
        self,
        filter: str = "",  # noqa: A002 (the word that every client knows)
        *,
        experiments: Sequence[str] = (),
        order_by: Sequence[str] = (),
        view: str = "active",
        limit: int | None = None,
    ) -> Iterator[Doc]:
        """Yield the runs that a filter picks (`metrics.auc > 0.7 AND params.depth = '3'`), of some experiments or all; newest first.

        order_by: `metrics.auc DESC` and the like. view: active, deleted or all. Pages are asked for as they are needed.
        Raises Invalid, which names the position of a fault in the filter.
        """
        token, left = None, limit
        while left is None or left > 0:
            page = self.page(filter, experiments=experiments, order_by=order_by, view=view, limit=min(left or PAGE, PAGE), page_token=token)
            yield from page["items"]
            token, left = page["next"], None if left is None else left - len(page["items"])
            if token is None:
                return

    def page(
        self,
        filter: str = "",  # noqa: A002 (the word that every client knows)
        *,
        experiments: Sequence[str] = (),
        order_by: Sequence[str] = (),
        view: str = "active",
        limit: int = 100,
        page_token: str | None = None,
    ) -> Doc:
        """Return one page of a search: `items`, and `next`, the token that the following page is asked for with."""
        return self._caller.get(
            "/run-search", experiments=experiments, filter=filter, order_by=order_by, view=view, limit=limit, page_token=page_token
        )

    def compare(self, runs: Sequence[str], *, everything: bool = False) -> Doc:
        """Return runs side by side: what differs in params, metrics, tags, data, packages and code, or everything."""
        return self._caller.get("/run-comparison", runs=runs, everything=everything)

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

    def delete_tag(self, run: str, key: str) -> None:
        """Remove a tag. Raises NotFound when there is no such tag."""
        self._caller.call("DELETE", f"/runs/{segment(run)}/tags/{subpath(key)}")

    def rename(self, run: str, name: str) -> Doc:
        """Give a run another name."""
        return self._caller.call("PATCH", f"/runs/{segment(run)}", body={"name": name})

    def log_artifact(self, run: str, path: str, source: bytes | Path) -> Doc:
        """Keep bytes, or a file, under a path of a run. Large files go in parts, so that a cut connection costs one of them."""
        place = f"/runs/{segment(run)}"
        if isinstance(source, bytes):
            return self._caller.upload("PUT", f"{place}/artifacts/{subpath(path)}", source)
        with source.open("rb") as file:
            return send_file(self._caller, place, path, file)

    def artifact(self, run: str, path: str) -> bytes:
        """Return the bytes under a path of a run. Raises NotFound."""
        return self._caller.download(f"/runs/{segment(run)}/artifacts/{subpath(path)}")

    def download(self, run: str, folder: Path | str, *, within: str = "") -> Docs:
        """Write the files of a run, those within one of its folders if told, into a folder; return what was written.

        A file that is there with the same content is left alone; one that was cut off goes on. Raises Corrupt, NotFound.
        """
        root, prefix = Path(folder), f"{within.strip('/')}/" if within.strip("/") else ""
        wanted = [artifact for artifact in self.get(run)["artifacts"] if f"{artifact['path']}/".startswith(prefix)]
        at_once(wanted, lambda artifact: self._fetch(run, artifact, root))
        return wanted

    def history(self, run: str, key: str) -> History:
        """Return all points of a metric in the order in which they were logged."""
        return History.read(self._caller.download(f"/runs/{segment(run)}/history/{subpath(key)}"))

    def charts(self, runs: Sequence[str], key: str, *, points: int = 2000) -> Docs:
        """Return the histories of a metric in some runs, each thinned to at most so many points that draw the same picture."""
        return self._caller.get("/run-charts", key=key, runs=runs, points=points)

    def log_input(self, run: str, reference: str, *, role: str = "training") -> None:
        """Say which dataset version a run reads: an edge of lineage. Raises NotFound."""
        self._caller.post(f"/runs/{segment(run)}/inputs", {"reference": reference, "role": role}, once=new_id())

    def end(self, run: str, *, status: str = "finished", message: str = "") -> Doc:
        """Record how a run ended. Ending it again changes nothing."""
        return self._caller.put(f"/runs/{segment(run)}/end", {"status": status, "message": message})

    def delete(self, run: str) -> None:
        """Put a run into the trash, with those that are part of it; `tidemill gc` removes it when its time is up. Raises NotFound."""
        self._caller.call("DELETE", f"/runs/{segment(run)}")

    def restore(self, run: str) -> None:
        """Take a run out of the trash, with those that are part of it. Raises NotFound."""
        self._caller.post(f"/runs/{segment(run)}/restore", once=new_id())

    def _fetch(self, run: str, artifact: Doc, root: Path) -> None:
        target = root / artifact["path"]
        if not target.resolve().is_relative_to(root.resolve()):
            raise Invalid(f"artifact {artifact['path']!r} of run {run} would be written outside of {root}; name another folder")
        if target.is_file() and target.stat().st_size == artifact["size_bytes"] and digest_file(target) == artifact["digest"]:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{new_id()[-8:]}")
        try:
            with scratch.open("wb") as file:
                self._receive(run, artifact["path"], file)
            if (found := digest_file(scratch)) != artifact["digest"]:
                raise Corrupt(f"artifact {artifact['path']!r} of run {run} arrived with the digest {found[:12]}…; download it again")
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)

    def _receive(self, run: str, path: str, file: BinaryIO) -> None:
        self._caller.fetch(f"/runs/{segment(run)}/artifacts/{subpath(path)}", file)
