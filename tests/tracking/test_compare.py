"""Runs side by side: what differs, and only that unless everything is asked for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.errors import Invalid
from tidemill.govern.workspace import Workspace
from tidemill.tracking.batches import log_batch
from tidemill.tracking.compare import Row, compare_runs, side_by_side
from tidemill.tracking.inputs import CONTEXT, DatasetInput, InputDataset, log_inputs
from tidemill.tracking.runs import RunNotFound, end_run, log_artifact, start_run


def made(ws: Workspace, name: str, *, depth: int, numpy: str, patch: str, data: str) -> str:
    run = start_run(ws, "delay", name=name, params={"depth": depth, "rate": 1}, tags={"git.commit": name * 3, "python": "3", "note": name})
    log_batch(ws, run.id, metrics=[], params={"same": "x"})
    environment = {"python": {"version": "3.11.7"}, "packages": {"numpy": numpy, "msgspec": "1"}}
    log_artifact(ws, run.id, "environment.json", json.dumps(environment).encode())
    log_artifact(ws, run.id, "code/diff.patch", patch.encode())
    dataset = InputDataset(name="flights", digest=data, source_type="tidemill", source="x")
    log_inputs(ws, run.id, [DatasetInput(dataset=dataset, tags={CONTEXT: "training"})])
    end_run(ws, run.id)
    return run.id


def test_what_differs_is_shown(any_ws: Workspace) -> None:
    one = made(any_ws, "one", depth=3, numpy="2.1", patch="-a\n+b\n", data="1")
    two = made(any_ws, "two", depth=4, numpy="2.2", patch="-a\n+c\n", data="2")
    found = compare_runs(any_ws, [one, two, one])
    assert [run.name for run in found.runs] == ["one", "two"]
    assert found.params == (Row(key="depth", values=("3", "4")),)
    assert found.packages == (Row(key="numpy", values=("2.1", "2.2")),)
    assert found.data == (Row(key="training flights", values=("1", "2")),)
    assert found.code == (Row(key="commit", values=("oneoneone", "twotwotwo")),)
    assert found.tags == (Row(key="note", values=("one", "two")),)
    assert found.code_diff == "--- one: code/diff.patch\n+++ two: code/diff.patch\n@@ -1,2 +1,2 @@\n -a\n-+b\n++c\n"
    whole = compare_runs(any_ws, [one, two], everything=True)
    assert [row.key for row in whole.params] == ["depth", "rate", "same"]
    assert [row.key for row in whole.packages] == ["msgspec", "numpy", "python"]


def test_runs_that_have_little_are_compared_too(ws: Workspace) -> None:
    one, two = start_run(ws, "delay", name="one", params={"a": 1}), start_run(ws, "delay", name="two")
    log_artifact(ws, two.id, "environment.json", b"not json")
    found = compare_runs(ws, [one.id, two.id])
    assert found.params == (Row(key="a", values=("1", None)),)
    assert (found.packages, found.data, found.code, found.code_diff) == ((), (), (), "")


def test_what_cannot_be_compared_is_told_so(ws: Workspace) -> None:
    run = start_run(ws, "delay", name="one")
    with pytest.raises(Invalid, match="1 runs cannot be compared; name 2 to 100 different ones"):
        compare_runs(ws, [run.id, run.id])
    with pytest.raises(RunNotFound, match="there is no run 'nope'"):
        compare_runs(ws, [run.id, "nope"])


VALUES = st.dictionaries(st.sampled_from("abc"), st.one_of(st.text(max_size=2), st.floats()), max_size=3)


@given(st.lists(VALUES, min_size=2, max_size=4))
def test_rows_hold_each_key_once_and_only_differing_ones_when_asked(columns: list[dict[str, object]]) -> None:
    whole = side_by_side(columns, everything=True)
    assert [row.key for row in whole] == sorted({key for column in columns for key in column})
    assert all(len(row.values) == len(columns) for row in whole)
    differing = side_by_side(columns, everything=False)
    assert set(differing) == {row for row in whole if len(set(row.values)) > 1}


def test_what_is_no_number_is_like_itself() -> None:
    nan = float("nan")
    assert side_by_side([{"a": nan}, {"a": nan}], everything=False) == ()
    assert side_by_side([{"a": nan}, {"a": 1.0}], everything=False) == (Row(key="a", values=("nan", 1.0)),)
