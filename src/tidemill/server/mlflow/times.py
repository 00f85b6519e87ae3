"""Moments and durations as protobuf's JSON writes them. Source: protobuf.dev, JSON mapping of Timestamp and Duration."""

import re
from datetime import datetime

from tidemill.core.clock import parse_moment
from tidemill.core.errors import Invalid

_FRACTION = re.compile(r"(\.\d{6})\d+")
_LONGEST_S = 315_576_000_000  # ten thousand years, as protobuf has it
_DURATION = re.compile(r"(-?)(\d+)(?:\.(\d{1,9}))?s")


def timestamp(since_1970_ms: int, moment: datetime) -> str:
    """Return a moment as text, with milliseconds when it has some."""
    text = moment.isoformat()[:19]
    rest = since_1970_ms % 1000
    return f"{text}.{rest:03d}Z" if rest else f"{text}Z"


def read_timestamp(text: str) -> datetime:
    """Return the moment that a text means, to a millisecond. Raises Invalid."""
    moment = parse_moment(_FRACTION.sub(r"\1", text))
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def duration(span_ms: int) -> str:
    """Return a span of milliseconds as text."""
    sign, (seconds, rest) = "-" if span_ms < 0 else "", divmod(abs(span_ms), 1000)
    return f"{sign}{seconds}.{rest:03d}s" if rest else f"{sign}{seconds}s"


def read_duration(text: str) -> int:
    """Return the milliseconds that a text means. Raises Invalid."""
    match = _DURATION.fullmatch(text)
    if match is None or int(match[2][:20]) > _LONGEST_S:
        raise Invalid(f"duration {text[:80]!r} was not understood; expected seconds such as 1.5s, at most {_LONGEST_S}")
    span_ms = int(match[2]) * 1000 + int((match[3] or "").ljust(3, "0")[:3])
    return -span_ms if match[1] else span_ms
