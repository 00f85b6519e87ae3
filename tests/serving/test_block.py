"""Rows that come as one matrix are checked, answered and journaled as the same rows one by one."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.plant import landed_view, python_spec
from tidemill.core.codec import packed
from tidemill.core.signature import Column
from tidemill.features.online import ReadPlan
from tidemill.serving.archive import compact
from tidemill.serving.block import Block
from tidemill.serving.history import inputs, read_predictions
from tidemill.serving.journal import JournalWriter, PackedBlock, PredictionRecord, predictions_folder
from tidemill.serving.rows import RowSchema, RowsRefused, row_schema

COLUMNS = (
    Column(name="free", kind="double"),
    Column(name="ranged", kind="double", low=-1, high=5),
    Column(name="maybe", kind="double", required=False),
    Column(name="above", kind="double", low=0, required=False),
)
NAMES = tuple(column.name for column in COLUMNS)
NUMBERS = st.one_of(st.floats(-10, 10), st.sampled_from([0.0, -1.0, 5.0, 5.000001, float("nan"), float("inf"), float("-inf"), 1e300, -0.0]))


@pytest.fixture(scope="module")
def schema() -> RowSchema:
    return row_schema("delay", [python_spec(inputs=COLUMNS)], [], None, None)


def outcome(take: Any) -> Any:
    try:
        rows = take()
    except RowsRefused as refused:
        return refused.faults, refused.total
    return {name: [None if value is None or np.isnan(value) else float(value) for value in rows.columns[name]] for name in NAMES}


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_a_block_is_taken_or_refused_as_its_columns_are(schema: RowSchema, rows: list[tuple[float, ...]]) -> None:
    assert schema.takes_block(NAMES)
    block = Block(NAMES, np.array(rows))
    columns = {name: [None if np.isnan(row[place]) else row[place] for row in rows] for place, name in enumerate(NAMES)}
    whole = outcome(lambda: schema.take_block(block, ids=None, at=None))
    assert whole == outcome(lambda: schema.take(columns, len(rows), ids=None, at=None))


def test_what_is_not_finite_is_named(schema: RowSchema) -> None:
    with pytest.raises(RowsRefused, match=r"row 1: column 'free': expected a finite number, got inf"):
        schema.take_block(Block(NAMES, np.array([[0, 0, 0, 0], [np.inf, 0, 0, 0]], dtype=np.float32)), ids=None, at=None)
    with pytest.raises(RowsRefused, match=r"row 0: column 'ranged': Expected `float`, got `null`|got `None`"):
        schema.take_block(Block(NAMES, np.array([[0, np.nan, 0, 0]])), ids=None, at=None)


@pytest.mark.parametrize(("names", "taken"), [(NAMES, True), (NAMES[::-1], True), (NAMES[:3], False), ((*NAMES, "strange"), False)])
def test_a_block_brings_every_column_and_nothing_else(schema: RowSchema, names: tuple[str, ...], taken: bool) -> None:
    assert schema.takes_block(names) == taken


def test_whole_numbers_text_and_what_sticks_are_no_block() -> None:
    for column in (Column(name="n", kind="long"), Column(name="n", kind="string"), Column(name="n", kind="boolean")):
        assert not row_schema("delay", [python_spec(inputs=(*COLUMNS, column))], [], None, None).takes_block((*NAMES, "n"))
    assert not row_schema("delay", [python_spec(inputs=COLUMNS)], [], None, "free").takes_block(NAMES)
    plan = ReadPlan(project="default", services=(), views=(landed_view(),), features=())
    assert not row_schema("delay", [python_spec(inputs=COLUMNS)], [], plan, None).takes_block(NAMES)


def test_a_block_is_a_mapping_of_its_columns() -> None:
    block = Block(("a", "b"), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert {name: column.tolist() for name, column in block.items()} == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert "c" not in block
    assert block.take([2, 0])["b"].tolist() == [6, 2]


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_a_block_is_read_back_from_the_journal(tmp_path: Path, dtype: str) -> None:
    writer = JournalWriter(predictions_folder(tmp_path, "delay"), "0")
    at = int(datetime(2013, 6, 1, tzinfo=UTC).timestamp() * 1e6)
    for number, rows in enumerate(([[1.5, np.nan]], [[2.5, 3.5], [4.5, 5.5]])):
        block: Any = PackedBlock(names=packed(["a", "b"]), dtype=dtype, data=np.array(rows, dtype=dtype).tobytes())  # type: ignore[arg-type]
        ids = [f"{number}-{row}" for row in range(len(rows))]
        writer.append(
            PredictionRecord(
                at=at, received=number, ids=ids, columns={}, block=block, scores=[0.5] * len(rows), variant=[0] * len(rows),
                variants=[("champion", "m", 1)], shadow=False, latency_ms=0.1, trace_id="",
            ),
            at=at,
        )  # fmt: skip
    expected = {"a": [1.5, 2.5, 4.5], "b": [None, 3.5, 5.5]}
    assert inputs(read_predictions(tmp_path, "delay")).to_pydict() == expected
    writer.close()
    assert compact(tmp_path, "delay").rows == 3
    assert inputs(read_predictions(tmp_path, "delay")).to_pydict() == expected
