"""Splitting by time."""

from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.training import worlds
from tidemill.core.errors import Invalid
from tidemill.training.splits import split_by_time


def test_the_last_span_is_held_out_and_nothing_is_lost() -> None:
    table = worlds.flights(100)
    before, after = split_by_time(table, timestamp="at", last=timedelta(hours=20))
    assert (before.num_rows, after.num_rows) == (80, 20)
    assert pc.max(before["at"]).as_py() < pc.min(after["at"]).as_py()
    assert pa.concat_tables([before, after]).equals(table)


@pytest.mark.parametrize("last", [timedelta(0), timedelta(days=900)])
def test_an_empty_side_is_refused(last: timedelta) -> None:
    with pytest.raises(Invalid, match="one side would be empty"):
        split_by_time(worlds.flights(50), timestamp="at", last=last)


def test_no_rows_cannot_be_split() -> None:
    with pytest.raises(Invalid, match="0 rows cannot be split"):
        split_by_time(worlds.flights(50).slice(0, 0), timestamp="at", last=timedelta(1))


def test_a_column_that_is_no_moment_is_refused() -> None:
    table = worlds.flights(10)
    with pytest.raises(Invalid, match="no column 'when'"):
        split_by_time(table, timestamp="when", last=timedelta(1))
    with pytest.raises(Invalid, match="moment with a time zone"):
        split_by_time(table, timestamp="wind", last=timedelta(1))
    naive = pa.table({"at": pa.array([datetime(2013, 1, 1)], pa.timestamp("us"))})  # noqa: DTZ001
    with pytest.raises(Invalid, match="moment with a time zone"):
        split_by_time(naive, timestamp="at", last=timedelta(1))
