"""The journal for the long run: few files, objects of the store, and nothing lost or twice wherever it is killed."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.core.clock import micros
from tidemill.core.errors import NotFound, Unavailable
from tidemill.core.window import Window
from tidemill.serving.archive import (
    MERGE_AT,
    PART_BYTES,
    PART_ROWS,
    CompactReport,
    File,
    Part,
    archived_objects,
    compact,
    compacted,
    expire,
    expired,
    plan_merges,
    read_ledger,
)
from tidemill.serving.history import find_prediction, read_predictions
from tidemill.serving.journal import JournalWriter, PredictionRecord, predictions_folder
from tidemill.store.local import LocalStore

DAY = date(2013, 6, 1)
START = datetime(2013, 6, 1, tzinfo=UTC)
LATER = DAY + timedelta(days=100)


def write(state: Path, *hours: float, worker: str = "0") -> None:
    """Write one segment with a prediction at each hour."""
    writer = JournalWriter(predictions_folder(state, "delay"), worker)
    for hour in hours:
        at = micros(START + timedelta(hours=hour))
        record = PredictionRecord(
            at=at, received=at, ids=[f"{worker}-{hour}"], columns={"carrier": ["UA"], "delay": [hour]}, scores=[0.5], variant=[0],
            variants=[("v1", "m", 1)], shadow=False, latency_ms=0.25, trace_id="t",
        )  # fmt: skip
        writer.gather(record, at=at)
    writer.close()


@pytest.fixture
def objects(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


def all_closed(state: Path, objects: LocalStore, *, archive_before: date | None = LATER) -> CompactReport:
    return compact(state, "delay", objects=objects, closed_before=LATER, archive_before=archive_before)


def read(state: Path, objects: LocalStore | None = None, window: Window | None = None) -> pa.Table:
    return read_predictions(state, "delay", window, objects=objects)


def test_the_files_of_a_closed_day_become_one(tmp_path: Path, objects: LocalStore) -> None:
    for number, worker in enumerate("abc"):  # at different minutes: of one moment, any order is right
        write(tmp_path, *(hour + number / 60 for hour in (1, 2, 30)), worker=worker)
    before = read(tmp_path)
    assert compact(tmp_path, "delay", closed_before=DAY + timedelta(days=1)).merged == 3
    assert [len([f for f in compacted(predictions_folder(tmp_path, "delay")) if f.day == day]) for day in (DAY, DAY + timedelta(1))] == [
        1,
        3,
    ]
    assert read(tmp_path).equals(before)


def test_the_files_of_an_open_day_are_merged_by_the_dozen(tmp_path: Path) -> None:
    for number in range(MERGE_AT):
        write(tmp_path, number, worker=f"w{number}")
        merged = compact(tmp_path, "delay").merged
        assert merged == (MERGE_AT if number == MERGE_AT - 1 else 0)
    assert len(compacted(predictions_folder(tmp_path, "delay"))) == 1
    assert read(tmp_path).num_rows == MERGE_AT


def test_archived_days_are_read_as_local_ones(tmp_path: Path, objects: LocalStore) -> None:
    write(tmp_path, 1, 2, 30, worker="a")
    write(tmp_path, 3, 31, worker="b")
    window = Window(start=START + timedelta(hours=2), end=START + timedelta(hours=31))
    before, part, one = read(tmp_path), read(tmp_path, None, window), find_prediction(tmp_path, "b-3", endpoints=["delay"])
    assert all_closed(tmp_path, objects).archived == 2
    assert list((predictions_folder(tmp_path, "delay") / "parquet").rglob("*.parquet")) == []
    assert set(archived_objects(tmp_path)) == set(objects.digests())
    assert read(tmp_path, objects).equals(before)
    assert read(tmp_path, objects, window).equals(part)
    assert find_prediction(tmp_path, "b-3", endpoints=["delay"], objects=objects) == one
    with pytest.raises(NotFound, match="no prediction 'b-9' was journaled"):
        find_prediction(tmp_path, "b-9", endpoints=["delay"], objects=objects)
    with pytest.raises(Unavailable, match="predictions of 2013-06-01 lie in the object store"):
        read(tmp_path)


def test_predictions_that_come_late_join_their_archived_day(tmp_path: Path, objects: LocalStore) -> None:
    for number in range(MERGE_AT + 1):
        write(tmp_path, number, worker=f"w{number}")
        all_closed(tmp_path, objects)
        assert read(tmp_path, objects).num_rows == number + 1
    assert len(compacted(predictions_folder(tmp_path, "delay"))) == 2
    assert set(archived_objects(tmp_path)) == set(objects.digests())  # those of merged parts are gone


def test_an_expired_day_is_gone_for_good(tmp_path: Path, objects: LocalStore) -> None:
    write(tmp_path, 1, 30, 60)
    all_closed(tmp_path, objects, archive_before=DAY + timedelta(days=1))
    before = DAY + timedelta(days=2)
    assert len(expired(tmp_path, "delay", before=before)) == 2
    assert expire(tmp_path, "delay", before=before, objects=objects) == 2
    assert read(tmp_path, objects)["id"].to_pylist() == ["0-60"]
    assert list(objects.digests()) == []


class Killed(BaseException):
    """Stands for the end of the process."""


class Fate:
    """Kills at the nth step that the disk or the store sees, before it or after it; the dead do nothing any more."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, *, after: bool) -> None:
        self.at, self.after, self.steps, self.dead = at, after, 0, False
        for owner, name in (
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "rmdir"),
            (os, "fsync"),
            (LocalStore, "put_file"),
            (LocalStore, "delete"),
        ):
            patch.setattr(owner, name, self._step(getattr(owner, name)))

    def _step(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            if self.dead:
                raise Killed
            self.steps += 1
            self.dead = self.steps == self.at
            if self.dead and not self.after:
                raise Killed
            self.dead, mortal = False, self.dead  # what the real one calls is part of the step
            self.steps, steps = -(10**9), self.steps
            found = real(*args, **options)
            self.steps, self.dead = steps, mortal
            if mortal:
                raise Killed
            return found

        return step


def seen(state: Path, objects: LocalStore) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read(state, objects).to_pylist()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_step_nothing_is_lost_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    for at in range(1, 200):
        state = tmp_path / f"{at}"
        objects = LocalStore(state / "objects")
        write(state, 1, 30, worker="a")
        write(state, 2, 31, worker="b")
        before = seen(state, objects)
        with monkeypatch.context() as patch:
            fate = Fate(patch, at, after=after)
            try:
                all_closed(state, objects)
                killed = False
            except Killed:
                killed = True
        assert seen(state, objects) == before, fate.steps
        all_closed(state, objects)
        assert seen(state, objects) == before, fate.steps
        folder = predictions_folder(state, "delay")
        assert (len(compacted(folder)), read_ledger(folder).gone, read_ledger(folder).dropped) == (2, (), ())
        assert list((folder / "parquet").rglob("*.parquet")) == []
        assert set(archived_objects(state)) <= set(objects.digests())
        if not killed:
            assert at > 20  # the whole way was gone
            return
    pytest.fail("there is no end to the steps")


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_an_expiry_killed_at_any_step_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    for at in range(1, 100):
        state = tmp_path / f"{at}"
        objects = LocalStore(state / "objects")
        write(state, 1, 30, 60)
        all_closed(state, objects, archive_before=DAY + timedelta(days=1))
        with monkeypatch.context() as patch:
            fate = Fate(patch, at, after=after)
            try:
                expire(state, "delay", before=DAY + timedelta(days=2), objects=objects)
                killed = False
            except Killed:
                killed = True
        assert [row["id"] for row in seen(state, objects)][-1] == "0-60"
        expire(state, "delay", before=DAY + timedelta(days=2), objects=objects)
        assert [row["id"] for row in seen(state, objects)] == ["0-60"], fate.steps
        assert list(objects.digests()) == []
        if not killed:
            return
    pytest.fail("there is no end to the steps")


def files(sizes: list[tuple[int, int, bool]]) -> Iterator[File]:
    for number, (rows, size, archived) in enumerate(sizes):
        part = Part(day=DAY, name=f"{number}", rows=rows, size_bytes=size, ids=("", "z"), at=(0, 1), digest="0" * 64 if archived else None)  # type: ignore[arg-type]  # a digest
        yield File(day=DAY, path=Path(f"{number}"), size_bytes=size, part=part)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2 * PART_ROWS), st.integers(1, 2 * PART_BYTES), st.booleans())), st.booleans())
def test_a_plan_merges_each_file_once_and_nothing_large(sizes: list[tuple[int, int, bool]], closed: bool) -> None:
    there = list(files(sizes))
    groups = plan_merges(there, closed=closed)
    chosen = [file.place for group in groups for file in group]
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= {file.place for file in there}
    assert all(len(group) > 1 and sum(file.size_bytes for file in group) <= PART_BYTES for group in groups)
