"""JSON as Python's writers make it, where NaN is a word."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.errors import Invalid
from tidemill.serving.frames import read_json

TEXTS = st.text(max_size=8) | st.sampled_from(["NaN", '"NaN', "\\", 'a\\"NaN', "-Infinity", "N", "-"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


@given(value=VALUES, plain=st.booleans())
def test_nan_is_null_and_all_else_is_what_it_was(value: Any, plain: bool) -> None:
    assert read_json(json.dumps(value, ensure_ascii=plain).encode(), Any, what="body") == without_nan(value)


@given(value=VALUES, word=st.sampled_from(["Infinity", "-Infinity"]))
def test_infinity_is_refused_outside_of_texts(value: Any, word: str) -> None:
    with pytest.raises(Invalid, match=f"request holds {word}; expected finite numbers"):
        read_json(f"[{json.dumps(value)}, {word}]".encode(), Any, what="body")


@given(
    st.binary(max_size=30).map(lambda data: b'NaN"' + data)
    | st.lists(st.sampled_from([b'"', b"\\", b"NaN", b"N", b"-", b"[", b" "])).map(b"".join)
)
def test_what_is_no_json_with_or_without_nan_is_refused(data: bytes) -> None:
    try:
        expected = without_nan(json.loads(data))
    except ValueError:
        with pytest.raises(Invalid, match="body is not valid JSON"):
            read_json(data, Any, what="body")
    else:
        assert read_json(data, Any, what="body") == expected
