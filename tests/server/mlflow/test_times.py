"""Moments and durations as protobuf's JSON writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.clock import from_micros
from tidemill.core.errors import Invalid
from tidemill.server.mlflow.times import duration, read_duration, read_timestamp, timestamp
from tidemill.server.mlflow.wire import millis


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_moments_come_back(since_1970_ms: int) -> None:
    moment = from_micros(since_1970_ms * 1000)
    assert millis(read_timestamp(timestamp(since_1970_ms, moment))) == since_1970_ms


@given(st.integers(-315_576_000_000_999, 315_576_000_000_999))
def test_durations_come_back(span_ms: int) -> None:
    assert read_duration(duration(span_ms)) == span_ms


@pytest.mark.parametrize(
    ("text", "span_ms"), [("1s", 1000), ("1.5s", 1500), ("0.001s", 1), ("-0.25s", -250), ("3.000000001s", 3000), ("0s", 0)]
)
def test_durations_are_read(text: str, span_ms: int) -> None:
    assert read_duration(text) == span_ms


@pytest.mark.parametrize(("text", "since_1970_ms"), [("1970-01-01T00:00:01.5Z", 1500), ("1970-01-01T01:00:00.123456789+01:00", 123)])
def test_moments_are_read(text: str, since_1970_ms: int) -> None:
    assert millis(read_timestamp(text)) == since_1970_ms


@pytest.mark.parametrize("text", ["", "1", "s", "1.s", "1.0000000001s", "1e3s", "one second", "315576000001s", "9" * 5000 + "s"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(Invalid, match=r"was not understood; expected seconds such as 1\.5s"):
        read_duration(text)
