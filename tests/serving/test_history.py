"""Journals as tables: each prediction once, by time, before and after compaction; labels with their corrections."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tidemill.core.clock import micros
from tidemill.core.errors import NotFound
from tidemill.core.window import Window
from tidemill.serving import history
from tidemill.serving.archive import compact
from tidemill.serving.history import count_failures, find_prediction, inputs, read_labels, read_predictions
from tidemill.serving.journal import (
    DAY_MICROS,
    FailureRecord,
    JournalWriter,
    LabelRecord,
    PredictionRecord,
    failures_folder,
    labels_folder,
    predictions_folder,
    segments,
)
from tidemill.serving.tables import INPUT, PREDICTIONS

DAY = datetime(2013, 6, 1, tzinfo=UTC)


class Book:
    """Writes an endpoint's journal."""

    def __init__(self, state: Path, worker: str = "0", *, segment_bytes: int = 1 << 20) -> None:
        self.state, self.received = state, 0
        self.writer = JournalWriter(predictions_folder(state, "delay"), worker, segment_bytes=segment_bytes, segment_micros=30 * DAY_MICROS)
        self.labels = JournalWriter(labels_folder(state), worker)

    def predict(
        self, *ids: str, hours: float = 0, variant: str = "champion", shadow: bool = False, score: float = 0.5, **columns: Any
    ) -> None:
        self.received += 1
        at = micros(DAY + timedelta(hours=hours))
        self.writer.append(
            PredictionRecord(
                at=at, received=self.received, ids=list(ids), columns={name: [value] * len(ids) for name, value in columns.items()},
                scores=[score] * len(ids), variant=[0] * len(ids), variants=[(variant, "m", 1)], shadow=shadow, latency_ms=0.25,
                trace_id="t",
            ),
            at=at,
        )  # fmt: skip

    def label(self, prediction: str, value: Any, *, hours: float = 0) -> None:
        self.received += 1
        at = micros(DAY + timedelta(hours=hours))
        self.labels.append(LabelRecord(received=self.received, ids=[prediction], values=[value], at=[at]), at=at)

    def close(self) -> None:
        self.writer.close()
        self.labels.close()


@pytest.fixture
def book(tmp_path: Path):
    book = Book(tmp_path)
    yield book
    book.close()


def window(start_h: float, end_h: float) -> Window:
    return Window(start=DAY + timedelta(hours=start_h), end=DAY + timedelta(hours=end_h))


def ids(table: pa.Table) -> list[str]:
    return table["id"].to_pylist()


def test_no_journal_is_an_empty_table(tmp_path: Path) -> None:
    table = read_predictions(tmp_path, "delay")
    assert (table.num_rows, table.schema) == (0, PREDICTIONS)
    assert read_labels(tmp_path).num_rows == 0
    assert compact(tmp_path, "delay").segments == 0


def test_rows_come_with_their_inputs_ordered_by_event_time(book: Book) -> None:
    book.predict("late", hours=3, carrier="UA", delay=float("nan"))
    book.predict("early", "early too", hours=1, carrier="AA", delay=2.0)
    table = read_predictions(book.state, "delay")
    assert ids(table) == ["early", "early too", "late"]
    assert table["at"].to_pylist()[2] == DAY + timedelta(hours=3)
    assert inputs(table).to_pydict() == {"carrier": ["AA", "AA", "UA"], "delay": [2.0, 2.0, None]}
    assert table.select(["score", "variant", "model", "version", "shadow", "latency_ms", "trace_id"]).to_pylist()[0] == {
        "score": 0.5, "variant": "champion", "model": "m", "version": 1, "shadow": False, "latency_ms": 0.25, "trace_id": "t",
    }  # fmt: skip


def test_a_window_is_half_open(book: Book) -> None:
    for hour in range(5):
        book.predict(str(hour), hours=hour)
    assert ids(read_predictions(book.state, "delay", window(1, 3))) == ["1", "2"]


def test_an_id_that_came_again_counts_once_and_shadows_apart(book: Book) -> None:
    book.predict("a", "b", score=0.1)
    book.predict("a", "b", "c", score=0.9, variant="challenger")  # sent again after the connection was cut; the routing had changed
    for _ in range(2):
        book.predict("a", variant="challenger", shadow=True, score=0.2)
        book.predict("a", variant="other", shadow=True, score=0.3)
    table = read_predictions(book.state, "delay")
    told = table.filter(pa.compute.invert(table["shadow"]))
    assert dict(zip(ids(told), told["score"].to_pylist(), strict=True)) == {"a": 0.1, "b": 0.1, "c": 0.9}
    shadows = table.filter(table["shadow"])
    assert sorted(zip(ids(shadows), shadows["variant"].to_pylist(), strict=True)) == [("a", "challenger"), ("a", "other")]


def test_columns_may_come_and_go_and_change_their_type(book: Book) -> None:
    book.predict("1", a=1)
    book.predict("2", a=2.5, b="x")
    book.predict("3", a="text", b=None)
    found = {row["id"]: row for row in read_predictions(book.state, "delay").to_pylist()}
    assert [found[each][f"{INPUT}a"] for each in "123"] == ["1", "2.5", "text"] or [found[each][f"{INPUT}a"] for each in "123"] == [
        "1.0",
        "2.5",
        "text",
    ]
    assert [found[each][f"{INPUT}b"] for each in "123"] == [None, "x", None]


