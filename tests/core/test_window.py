"""Spans of event time hold their start and not their end."""

from datetime import UTC, datetime, timedelta

import pytest

from tidemill.core.errors import Invalid
from tidemill.core.window import Window

START = datetime(2013, 6, 1, tzinfo=UTC)


def test_a_window_holds_its_start_and_not_its_end() -> None:
    window = Window(start=START, end=START + timedelta(hours=1))
    assert window.length == timedelta(hours=1)
    assert [window.contains(START + timedelta(minutes=minutes)) for minutes in (-1, 0, 59, 60)] == [False, True, True, False]


@pytest.mark.parametrize("length", [timedelta(0), timedelta(hours=-1)])
def test_a_window_ends_after_it_starts(length: timedelta) -> None:
    with pytest.raises(Invalid, match="window must end after it starts, got 2013-06-01"):
        Window(start=START, end=START + length)


def test_a_window_without_a_zone_is_refused() -> None:
    with pytest.raises(Invalid, match="has no time zone"):
        Window(start=datetime(2013, 6, 1), end=datetime(2013, 6, 2))  # noqa: DTZ001 (the fault that is tested)
