"""Metric histories for those who draw or read them: thinned for a chart, or whole as a stream of blocks."""

import struct
from collections.abc import Iterator, Sequence
from datetime import datetime

from tidemill.core.clock import from_micros
from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.tracking import points
from tidemill.tracking.points import Points
from tidemill.tracking.runs import find_run, metric_history

BLOCK_POINTS = 1 << 16
MOST_POINTS, MOST_RUNS = 50_000, 1000
_COUNT = struct.Struct("<I")


class Drawn(Value, frozen=True, kw_only=True):
    """The history of one run's metric, thinned. logged: how many points it has in truth. A value that is no finite number is None."""

    run: str
    logged: int
    values: tuple[float | None, ...]
    steps: tuple[int, ...]
    times: tuple[datetime, ...]


def sample_history(ws: Workspace, runs: Sequence[str], key: str, *, points: int = 2000) -> list[Drawn]:
    """Return histories of a metric, each thinned to at most some points that draw the same picture. Raises RunNotFound, Invalid."""
    if not 2 <= points <= MOST_POINTS or not 1 <= len(runs) <= MOST_RUNS:
        raise Invalid(
            f"a chart of {len(runs)} runs with {points} points is not drawn; expected 1 to {MOST_RUNS} runs, 2 to {MOST_POINTS} points"
        )
    return [_drawn(run, history, points) for run, history in _histories(ws, runs, key)]


def history_blocks(ws: Workspace, run: str, key: str) -> Iterator[bytes]:
    """Yield all points of a metric in the order logged, in blocks: how many (uint32), then as many values (float64), steps and times
    (int64, microseconds since 1970), all little-endian. NaN and infinities are what they were. Raises RunNotFound before the first.
    """
    history = metric_history(ws, run, key)
    return _blocks(history)


def _blocks(history: Points) -> Iterator[bytes]:
    for start in range(0, len(history), BLOCK_POINTS):
        part = slice(start, start + BLOCK_POINTS)
        values, steps, times = history.values[part], history.steps[part], history.times[part]
        columns = (values.astype("<f8").tobytes(), steps.astype("<i8").tobytes(), times.astype("<i8").tobytes())
        yield b"".join((_COUNT.pack(len(values)), *columns))


def _histories(ws: Workspace, runs: Sequence[str], key: str) -> Iterator[tuple[str, Points]]:
    ws.require("tracking.read")
    with ws.catalog.reading() as tx:
        for run in dict.fromkeys(runs):
            yield run, points.read_points(tx, find_run(tx, ws.project, run, deleted=True).no, key)


def _drawn(run: str, history: Points, count: int) -> Drawn:
    thin = points.sample(history, count)
    return Drawn(
        run=run,
        logged=len(history),
        values=tuple(value if abs(value) < float("inf") else None for value in thin.values.tolist()),
        steps=tuple(thin.steps.tolist()),
        times=tuple(from_micros(at) for at in thin.times.tolist()),
    )
