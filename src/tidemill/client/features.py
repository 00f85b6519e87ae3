"""Feature views and services over the wire."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tidemill.client.call import Caller, Doc, Docs, segment
from tidemill.client.datasets import opened_frame
from tidemill.core.errors import ExtraMissing


class Features:
    """`client.features`: definitions that serve training and serving alike."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def plan(self, views: Sequence[Any], services: Sequence[Any] = ()) -> Doc:
        """Return what applying these definitions would change. Values of `features.views`, or their fields."""
        return self._caller.post("/features/plan", {"views": list(views), "services": list(services)})

    def apply(self, views: Sequence[Any], services: Sequence[Any] = (), *, reason: str = "") -> Doc:
        """Make these definitions hold; one that differs from its newest version becomes the next version."""
        body = {"views": list(views), "services": list(services), "reason": reason}
        return self._caller.put("/features", body)

    def views(self, *, search: str = "") -> Docs:
        """Return the newest version of each view, or of those that mention all words of a search."""
        return self._caller.get("/features/views", search=search)

    def services(self, *, search: str = "") -> Docs:
        """Return the newest version of each service, or of those that mention all words of a search."""
        return self._caller.get("/features/services", search=search)

    def versions(self, view: str) -> Docs:
        """Return all versions of a view, the newest first. Raises NotFound."""
        return self._caller.get(f"/features/views/{segment(view)}/versions")

    def sources(self) -> Docs:
        """Return the sources that are declared, and the newest version of each one's dataset."""
        return self._caller.get("/features/sources")

    def refresh(self, source: str, *, reason: str = "") -> Doc:
        """Take what a declared source holds by now into its dataset; return the version. Raises NotFound, Invalid."""
        return self._caller.post(f"/features/sources/{segment(source)}/refresh", reason=reason)

    def usage(self, view: str | None = None) -> Docs:
        """Return the services, models and endpoints that use a view (`NAME`, `NAME@V`), or each view. Raises NotFound."""
        return self._caller.get("/features/usage", view=view)

    def rollback(self, service: str, version: int, *, reason: str = "") -> Doc:
        """Make what a version of a service was the newest again; return what changed, as `apply` does. Raises NotFound, Invalid."""
        return self._caller.post(f"/features/services/{segment(service)}/rollback", {"version": version, "reason": reason})

    def history(self, rows: Path | str | Any, service: str, *, timestamp: str = "event_timestamp") -> Any:
        """Return the rows as an Arrow table, in their order, with the features of a service (`NAME`, `NAME@V`) as of each row's timestamp.

        rows: a .parquet, .csv or .tsv file, or a frame of pandas, Polars, DuckDB or Arrow, with the join keys. Raises Invalid, NotFound.
        """
        with opened_frame(rows) as (file, form):
            told = self._caller.exchange(f"/features/services/{segment(service)}/history", file, form=form, timestamp=timestamp)
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise ExtraMissing("pyarrow", "ml") from error
        return parquet.read_table(pa.BufferReader(told))

    def get(
        self, service: str, entities: Sequence[Mapping[str, Any]], *, at: datetime | None = None, missing: str | None = None
    ) -> Doc:  # fmt: skip
        """Return the features of a service for rows of join keys from the online store, when the newest event of each view was, and what is
        missing. missing: its default or "none" stands for a feature without a value, or the call does "fail"; as the service says unless
        told. Raises Invalid, NotFound, Unavailable.
        """
        body = {"entities": [dict(row) for row in entities], "at": at, "missing": missing}
        return self._caller.post(f"/features/services/{segment(service)}/values", body)

    def materialize(
        self, view: str, *, until: datetime | None = None, source: str | None = None, full: bool = False, reason: str = ""
    ) -> Doc:  # fmt: skip
        """Bring what came to a view's dataset since the last time into the online store; with `full`, all of it and nothing else."""
        body = {"until": until, "source": source, "full": full, "reason": reason}
        return self._caller.put(f"/features/views/{segment(view)}/materialized", body)
