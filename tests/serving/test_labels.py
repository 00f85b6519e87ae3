"""Labels by id and by key: taken in every form, joined to the prediction that was the last by then, however late and wherever it lies."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.client.label_files import csv_pieces, line_pieces
from tidemill.core.clock import ManualClock, micros
from tidemill.core.codec import encode
from tidemill.core.errors import Invalid
from tidemill.serving.archive import compact
from tidemill.serving.config import EndpointOptions
from tidemill.serving.history import count_pending, read_labels
from tidemill.serving.journal import JournalWriter, LabelsJournal, PredictionRecord, predictions_folder
from tidemill.serving.labels import CSV, LINES, read_labels_body, take_labels
from tidemill.serving.policy import JournalPolicy
from tidemill.store.local import LocalStore

START = datetime(2013, 6, 1, tzinfo=UTC)
KEYED = EndpointOptions(label_key="order")


class Desk:
    """Predicts and takes labels, as a worker does."""

    def __init__(self, state: Path, options: EndpointOptions = KEYED) -> None:
        self.state, self.options, self.labels = state, options, LabelsJournal(state, "0")
        self.policy = JournalPolicy(options, state)

    def predict(self, unit: str, key: Any, *, hours: float = 0) -> None:
        at = micros(START + timedelta(hours=hours))
        bare = PredictionRecord(
            at=at, received=at, ids=[unit], columns={}, scores=[0.5], variant=[0], variants=[("v1", "m", 1)], shadow=False, latency_ms=1.0,
            trace_id="",
        )  # fmt: skip
        writer = JournalWriter(predictions_folder(self.state, "delay"), "0")
        for record in self.policy.records(bare, {"order": [key]}):
            writer.append(record, at=at)
        writer.close()

    def tell(self, body: bytes, media: str = "", endpoint: str | None = "delay") -> int:
        return take_labels(
            body, self.labels, ManualClock(START + timedelta(days=90)), options_of=lambda _: self.options, media=media, endpoint=endpoint
        ).accepted

    def label(self, key: Any, value: Any, *, hours: float) -> None:
        self.tell(encode([{"key": key, "value": value, "at": START + timedelta(hours=hours)}]))

    def known(self, **how: Any) -> list[tuple[str, Any]]:
        rows = read_labels(self.state, **how).to_pylist()
        return [(row["id"], row["value"] if row["text"] is None else row["text"]) for row in rows]


def test_a_label_is_that_of_the_last_prediction_about_its_key_by_then(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for unit, key, hours in (("a1", "A", 1), ("a2", "A", 5), ("b1", "B", 2), ("none", None, 1)):
        desk.predict(unit, key, hours=hours)
    desk.label("A", 1, hours=3)
    desk.label("A", 0, hours=24 * 80)
    desk.label("B", True, hours=2)
    assert desk.known() == [("b1", 1.0), ("a1", 1.0), ("a2", 0.0)]
    desk.label("A", 1, hours=3)
    assert len(desk.known(history=True)) == 3, "the same label again changes nothing"
    desk.label("A", 0, hours=4)
    assert ("a1", 0.0) in desk.known()
    assert [value for unit, value in desk.known(history=True) if unit == "a1"] == [1.0, 0.0]


def test_a_label_waits_for_its_prediction(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.label("A", 1, hours=3)
    desk.label("A", 0, hours=4)
    desk.label("Z", 0, hours=4)
    assert (desk.known(), count_pending(tmp_path, "delay"), count_pending(tmp_path, "other")) == ([], 2, 0)
    desk.predict("late", "A", hours=2)
    assert desk.known() == [("late", 0.0)]
    assert count_pending(tmp_path, "delay") == 1


@pytest.mark.parametrize("hidden", [(), ("order",)])
def test_labels_find_predictions_that_are_archived(tmp_path: Path, hidden: tuple[str, ...]) -> None:
    desk, objects = Desk(tmp_path, EndpointOptions(label_key="order", journal_hash=hidden)), LocalStore(tmp_path / "objects")
    desk.predict("a", 17.0)
    compact(tmp_path, "delay", objects=objects, closed_before=date(2014, 1, 1), archive_before=date(2014, 1, 1))
    desk.label("17", 1, hours=2000)
    assert desk.known(objects=objects) == [("a", 1.0)]


FORMS = [
    (b'{"labels": [{"id": "a", "value": true, "at": "2013-06-01T00:00:00Z"}, {"id": "b", "value": "cat"}]}', ""),
    (b'[{"id": "a", "value": true, "at": "2013-06-01T00:00:00Z"}, {"id": "b", "value": "cat"}]', "application/json"),
    (b'{"id": "a", "value": true, "at": "2013-06-01T00:00:00Z"}\n\n{"id": "b", "value": "cat"}\n', LINES),
    (b"\xef\xbb\xbfid,value,at\r\na,True,2013-06-01T00:00:00Z\r\nb,cat,\r\n", f"{CSV}; charset=utf-8"),
]


@pytest.mark.parametrize(("body", "media"), FORMS)
def test_labels_come_in_many_forms(tmp_path: Path, body: bytes, media: str) -> None:
    desk = Desk(tmp_path)
    assert desk.tell(body, media) == 2
    assert desk.known() == [("a", 1.0), ("b", "cat")]


REFUSED = [
    (b'[{"key": "A", "value": 1}]', "", None, "labels by key need an endpoint"),
    (b'[{"value": 1}]', "", "delay", "either the id of a prediction or a key"),
    (b'[{"id": "a", "key": "A", "value": 1}]', "", "delay", "either the id of a prediction or a key"),
    (b'{"id": "a", "value": 1}\n{"id": "b"}', LINES, "delay", "line 2"),
    (b"id,outcome\na,1\n", CSV, "delay", "columns of the labels are id, outcome; expected value, id or key"),
    (b"id,value\na,1\nb\n", CSV, "delay", r"line 3 has 1 fields; expected 2 \(id, value\)"),
    (b"id,value\na,\n", CSV, "delay", "line 2"),
    (b"id,value\n\xff,1\n", CSV, "delay", "labels are not UTF-8"),
    (b"id,value\n", CSV, "delay", "request has no labels"),
    (b'[{"id": "a", "value": 1, "at": "2013-06-01T00:00:00"}]', "", "delay", "time without a zone"),
]


@pytest.mark.parametrize(("body", "media", "endpoint", "told"), REFUSED)
def test_labels_that_cannot_be_taken_are_refused_whole(tmp_path: Path, body: bytes, media: str, endpoint: str | None, told: str) -> None:
    desk = Desk(tmp_path)
    with pytest.raises(Invalid, match=told):
        desk.tell(body, media, endpoint)
    assert desk.known() == []


def test_an_endpoint_without_a_label_key_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(
        Invalid, match="endpoint 'delay' has no label key; name its column with: tidemill endpoint set delay --label-key COLUMN"
    ):
        Desk(tmp_path, EndpointOptions()).tell(b'[{"key": "A", "value": 1}]')


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20), min_size=1), st.integers(1, 5)
)
def test_a_file_sent_in_pieces_is_the_file(ids: list[str], size: int) -> None:
    lines = [encode({"id": unit, "value": 1}).decode() + "\n" for unit in ids]
    found = [label.id for piece in line_pieces(lines, size) for label in read_labels_body(piece, LINES).labels]
    assert found == ids
    rows = ["id,value\n", *('"' + unit.replace('"', '""') + '",1\n' for unit in ids)]
    assert [label.id for piece in csv_pieces(rows, size) for label in read_labels_body(piece, CSV).labels] == ids
