"""Columns of a table as a model takes them; rows that its signature refuses, by place and reason."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.signature import Column, ModelSpec, Signature
from tidemill.serving.batch.columns import ModelColumns
from tidemill.serving.block import Block


def model(*inputs: Column) -> ModelSpec:
    signature = Signature(inputs=inputs, outputs=(Column(name="score", kind="double"),))
    return ModelSpec(runtime="onnx", file="m", signature=signature, tensors={"x": tuple(column.name for column in inputs)}, output="score")


A, B = Column(name="a", kind="double", low=0, high=10), Column(name="b", kind="double", required=False)
MIXED = (
    Column(name="n", kind="long"),
    Column(name="c", kind="string", categories=("UA", "AA")),
    Column(name="ok", kind="boolean", required=False),
    Column(name="d", kind="double", required=False),
)


def test_numbers_go_as_one_matrix_in_the_order_of_the_model() -> None:
    batch = pa.record_batch({"b": pa.array([1, None], pa.int32()), "z": ["p", "q"], "a": pa.array([0.5, 2.0], pa.float32())})
    columns, faults = ModelColumns(model(A, B)).take(batch)
    assert isinstance(columns, Block)
    assert (columns.names, faults) == (("a", "b"), {})
    np.testing.assert_array_equal(columns.matrix, [[0.5, 1.0], [2.0, np.nan]])


def test_single_precision_stays_single_precision() -> None:
    batch = pa.record_batch({"a": pa.array([0.5], pa.float32()), "b": pa.array([1.5], pa.float32())})
    columns, _ = ModelColumns(model(A, B)).take(batch)
    assert isinstance(columns, Block)
    assert columns.matrix.dtype == np.float32


def test_refused_rows_are_told_by_place_and_left_out() -> None:
    batch = pa.record_batch({"a": [1.0, None, 11.0, 2.0, float("inf"), float("nan")], "b": [1.0, 1.0, 1.0, None, 1.0, 1.0]})
    columns, faults = ModelColumns(model(A, B)).take(batch)
    assert faults == {
        1: "column 'a' is missing",
        2: "column 'a' is 11; expected 0 to 10",
        4: "column 'a' is inf; expected a finite number",
        5: "column 'a' is missing",
    }
    assert isinstance(columns, Block)
    np.testing.assert_array_equal(columns.matrix, [[1.0, 1.0], [2.0, np.nan]])


def test_columns_of_several_kinds_come_as_runtimes_take_them() -> None:
    batch = pa.record_batch(
        {"n": [1.0, 2.5, 3.0, 4.0], "c": pa.array(["UA", "AA", "XX", "AA"]).dictionary_encode(), "ok": [True, None, True, False]}
    )
    columns, faults = ModelColumns(model(*MIXED)).take(batch)
    assert faults == {1: "column 'n' is 2.5; expected a whole number", 2: "column 'c' is 'XX'; expected one of UA, AA"}
    assert list(columns["n"]) == [1, 4]
    assert columns["c"] == ["UA", "AA"]
    assert list(columns["ok"]) == [True, False]
    assert np.isnan(columns["d"]).all()


def test_features_that_were_looked_up_are_not_refused() -> None:
    batch = pa.record_batch({"a": pa.array([None, 99.0], pa.float64()), "b": [1.0, 2.0]})
    columns, faults = ModelColumns(model(A, B), looked_up=["a"]).take(batch)
    assert faults == {}
    assert np.isnan(columns["a"][0])


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"b": [1.0]}, ["column 'a' is missing"]),
        ({"a": ["x"]}, ["column 'a' is of type string; the model takes a double"]),
        ({"a": [datetime(2013, 1, 1, tzinfo=UTC)]}, ["column 'a' is of type timestamp[us, tz=UTC]; the model takes a double"]),
        ({"a": pa.nulls(1)}, []),
    ],
)
def test_columns_that_cannot_be_scored_are_told_before_any_row(columns: dict[str, object], says: list[str]) -> None:
    assert ModelColumns(model(A, B)).refused(pa.table(columns).schema) == says


@given(st.lists(st.one_of(st.none(), st.floats(), st.floats(-1, 11)), min_size=1, max_size=30))
def test_what_is_taken_and_what_is_refused_are_all_rows(values: list[float | None]) -> None:
    batch = pa.record_batch({"a": pa.array(values, pa.float64())})
    columns, faults = ModelColumns(model(A, B)).take(batch)
    well = [value for value in values if value is not None and 0 <= value <= 10]
    np.testing.assert_array_equal(columns["a"], well)
    assert len(well) + len(faults) == len(values)
