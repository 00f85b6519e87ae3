"""Data that a run read: the same content has the same digest, another has another."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tidemill.client.contents import describe, json_bytes
from tidemill.core.errors import Invalid

ROWS = {"a": [1, 2, 3], "b": ["x", "y", None]}


def test_the_digest_is_of_the_content_whatever_holds_it() -> None:
    table = pa.table(ROWS)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    digests = {describe(data).digest for data in (table, chunked, ROWS, table.to_pylist())}
    assert len(digests) == 1
    assert len(digests.pop()) == 32
    assert describe(pd.DataFrame(ROWS)).digest == describe(pd.DataFrame(ROWS)).digest


@pytest.mark.parametrize(
    "other",
    [{"a": [1, 2, 4], "b": ["x", "y", None]}, {"a": [1, 2], "b": ["x", "y"]}, {"b": ["x", "y", None], "a": [1, 2, 3]},
     {"a": [1.0, 2.0, 3.0], "b": ["x", "y", None]}, {"c": [1, 2, 3], "b": ["x", "y", None]}],
)  # fmt: skip
def test_other_content_has_another(other: dict[str, list[object]]) -> None:
    assert describe(pa.table(other)).digest != describe(pa.table(ROWS)).digest


def test_arrays_count_with_type_and_shape() -> None:
    zeros = np.zeros((4, 2))
    assert describe(zeros).rows == 4
    assert describe(zeros).schema == {"values": "float64[4, 2]"}
    assert len({describe(data).digest for data in (zeros, zeros.reshape(2, 4), zeros.astype(np.float32), zeros + 1)}) == 4


def test_what_is_no_data_is_told_so() -> None:
    with pytest.raises(Invalid, match="a int is no table; expected a frame of pandas"):
        describe(3)
    with pytest.raises(Invalid, match="could not be read as a table"):
        describe({"a": [1, 2], "b": [1]})


def test_json_takes_what_programs_hold() -> None:
    assert json_bytes({"a": np.float32(0.5), "t": pd.Timestamp("2013-06-01"), "n": {2: float("inf")}, "s": {1}}) == (
        b'{\n  "a": 0.5,\n  "t": "2013-06-01T00:00:00",\n  "n": {\n    "2": null\n  },\n  "s": [\n    1\n  ]\n}'
    )
