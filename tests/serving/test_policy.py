"""What an endpoint writes down of a prediction: a share of inputs, columns dropped or hashed before anything is written, label keys."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.core.errors import Invalid
from tidemill.serving.block import Block
from tidemill.serving.config import EndpointOptions
from tidemill.serving.history import find_prediction, inputs, read_predictions
from tidemill.serving.journal import JournalWriter, PredictionRecord, predictions_folder, segments
from tidemill.serving.policy import JournalPolicy, hashed, policy_of, text_of
from tidemill.serving.runtimes.runtime import Columns

SECRET = b"s" * 32


def bare(*ids: str) -> PredictionRecord:
    return PredictionRecord(
        at=1, received=1, ids=list(ids), columns={}, scores=[0.5] * len(ids), variant=[0] * len(ids), variants=[("v1", "m", 1)],
        shadow=False, latency_ms=[float(place) for place in range(len(ids))], trace_id="t",
    )  # fmt: skip


def journaled(state: Path, policy: JournalPolicy, record: PredictionRecord, columns: Columns) -> None:
    writer = JournalWriter(predictions_folder(state, "delay"), "0")
    for each in policy.records(record, columns):
        writer.gather(each, at=each.at)
    writer.close()


def test_an_endpoint_that_keeps_all_has_no_policy(tmp_path: Path) -> None:
    assert policy_of(EndpointOptions(threshold=0.3, journal_days=3), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_share_of_inputs_is_kept_and_told_by_the_id(tmp_path: Path) -> None:
    ids = [f"p{number}" for number in range(2000)]
    policy = JournalPolicy(EndpointOptions(journal_inputs=0.25), tmp_path)
    journaled(tmp_path, policy, bare(*ids), {"a": np.arange(2000.0)})
    table = read_predictions(tmp_path, "delay")
    assert sorted(table["id"].to_pylist()) == sorted(ids)
    assert set(table["score"].to_pylist()) == {0.5}
    kept = {row["id"]: row for row in table.to_pylist() if row["inputs_kept"]}
    assert 400 < len(kept) < 600
    assert all(row["input.a"] == float(unit[1:]) == row["latency_ms"] for unit, row in kept.items())
    left = [row for row in table.to_pylist() if not row["inputs_kept"]]
    assert {row["input.a"] for row in left} == {None}
    assert all(row["latency_ms"] == float(row["id"][1:]) for row in left)
    assert [len(each.ids) for each in policy.records(bare(*kept), {"a": [1.0] * len(kept)})] == [len(kept)]
    unkept = left[0]["id"]
    assert not find_prediction(tmp_path, unkept, endpoints=["delay"]).inputs_kept


@pytest.mark.parametrize("as_block", [False, True])
def test_columns_are_dropped_or_hashed_before_anything_is_written(tmp_path: Path, as_block: bool) -> None:
    policy = JournalPolicy(EndpointOptions(journal_drop=("name",), journal_hash=("phone",), label_key="phone"), tmp_path)
    numbers = {"a": [1.5, 2.5], "name": [77123.0, 77124.0], "phone": [55501.0, float("nan")]}
    columns: Columns = Block(tuple(numbers), np.array(list(numbers.values())).T) if as_block else numbers
    journaled(tmp_path, policy, bare("x", "y"), columns)
    secret = (tmp_path / "journal.key").read_bytes()
    table = read_predictions(tmp_path, "delay")
    digest = hashed(55501, secret)
    assert inputs(table).to_pydict() == {"phone": [digest, None], "a": [1.5, 2.5]}
    assert table["key"].to_pylist() == [digest, None]
    (segment,) = segments(predictions_folder(tmp_path, "delay"))
    assert not any(np.float64(value).tobytes() in segment.read_bytes() for value in (77123.0, 55501.0))
    assert (tmp_path / "journal.key").stat().st_mode & 0o77 == 0
    assert JournalPolicy(EndpointOptions(journal_hash=("phone",), label_key="phone"), tmp_path).key_texts(["55501"]) == [digest]


@settings(max_examples=100, deadline=None)
@given(st.integers(-(2**53), 2**53))
def test_equal_values_have_equal_digests(number: int) -> None:
    assert hashed(number, SECRET) == hashed(float(number), SECRET) == hashed(str(number), SECRET)
    assert hashed(number, SECRET) != hashed(number + 1, SECRET)
    assert hashed(number, SECRET) != hashed(number, b"t" * 32)


def test_texts_of_values() -> None:
    assert [text_of(value) for value in (None, float("nan"), True, 5.0, 0.5, "x", float("inf"))] == [
        None, None, "true", "5", "0.5", "x", "inf",
    ]  # fmt: skip


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(Invalid, match="column 'a' cannot be both dropped and hashed"):
        EndpointOptions(journal_drop=("a",), journal_hash=("a",))
    with pytest.raises(Invalid, match="column 'order' is the label key"):
        EndpointOptions(journal_drop=("order",), label_key="order")