def test_compaction_changes_nothing_that_readers_see(book: Book) -> None:
    for hour in range(0, 60, 5):
        book.predict(f"p{hour}", hours=hour, carrier="UA", delay=hour * 1.5)
    before, part = read_predictions(book.state, "delay"), read_predictions(book.state, "delay", window(20, 40))
    assert compact(book.state, "delay").segments == 0  # it is being written to
    book.writer.close()
    report = compact(book.state, "delay")
    assert (report.segments, report.rows, report.files) == (1, 12, 3)
    assert segments(predictions_folder(book.state, "delay")) == []
    assert read_predictions(book.state, "delay").equals(before)
    assert read_predictions(book.state, "delay", window(20, 40)).equals(part)
    book.predict("p5", "new", hours=70)
    assert ids(read_predictions(book.state, "delay")) == [*ids(before), "new"]


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_compaction_that_was_killed_half_way_is_done_again(book: Book, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    for hour in (0, 30, 60):
        book.predict(f"p{hour}", hours=hour)
    book.writer.close()
    before = read_predictions(book.state, "delay")
    done = 0
    replace = Path.replace

    def die(path: Path, target: Path) -> Path:
        nonlocal done
        if path.suffix != ".tmp" and ".parquet" in path.name:
            if done == after:
                raise Killed
            done += 1
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(Killed):
        compact(book.state, "delay")
    monkeypatch.undo()
    assert read_predictions(book.state, "delay").equals(before)
    assert compact(book.state, "delay").files == 3
    assert read_predictions(book.state, "delay").equals(before)
    assert read_predictions(book.state, "delay").num_rows == 3


def test_a_segment_with_nothing_in_it_goes_away(book: Book) -> None:
    book.predict("x")
    book.writer.close()
    (segment,) = segments(predictions_folder(book.state, "delay"))
    os.truncate(segment, 5)
    assert compact(book.state, "delay").segments == 1
    assert read_predictions(book.state, "delay").num_rows == 0


@pytest.mark.parametrize("compacted", [False, True])
def test_a_prediction_is_found_by_its_id(book: Book, compacted: bool) -> None:
    book.predict("a", "b", carrier="UA", delay=1.5)
    book.predict("b", shadow=True, variant="challenger", score=0.9)
    if compacted:
        book.writer.close()
        compact(book.state, "delay")
    found = find_prediction(book.state, "b", endpoints=["other", "delay"])
    assert (found.endpoint, found.variant, found.score, found.at) == ("delay", "champion", 0.5, DAY)
    assert found.columns == {"carrier": "UA", "delay": 1.5}
    with pytest.raises(NotFound, match="no prediction 'zz' was journaled"):
        find_prediction(book.state, "zz", endpoints=["delay"])
    with pytest.raises(NotFound, match="no prediction 'b' was journaled"):
        find_prediction(book.state, "b", endpoints=["other"])


def test_the_label_that_came_last_counts(book: Book) -> None:
    book.label("a", False, hours=1)
    book.label("b", 0.5, hours=2)
    book.label("a", True, hours=3)
    book.label("a", False, hours=1)  # the first one sent again: already known
    table = read_labels(book.state)
    assert table.select(["id", "value", "at"]).to_pylist() == [
        {"id": "b", "value": 0.5, "at": DAY + timedelta(hours=2)},
        {"id": "a", "value": 1.0, "at": DAY + timedelta(hours=3)},
    ]
    assert read_labels(book.state, history=True)["value"].to_pylist() == [0.0, 0.5, 1.0]
    assert read_labels(book.state, window(0, 2.5)).select(["id", "value"]).to_pylist() == [
        {"id": "a", "value": 0.0},
        {"id": "b", "value": 0.5},
    ]


def test_labels_may_be_text(book: Book) -> None:
    book.label("a", "cat")
    book.label("b", 3.0)
    book.label("c", True)
    assert read_labels(book.state).select(["value", "text"]).to_pylist() == [
        {"value": None, "text": "cat"},
        {"value": 3.0, "text": None},
        {"value": 1.0, "text": None},
    ]


def test_failures_are_counted_by_variant_and_window(tmp_path: Path) -> None:
    writer = JournalWriter(failures_folder(tmp_path, "lab/delay"), "0")
    for hour, variant, rows in ((1, "v1", 2), (2, "v1", 3), (2, "v2", 5)):
        at = micros(DAY + timedelta(hours=hour))
        record = FailureRecord(at=at, received=at, rows=rows, variant=variant, model="m", version=1, shadow=False, reason="x")
        writer.append(record, at=at)
    writer.close()
    assert [count_failures(tmp_path, "lab/delay", variant) for variant in ("v1", "v2", "v3")] == [5, 5, 0]
    assert count_failures(tmp_path, "lab/delay", "v1", window(0, 2)) == 2
    assert count_failures(tmp_path, "delay", "v1") == 0


def test_a_segment_that_is_compacted_while_it_is_read_is_read_from_its_files(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    book.predict("x", carrier="UA")
    book.writer.close()
    before = read_predictions(book.state, "delay")
    listed = history.segments

    def compact_first(folder: Path) -> list[Path]:
        found = listed(folder)
        monkeypatch.undo()
        compact(book.state, "delay")
        return found

    monkeypatch.setattr(history, "segments", compact_first)
    assert read_predictions(book.state, "delay").equals(before)
