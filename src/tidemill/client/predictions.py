"""The data plane over the wire: predictions, labels, feature events."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tidemill.client.call import Doc, segment, send
from tidemill.client.transport import Transport
from tidemill.core.clock import utc
from tidemill.core.errors import Invalid
from tidemill.core.ids import new_id

Row = Mapping[str, Any]


class Predictions:
    """Calls the serving workers. Safe from several threads."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport, self._project = transport, project

    def predict(self, endpoint: str, rows: Sequence[Row], *, ids: Sequence[str] | None = None, at: datetime | None = None) -> Doc:
        """Score rows. ids name the predictions (made here when not given), so that a call that is sent again counts once."""
        named = [new_id() for _ in rows] if ids is None else list(ids)
        if len(named) != len(rows):
            raise Invalid(f"a prediction needs one id a row, got {len(named)} ids for {len(rows)} rows")
        body: Doc = {"rows": list(rows), "ids": named}
        if at is not None:
            body["at"] = utc(at)
        place = f"/predict/{self._named(endpoint)}"
        return send(self._transport, "POST", place, body=body, once=named[0] if named else None)

    def feedback(self, labels: Sequence[Row]) -> Doc:
        """Send what came of predictions: id, value, and at (when it became known). The same label again changes nothing."""
        return send(self._transport, "POST", "/feedback", body={"labels": list(labels)}, once=new_id())

    def push(self, source: str, rows: Sequence[Row]) -> Doc:
        """Send events of a source (a dataset's name) to every feature view over it; each takes the columns that it needs.

        A view with an event key takes each event once. Return what each view stored and skipped.
        """
        return send(self._transport, "POST", f"/push/{self._named(source)}", body={"rows": list(rows)}, once=new_id())

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def _named(self, name: str) -> str:
        return segment(name) if self._project == "default" else f"{segment(self._project)}/{segment(name)}"
