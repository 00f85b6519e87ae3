"""Metric points in memory, a column a key, until they are taken. On the path of every step of a training, so it does little."""

import operator
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from threading import Lock
from typing import Any, NamedTuple

from tidemill.core.clock import wall_micros
from tidemill.core.errors import Invalid
from tidemill.core.ids import check_key

LARGEST_STEP = 2**63 - 1
# What one request carries at most: 64 Ki points are 2 MB as JSON; a key's name and frame weigh about as much as five points.
BATCH_POINTS = 1 << 16
KEY_POINTS = 5


class MetricRefused(Invalid):
    """What was logged as a metric is no number."""

    def __init__(self, key: str, value: Any, advice: str) -> None:
        self.key, self.kind = key, type(value).__name__
        shown = repr(value)
        shown = shown if len(shown) <= 60 and "\n" not in shown else ""
        super().__init__(
            f"metric {key!r} is of type {self.kind}{f' ({shown})' if shown else ''}; {advice}; nothing of this call was logged"
        )


class Column(NamedTuple):
    """The points of one key."""

    values: "array[float]"
    steps: "array[int]"
    times: "array[int]"

    def part(self, start: int, end: int) -> "Column":
        """Return the points of some positions."""
        return Column(self.values[start:end], self.steps[start:end], self.times[start:end])

    def even(self) -> int:
        """Cut off what has no counterpart in the other columns; return how many points there are."""
        whole = min(len(self.values), len(self.steps), len(self.times))
        del self.values[whole:], self.steps[whole:], self.times[whole:]
        return whole


class Taken(NamedTuple):
    """Part of one key's points as the wire has them: little-endian float64, int64, int64 microseconds."""

    key: str
    values: bytes
    steps: bytes
    times: bytes


class Columns:
    """Points by key in the order in which they were logged. Safe from several threads.

    A call of `add` is taken whole or not at all. A step that is not given is one more than the key's last.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lock = Lock()
        self._columns: dict[str, Column] = {}
        # The three `append`s of each column, looked up once: half of what a point costs.
        self._puts: dict[str, tuple[Callable[[float], None], Callable[[int], None], Callable[[int], None]]] = {}
        self._steps: dict[str, int] = {}
        self._values: dict[str, float] = {}

    def add(self, metrics: Mapping[str, Any], step: Any = None) -> int:
        """Add one point a key; return how many points wait now. Raises Invalid, MetricRefused."""
        if step is not None and (step.__class__ is not int or not -LARGEST_STEP <= step <= LARGEST_STEP):
            step = _step(step)
        at = wall_micros()
        with self._lock:
            puts = self._puts
            for key, value in metrics.items():
                if key not in puts:
                    self._open(key)
                if value.__class__ is not float:
                    metrics = {key: number(key, value) for key, value in metrics.items()}
                    for name in metrics:
                        if name not in puts:
                            self._open(name)
                    break
            try:
                if step is None:
                    self._put_next(metrics, at)
                else:
                    for key, value in metrics.items():
                        put_value, put_step, put_time = puts[key]
                        put_value(value)
                        put_step(step)
                        put_time(at)
            except BaseException:  # Ctrl-C, between two appends
                self._even()
                raise
            self.count += len(metrics)
            return self.count

    def resume(self, steps: Mapping[str, int]) -> None:
        """Let steps that are not given go on behind these."""
        with self._lock:
            self._steps.update(steps)

    def latest(self) -> dict[str, float]:
        """Return the newest value of each key."""
        with self._lock:
            return {**self._values, **{key: column.values[-1] for key, column in self._columns.items() if column.values}}

    def take(self) -> Iterator[list[Taken]]:
        """Take all points away; yield them in batches of at most BATCH_POINTS, each key's in order."""
        with self._lock:
            columns, self._columns, self._puts, self.count = self._columns, {}, {}, 0
            for key, column in columns.items():
                if column.steps:
                    self._steps[key], self._values[key] = column.steps[-1], column.values[-1]
        batch: list[Taken] = []
        room = BATCH_POINTS
        for key, column in columns.items():
            for start in count(0, BATCH_POINTS):
                part = column.part(start, start + BATCH_POINTS)
                if not part.values:
                    break
                if batch and len(part.values) + KEY_POINTS > room:
                    yield batch
                    batch, room = [], BATCH_POINTS
                batch.append(Taken(key, _little(part.values), _little(part.steps), _little(part.times)))
                room -= len(part.values) + KEY_POINTS
        if batch:
            yield batch

    def _open(self, key: str) -> None:
        if not isinstance(key, str):
            raise Invalid(f"metric key {key!r} is not usable; expected text, such as 'loss' or 'valid/auc'")
        check_key("metric", key)
        column = Column(array("d"), array("q"), array("q"))
        self._columns[key] = column
        self._puts[key] = (column.values.append, column.steps.append, column.times.append)

    def _put_next(self, metrics: Mapping[str, float], at: int) -> None:
        for key, value in metrics.items():
            values, steps, times = self._columns[key]
            following = (steps[-1] if steps else self._steps.get(key, -1)) + 1
            values.append(value)
            steps.append(following)
            times.append(at)

    def _even(self) -> None:
        self.count = sum([column.even() for column in self._columns.values()])


def number(key: str, value: Any) -> float:
    """Return a metric's value: of numbers, and of scalars of numpy, torch and the like. NaN and infinities stay. Raises MetricRefused."""
    given = value
    if not isinstance(value, int | float):
        take = getattr(value, "item", None)
        if callable(take):
            try:
                value = take()
            except (TypeError, ValueError, RuntimeError):
                raise MetricRefused(key, given, "log one number, such as the mean of these: value.mean()") from None
        elif hasattr(value, "__float__"):
            value = float(value)
    if not isinstance(value, int | float):
        advice = (
            "convert it with float(value), or log it with run.tag" if isinstance(value, str) else "log a number; leave out what has none"
        )
        raise MetricRefused(key, given, advice)
    try:
        return float(value)
    except OverflowError:
        raise MetricRefused(key, given, "no float is that large; log its logarithm, or a smaller unit") from None


def _step(step: Any) -> int:
    try:
        found = operator.index(step)
    except TypeError:
        found = None
    if found is None or abs(found) > LARGEST_STEP:
        raise Invalid(f"step {step!r} is not usable; expected a whole number of at most 63 bits, such as the number of the batch")
    return found


def _little(column: "array[Any]") -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()
