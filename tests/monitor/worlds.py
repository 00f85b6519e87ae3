"""Windows of a small flight service: features, scores that are right about the odds, outcomes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.core.clock import micros
from tidemill.core.window import Window
from tidemill.monitor.evaluate import Sample

START = datetime(2013, 1, 7, tzinfo=UTC)
WEEK = timedelta(days=7)


def week(number: int) -> Window:
    return Window(start=START + number * WEEK, end=START + (number + 1) * WEEK)


def rows(
    count: int = 1000,
    *,
    seed: int = 0,
    start: datetime = START,
    length: timedelta = WEEK,
    wind: float = 10.0,
    carriers: tuple[float, float, float] = (0.5, 0.3, 0.2),
    missing_rain: float = 0.1,
    skill: float = 1.0,
    boast: float = 1.0,
) -> pa.Table:
    """Rows evenly over a span. skill 0: the score says nothing of the outcome; boast: its log odds are stretched by that."""
    rng = np.random.default_rng(seed)
    blown, rain = rng.normal(wind, 3, count), np.where(rng.random(count) < missing_rain, np.nan, rng.exponential(1, count))
    odds = 0.6 * (blown - 10) - 1
    truth = rng.random(count) < 1 / (1 + np.exp(-odds))
    said = skill * odds + (1 - skill) * rng.permutation(odds)
    return pa.table(
        {
            "id": [f"{seed}-{number}" for number in range(count)],
            "at": pa.array([start + length * (number / count) for number in range(count)], pa.timestamp("us", tz="UTC")),
            "wind": blown,
            "rain": pa.array([None if np.isnan(each) else each for each in rain], pa.float64()),
            "carrier": rng.choice(["AA", "B6", "UA"], count, p=carriers),
            "score": 1 / (1 + np.exp(-boast * said)),
            "late": truth,
        }
    )


def sample(table: pa.Table, *, labels: bool = True) -> Sample:
    late = table["late"].to_numpy().astype(float)
    times = np.array([micros(moment) for moment in table["at"].to_pylist()], dtype=np.int64)
    features = table.select([name for name in table.column_names if name not in ("id", "at", "score", "late")])
    return Sample(features, table["score"].to_numpy(), late if labels else np.full(late.size, np.nan), times)


def reference_rows(weeks: int = 8, **changes: Any) -> pa.Table:
    """Weeks that differ a little from one another, as weeks do."""
    return pa.concat_tables(
        [
            rows(seed=100 + number, start=START + (number - weeks) * WEEK, wind=10 + 0.5 * (-1) ** number, **changes)
            for number in range(weeks)
        ]
    )
