"""Rows as they are sent: what goes as tensors, what as JSON, and that nothing changes on the way."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.client.tables import TENSOR_ROWS, Records, Tensors, read_rows
from tidemill.core.errors import Invalid


def names() -> tuple[str, ...]:
    return "a", "b"


def filled(*values: Any) -> list[Any]:
    """Return a column long enough to go as a tensor, that ends in some values."""
    return [values[0]] * TENSOR_ROWS + list(values)


@pytest.mark.parametrize(
    ("column", "datatype", "last"),
    [
        (pa.array(filled(1.5, 2.5)), "FP64", 2.5),
        (pa.array(filled(1.5, 2.5), pa.float32()), "FP32", 2.5),
        (pa.array(filled(1, -2), pa.int8()), "INT64", -2),
        (pa.array(filled(1, None, 2)), "FP64", 2.0),
        (pa.array(filled(True, False)), "BOOL", False),
        (pa.array(filled("ä", "b")), "BYTES", "b"),
        (pa.array(filled("ä", "b")).dictionary_encode(), "BYTES", "b"),
    ],
)
def test_columns_of_a_table_become_tensors(column: Any, datatype: str, last: Any) -> None:
    found = read_rows(pa.table({"c": column}), names)
    assert isinstance(found, Tensors)
    told, values = found.columns["c"]
    assert (told, values[-1]) == (datatype, last)


@pytest.mark.parametrize(
    "column",
    [filled("a", None), filled(True, None), filled(2**62 + 1, None), pa.array(filled(2**63), pa.uint64()), filled([1.0])],
)
def test_what_tensors_cannot_say_goes_as_json(column: Any) -> None:
    found = read_rows(pa.table({"c": column}), names)
    assert isinstance(found, Records)
    assert found.rows[-1] == {"c": pa.table({"c": column})["c"][-1].as_py()}


def test_an_array_has_the_columns_of_the_endpoint() -> None:
    found = read_rows(np.array([[1, 2], [3, 4]], np.int32), names)
    assert isinstance(found, Tensors)
    assert {name: (datatype, values.tolist()) for name, (datatype, values) in found.columns.items()} == {
        "a": ("INT64", [1, 3]), "b": ("INT64", [2, 4]),
    }  # fmt: skip
    assert read_rows(np.array([["x", 1]], object), names) == Records([{"a": "x", "b": 1}])
    for shape in ((2,), (2, 3), (1, 2, 1)):
        with pytest.raises(Invalid, match=r"expected \[n, 2\], with the columns a, b"):
            read_rows(np.zeros(shape), names)


@given(st.lists(st.tuples(st.text(), st.floats(width=32)), min_size=TENSOR_ROWS, max_size=TENSOR_ROWS + 5))
def test_raw_bytes_are_those_of_the_protocol(rows: list[tuple[str, float]]) -> None:
    found = read_rows(pa.table({"t": [text for text, _ in rows], "f": pa.array([value for _, value in rows], pa.float32())}), names)
    assert isinstance(found, Tensors)
    body, headers = found.body(1, len(rows), ["x"], None)
    head = int(headers["Inference-Header-Content-Length"])
    told = json.loads(body[:head])
    texts, floats = (tensor["parameters"]["binary_data_size"] for tensor in told["inputs"])
    assert len(body) == head + texts + floats
    np.testing.assert_array_equal(np.frombuffer(body[head + texts :], "<f4"), np.array([value for _, value in rows[1:]], np.float32))
    raw, place = body[head : head + texts], 0
    for text, _ in rows[1:]:
        length = int.from_bytes(raw[place : place + 4], "little")
        assert raw[place + 4 : place + 4 + length].decode() == text
        place += 4 + length
    assert place == texts


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (5, "rows of type int were not understood; expected a dict, a list of dicts"),
        ("text", "rows of type str were not understood"),
        ([{"a": 1}, 2], "rows of type list were not understood"),
    ],
)
def test_what_is_no_rows_is_refused(rows: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        read_rows(rows, names)


def test_values_that_json_cannot_say_are_named() -> None:
    with pytest.raises(Invalid, match="row 1: column 'b' holds a value of type object; expected a number"):
        Records([{"a": 1}, {"b": object()}]).body(0, 2, ["x", "y"], None)
    body, _ = Records([{"a": np.float32(0.5), "b": np.bool_(True)}]).body(0, 1, ["x"], None)
    assert json.loads(body) == {"rows": [{"a": 0.5, "b": True}], "ids": ["x"]}
