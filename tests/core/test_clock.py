"""Clocks: forward only, one for all processes; and times as they are written and read."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.clock import (
    EPOCH,
    ManualClock,
    SimulatedClock,
    SystemClock,
    from_micros,
    micros,
    open_clock,
    parse_moment,
    utc,
    wait_until,
)
from tidemill.core.errors import Invalid, NotFound

START = datetime(2013, 6, 1, tzinfo=UTC)
# Follows a clock until it stands at the end, and checks that no moment it saw was half of one and half of another.
FOLLOWER = """
import sys
from datetime import datetime, timedelta
from pathlib import Path
from tidemill.core.clock import SimulatedClock

clock, start, end = SimulatedClock(Path(sys.argv[1])), *map(datetime.fromisoformat, sys.argv[2:])
print("ready", flush=True)
seen = {start}
last = start
while last < end:
    now = clock.now()
    assert now >= last, (now, last)
    seen.add(now)
    last = now
assert all((moment - start) % timedelta(hours=71.6) == timedelta(0) for moment in seen)
print(len(seen))
"""


def test_the_system_clock_is_aware_and_now() -> None:
    before = datetime.now(UTC)
    clock = open_clock("system", base=Path())
    assert isinstance(clock, SystemClock)
    assert before <= clock.now() <= datetime.now(UTC)
    assert not clock.simulated


def test_a_manual_clock_moves_when_told_and_forward_only() -> None:
    clock = ManualClock(datetime(2013, 6, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now() == START
    assert clock.advance(timedelta(hours=1)) == START + timedelta(hours=1)
    with pytest.raises(Invalid, match="a clock moves forward only"):
        clock.advance(timedelta(seconds=-1))
    assert clock.now() == START + timedelta(hours=1)


def test_a_simulated_clock_lies_below_the_base_or_where_it_says(tmp_path: Path) -> None:
    SimulatedClock.create(tmp_path / "run" / "clock", START)
    relative, absolute = (open_clock(f"simulated:{place}", base=tmp_path) for place in ("run/clock", tmp_path / "run" / "clock"))
    assert relative.simulated
    assert relative.now() == absolute.now() == START


def test_a_simulated_clock_moves_forward_only(tmp_path: Path) -> None:
    clock = SimulatedClock.create(tmp_path / "clock", START)
    clock.advance_to(START)
    clock.advance_to(START + timedelta(microseconds=1))
    with pytest.raises(Invalid, match=r"a clock moves forward only: it stands at 2013-06-01 00:00:00.000001"):
        clock.advance_to(START)
    assert SimulatedClock(tmp_path / "clock").now() == START + timedelta(microseconds=1)


@pytest.mark.slow
def test_processes_see_one_clock_and_no_torn_moment(tmp_path: Path) -> None:
    clock = SimulatedClock.create(tmp_path / "clock", START)
    steps, step = 20_000, timedelta(hours=71.6)  # 2**38 microseconds, roughly: many bytes of the cell change at once
    arguments = [str(tmp_path / "clock"), START.isoformat(), (START + steps * step).isoformat()]
    with subprocess.Popen([sys.executable, "-c", FOLLOWER, *arguments], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "ready\n"
        for number in range(1, steps + 1):
            clock.advance_to(START + number * step)
        seen = int(follower.stdout.read())
    assert follower.returncode == 0
    assert seen >= 2


@pytest.mark.parametrize("source", ["", "sundial", "system:x", "simulated", "simulated:", "Simulated:x"])
def test_a_clock_that_is_not_known_is_named(source: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="is not known; expected 'system' or 'simulated:FILE'"):
        open_clock(source, base=tmp_path)


def test_a_clock_that_is_not_there_or_no_clock_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist; create it with"):
        open_clock("simulated:clock", base=tmp_path)
    (tmp_path / "clock").write_bytes(b"")
    with pytest.raises(Invalid, match="is not a simulated clock: it has 0 bytes, expected 8"):
        open_clock("simulated:clock", base=tmp_path)


ZONES = st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12, minutes=-1)), ZoneInfo("America/New_York")])


@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES))  # noqa: DTZ001 (hypothesis adds the zone)
def test_moments_survive_as_microseconds(moment: datetime) -> None:
    assert from_micros(micros(moment)) == utc(moment)
    assert from_micros(micros(moment)).tzinfo is UTC


def test_microseconds_count_from_1970() -> None:
    assert micros(EPOCH) == 0
    assert micros(EPOCH - timedelta(microseconds=1)) == -1
    assert micros(datetime(1970, 1, 2, tzinfo=UTC)) == 86_400_000_000


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2013-06-01", START),
        ("2013-06-01T00:00:00Z", START),
        ("2013-05-31T20:00:00-04:00", START),
        ("2013-06-01T00:00:00.000001+00:00", START + timedelta(microseconds=1)),
    ],
)
def test_times_are_read_as_the_standard_writes_them(text: str, moment: datetime) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize(
    ("text", "says"), [("2013-06-01T00:00:00", "has no time zone"), ("yesterday", "was not understood"), ("", "was not")]
)
def test_a_time_that_is_none_is_named(text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        parse_moment(text)


def test_waiting_ends_when_it_is_so_or_time_is_up() -> None:
    looks = iter([False, False, True])
    assert wait_until(lambda: next(looks), timeout_s=5, every_s=0)
    assert not wait_until(lambda: False, timeout_s=0)
