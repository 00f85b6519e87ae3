"""Batch jobs over the wire."""

from typing import Any

from tidemill.client.call import Caller, Doc


class Batches:
    """`client.batches`: whole tables, scored by the server's workers."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def score(self, to: str, *, reason: str = "", **request: Any) -> Doc:
        """Ask for a table to be scored into a version of dataset `to`; return the job. Its end shows in `client.jobs.get`.

        request: the fields of a `BatchRequest`: model or endpoint, data or sql, key, columns, at, on_bad.
        """
        return self._caller.post("/batches", {"request": {"to": to, **request}, "reason": reason})
