"""Spans of event time."""

from datetime import datetime, timedelta

from tidemill.core.clock import utc
from tidemill.core.errors import Invalid
from tidemill.core.values import Value


class Window(Value, frozen=True, kw_only=True):
    """Half-open span of event time: start <= t < end, both aware and UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if utc(self.end) <= utc(self.start):
            raise Invalid(f"window must end after it starts, got {self.start} .. {self.end}")

    @property
    def length(self) -> timedelta:
        return self.end - self.start

    def contains(self, moment: datetime) -> bool:
        return self.start <= moment < self.end
