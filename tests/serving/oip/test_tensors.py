"""Raw tensors: what goes out comes in again, and bytes that lie are refused in one sentence."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tidemill.core.errors import Invalid
from tidemill.serving.oip.tensors import DATATYPES, read_raw, write_raw

KINDS = {
    "INT8": "i1", "INT16": "i2", "INT32": "i4", "INT64": "i8", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8",
    "FP16": "f2", "FP32": "f4", "FP64": "f8", "BOOL": "?",
}  # fmt: skip


@given(st.data(), st.sampled_from(sorted(KINDS)), st.integers(0, 20), st.integers(1, 3))
def test_numbers_round_trip(data: st.DataObject, datatype: str, rows: int, width: int) -> None:
    values = data.draw(arrays(KINDS[datatype], rows * width))
    raw = write_raw(datatype, values)
    found = read_raw("x", datatype, [rows, width], raw)
    assert found.dtype == np.dtype(KINDS[datatype])
    assert raw == values.astype(np.dtype(KINDS[datatype]).newbyteorder("<")).tobytes()
    np.testing.assert_array_equal(found, values)


@given(st.lists(st.text()))
def test_texts_round_trip(texts: list[str]) -> None:
    raw = write_raw("BYTES", texts)
    assert raw == b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    assert read_raw("x", "BYTES", [len(texts)], memoryview(raw)) == texts


@given(arrays("f4", st.integers(0, 20), elements=st.floats(width=32)))
def test_bfloat16_keeps_the_nearest(values: np.ndarray) -> None:
    found = read_raw("x", "BF16", [len(values)], write_raw("BF16", values))
    again = read_raw("x", "BF16", [len(values)], write_raw("BF16", found))
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
    small = np.abs(values) < 3e38  # beyond it the nearest may be infinity
    np.testing.assert_allclose(found[small], values[small], rtol=2**-8, atol=1e-38)


def test_bfloat16_rounds_ties_to_even() -> None:
    assert read_raw("x", "BF16", [3], write_raw("BF16", [1 + 2**-8, 1 + 3 * 2**-8, np.inf])).tolist() == [1.0, 1 + 2**-6, np.inf]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP32", [2], bytes(7), r"'x' has 7 bytes of data; its shape \[2\] of FP32 says 8"),
        ("FP32", [2**40, 2**40], bytes(8), "says 4835703278458516698824704"),
        ("FP32", [-1, -2], bytes(8), r"has the shape \[-1, -2\]; expected at most 8 numbers of 0 or more"),
        ("FP32", [-1, 0], b"", "numbers of 0 or more"),
        ("FP32", [2**62] * 10**6, b"", "and more; expected at most 8 numbers"),
        ("FP8", [1], bytes(1), "datatype 'FP8'; expected one of BF16, BOOL, FP16"),
        ("BOOL", [2], b"\1\2", "holds the byte 2; expected 0 or 1"),
        ("BYTES", [1], b"\1\0", "ends within the length of value 0"),
        ("BYTES", [2], b"\0\0\0\0\5\0\0\0ab", "says that value 1 has 5 bytes; 2 follow"),
        ("BYTES", [1], b"\xff\xff\xff\xff", "has 4294967295 bytes; 0 follow"),
        ("BYTES", [2], b"\1\0\0\0a", "holds 1; its shape says 2 values"),
        ("BYTES", [1], bytes(8), "holds 4 bytes more; its shape says 1 values"),
        ("BYTES", [1], b"\1\0\0\0\xff", "value 0 that is not UTF-8"),
    ],
)
def test_bytes_that_lie_are_refused(datatype: str, shape: list[int], data: bytes, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        read_raw("x", datatype, shape, data)


@given(st.sampled_from(DATATYPES), st.lists(st.integers(-2, 5), max_size=3), st.binary(max_size=40))
def test_any_bytes_are_values_or_refused(datatype: str, shape: list[int], data: bytes) -> None:
    try:
        found = read_raw("x", datatype, shape, data)
    except Invalid:
        return
    assert len(found) == np.prod(shape, dtype=int)
    if datatype != "BF16":  # whose NaNs may come out as others
        assert write_raw(datatype, found) == data
