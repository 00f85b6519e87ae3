"""What an endpoint answered, by slots of event time: requests by variant, latencies, scores."""

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.core.clock import EPOCH, from_micros, micros
from tidemill.core.values import Value
from tidemill.core.window import Window
from tidemill.govern.workspace import Workspace
from tidemill.server.web.charts import Chart, Series, when
from tidemill.serving.config import endpoint_key
from tidemill.serving.history import read_predictions

SLOTS = 60
WIDTHS = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 180, 360, 720, 1440, 10080))
Numbers = NDArray[np.float64]


class Traffic(Value, frozen=True, kw_only=True):
    """Answers in a window. Latencies are of answers, in milliseconds; nan when there were none."""

    window: Window
    slot: timedelta
    answers: int
    shadow: int
    p50_ms: float
    p99_ms: float
    mean_score: float
    by_variant: dict[str, int]
    charts: tuple[Chart, ...]


def read_traffic(ws: Workspace, endpoint: str, window: Window) -> Traffic:
    """Return what an endpoint answered in a window of event time."""
    ws.require("serving.read", endpoint)
    table = read_predictions(ws.state, endpoint_key(ws.project, endpoint), window, objects=ws.objects)
    return summarise(table, window)


def summarise(table: pa.Table, window: Window) -> Traffic:
    """Return the traffic in a table of predictions (as `serving.history` reads them); pure."""
    slot = slot_width(window.length)
    starts = slots(window, slot)
    shadow = table["shadow"].to_numpy().astype(bool)
    told = table.filter(pa.array(~shadow))
    place = _places(told, starts, slot)
    variant = np.asarray(told["variant"].to_pylist(), dtype=object)
    latency, score = _floats(told, "latency_ms"), _floats(told, "score")
    names = sorted(set(variant.tolist()), key=_natural)
    x = when(starts)
    counts = tuple(
        Series(name=name, values=tuple(map(float, np.bincount(place[variant == name], minlength=len(starts))))) for name in names
    )
    quantiles = tuple(
        Series(name=f"p{percent:g}", values=_by_slot(place, latency, len(starts), partial(_percentile, percent)))
        for percent in (50.0, 99.0)
    )
    means = tuple(
        Series(name=name, values=_by_slot(place[variant == name], score[variant == name], len(starts), lambda part: float(np.mean(part))))
        for name in names
    )
    return Traffic(
        window=window,
        slot=slot,
        answers=told.num_rows,
        shadow=int(shadow.sum()),
        p50_ms=float(np.percentile(latency, 50)) if latency.size else math.nan,
        p99_ms=float(np.percentile(latency, 99)) if latency.size else math.nan,
        mean_score=float(np.nanmean(score)) if score.size else math.nan,
        by_variant={name: int((variant == name).sum()) for name in names},
        charts=(
            Chart(title="Answers by variant", kind="stack", x=x, series=counts, unit="answers", from_zero=True),
            Chart(title="Latency", kind="line", x=x, series=quantiles, unit="ms", from_zero=True),
            Chart(title="Mean score by variant", kind="line", x=x, series=means),
        ),
    )


def slot_width(length: timedelta) -> timedelta:
    """Return the smallest round width that cuts a span into no more than SLOTS slots."""
    return next((width for width in WIDTHS if length / width <= SLOTS), length / SLOTS)


def slots(window: Window, width: timedelta) -> list[datetime]:
    """Return the starts of the slots that cover a window, each a whole multiple of the width."""
    step = width // timedelta(microseconds=1)
    first = micros(window.start) // step * step
    return [from_micros(at) for at in range(first, micros(window.end), step)]


def _places(table: pa.Table, starts: list[datetime], width: timedelta) -> NDArray[np.int64]:
    at: NDArray[np.int64] = table["at"].cast(pa.int64()).to_numpy()
    first = (starts[0] - EPOCH) // timedelta(microseconds=1)
    return np.asarray((at - first) // (width // timedelta(microseconds=1)), dtype=np.int64)


def _by_slot(place: NDArray[np.int64], values: Numbers, count: int, reduce: Callable[[Numbers], float]) -> tuple[float | None, ...]:
    found: list[float | None] = [None] * count
    for slot in np.unique(place):
        part = values[place == slot]
        part = part[np.isfinite(part)]
        if part.size:
            found[int(slot)] = reduce(part)
    return tuple(found)


def _percentile(percent: float, values: Numbers) -> float:
    return float(np.percentile(values, percent))


def _floats(table: pa.Table, name: str) -> Numbers:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _natural(name: str) -> tuple[int, str]:
    digits = name.lstrip("v")
    return (int(digits) if digits.isdigit() else 0, name)
