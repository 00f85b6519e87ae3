"""Labels: what came true, told by prediction id, once or corrected, early or months late."""

from datetime import datetime
from typing import Annotated

from tidemill.core.clock import Clock, micros, wall
from tidemill.core.codec import decode
from tidemill.core.errors import Invalid
from tidemill.core.values import Meta, Value
from tidemill.serving.journal import JournalWriter, LabelRecord
from tidemill.serving.rows import PredictionId

LabelValue = bool | float | Annotated[str, Meta(max_length=1000)]


class Label(Value, frozen=True, kw_only=True):
    """What came true for a prediction; at: since when that is known, now unless told."""

    id: PredictionId
    value: LabelValue
    at: datetime | None = None


class LabelsRequest(Value, frozen=True, kw_only=True):
    """Labels for any endpoints' predictions."""

    labels: list[Label]


class LabelsAnswer(Value, frozen=True, kw_only=True):
    """How many labels are kept."""

    accepted: int


def take_labels(body: bytes, journal: JournalWriter, clock: Clock) -> LabelsAnswer:
    """Keep the labels of a request. Sending them again changes nothing. Raises Invalid, JournalUnavailable."""
    request = decode(body, LabelsRequest, what="request")
    if not request.labels:
        raise Invalid("request has no labels; expected at least one")
    naive = next((label for label in request.labels if label.at is not None and label.at.tzinfo is None), None)
    if naive is not None and naive.at is not None:
        raise Invalid(f"label of {naive.id!r} has a time without a zone; write it as {naive.at.isoformat()}Z")
    now = clock.now()
    record = LabelRecord(
        received=int(wall() * 1e6),
        ids=[label.id for label in request.labels],
        values=[label.value for label in request.labels],
        at=[micros(label.at or now) for label in request.labels],
    )
    journal.append(record, at=max(record.at))
    return LabelsAnswer(accepted=len(request.labels))
