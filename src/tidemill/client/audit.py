"""The audit log and lineage over the wire."""

from collections.abc import Sequence
from datetime import datetime

from tidemill.client.call import Caller, Doc, Docs, subpath


class Audit:
    """`client.audit`: what happened, who did it and why, and where things come from."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(
        self,
        *,
        subject: str | None = None,
        subject_prefix: str | None = None,
        kinds: Sequence[str] = (),
        after: int = 0,
        until: datetime | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> Docs:
        """Return events behind sequence number `after`, newest first unless told otherwise."""
        return self._caller.get(
            "/events",
            subject=subject,
            subject_prefix=subject_prefix,
            kinds=kinds,
            after=after,
            until=until,
            limit=limit,
            newest_first=newest_first,
        )

    def verify(self) -> Doc:
        """Re-compute the chain of events; `verified` is true when none was changed, removed or put in between."""
        return self._caller.get("/audit")

    def lineage(self, node: str, *, direction: str = "upstream", depth: int = 20) -> Docs:
        """Return the edges that lead to a node (upstream) or away from it (downstream)."""
        return self._caller.get(f"/lineage/{subpath(node)}", direction=direction, depth=depth)
