"""Labels: what came true, told by prediction id or by an endpoint's label key, once or corrected, early or months late."""

import csv
import io
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

from tidemill.core.clock import Clock, micros, wall
from tidemill.core.codec import convert, decode, decode_any
from tidemill.core.errors import Invalid
from tidemill.core.values import Meta, Value
from tidemill.serving.config import EndpointOptions
from tidemill.serving.journal import JournalWriter, LabelRecord, LabelsJournal
from tidemill.serving.policy import JournalPolicy
from tidemill.serving.rows import PredictionId

LabelValue = bool | float | Annotated[str, Meta(max_length=1000)]
LINES, CSV = "application/x-ndjson", "text/csv"
_COLUMNS = ("id", "key", "value", "at")


class Label(Value, frozen=True, kw_only=True):
    """What came true, for the prediction of an id, or for the last one about a key; at: since when that is known, now unless told."""

    id: PredictionId | None = None
    key: bool | int | float | Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    value: LabelValue
    at: datetime | None = None

    def __post_init__(self) -> None:
        if (self.id is None) == (self.key is None):
            raise Invalid("a label needs either the id of a prediction or a key")
        if self.at is not None and self.at.tzinfo is None:
            told = self.id if self.id is not None else self.key
            raise Invalid(f"label of {told!r} has a time without a zone; write it as {self.at.isoformat()}Z")


class LabelsRequest(Value, frozen=True, kw_only=True):
    """Labels for any endpoints' predictions; those by key are about one endpoint."""

    labels: list[Label]
    endpoint: str | None = None


class LabelsAnswer(Value, frozen=True, kw_only=True):
    """How many labels are kept."""

    accepted: int


def take_labels(
    body: bytes, journal: LabelsJournal, clock: Clock, *, options_of: Callable[[str], EndpointOptions],
    media: str = "", endpoint: str | None = None,
) -> LabelsAnswer:  # fmt: skip
    """Keep the labels of a request: JSON, or by its media type a label a line or CSV. Sending them again changes nothing.

    endpoint: the one that the request was sent to. options_of tells of an endpoint by name. Raises Invalid, NotFound, JournalUnavailable.
    """
    request = read_labels_body(body, media)
    if not request.labels:
        raise Invalid("request has no labels; expected at least one")
    name = endpoint if endpoint is not None else request.endpoint
    received, now = int(wall() * 1e6), clock.now()
    keyed = [label for label in request.labels if label.key is not None]
    if keyed:
        if name is None:
            raise Invalid('labels by key need an endpoint; send them to /feedback/ENDPOINT, or name it beside them as "endpoint"')
        options = options_of(name)
        if options.label_key is None:
            raise Invalid(f"endpoint {name!r} has no label key; name its column with: tidemill endpoint set {name} --label-key COLUMN")
        keys = JournalPolicy(options, journal.state).key_texts([label.key for label in keyed])
        _gather(journal, keyed, [str(key) for key in keys], received, now, endpoint=name)
    if told := [label for label in request.labels if label.id is not None]:
        _gather(journal, told, [str(label.id) for label in told], received, now)
    journal.flush()
    return LabelsAnswer(accepted=len(request.labels))


def read_labels_body(body: bytes, media: str) -> LabelsRequest:
    """Read the labels of a request. Raises Invalid naming the line of the fault."""
    kind = media.partition(";")[0].strip().lower()
    if kind == LINES:
        lines = [(number, line) for number, line in enumerate(body.splitlines(), 1) if line.strip()]
        return LabelsRequest(labels=[decode(line, Label, what=f"line {number}") for number, line in lines])
    if kind == CSV:
        return LabelsRequest(labels=_csv_labels(body))
    if body.lstrip()[:1] == b"[":
        return LabelsRequest(labels=decode(body, list[Label], what="request"))
    return decode(body, LabelsRequest, what="request")


def _csv_labels(body: bytes) -> list[Label]:
    try:
        rows = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        names = next(rows, [])
        if not {"value"} <= set(names) <= set(_COLUMNS):
            raise Invalid(f"columns of the labels are {', '.join(names) or 'none'}; expected value, id or key, and at if known")
        return [_csv_label(names, row, rows.line_num) for row in rows if row]
    except UnicodeDecodeError as error:
        raise Invalid(f"labels are not UTF-8 (byte {error.start}); write the file anew as UTF-8") from error
    except csv.Error as error:
        raise Invalid(f"labels are no CSV: {error}") from error


def _csv_label(names: Sequence[str], row: Sequence[str], line: int) -> Label:
    if len(row) != len(names):
        raise Invalid(f"line {line} has {len(row)} fields; expected {len(names)} ({', '.join(names)})")
    fields: dict[str, Any] = {name: text for name, text in zip(names, row, strict=True) if text != ""}
    if "value" in fields:
        fields["value"] = _csv_value(fields["value"])
    return convert(fields, Label, what=f"line {line}")


def _csv_value(text: str) -> LabelValue:
    """Return a number or a truth value as such, any other text as it is."""
    try:
        found = decode_any(text.lower() if text.lower() in ("true", "false") else text)
    except Invalid:
        return text
    return found if isinstance(found, bool | int | float) else text


def _gather(
    journal: JournalWriter, labels: Sequence[Label], ids: list[str], received: int, now: datetime, *, endpoint: str | None = None
) -> None:  # fmt: skip
    record = LabelRecord(
        received=received, ids=ids, values=[label.value for label in labels], at=[micros(label.at or now) for label in labels],
        endpoint=endpoint,
    )  # fmt: skip
    journal.gather(record, at=max(record.at))
