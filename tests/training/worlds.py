"""A table of flights that are late for reasons a model can learn."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

START = datetime(2013, 1, 1, tzinfo=UTC)
NUMERIC = ("wind", "hour", "rain")
CATEGORICAL = ("carrier", "dest")


def flights(rows: int = 4000, *, seed: int = 0) -> pa.Table:
    """Rows an hour apart. Late when it is windy, late in the day, with some carriers; rain is often unknown."""
    rng = np.random.default_rng(seed)
    wind, hour, carrier = rng.gamma(2, 5, rows), rng.integers(5, 24, rows), rng.integers(0, 4, rows)
    odds = 0.12 * (wind - 10) + 0.15 * (hour - 14) + np.array([-1.0, 0.0, 0.5, 1.0])[carrier]
    rain = np.where(rng.random(rows) < 0.3, np.nan, rng.exponential(1, rows).round(2))
    return pa.table(
        {
            "at": pa.array([START + timedelta(hours=n) for n in range(rows)], pa.timestamp("us", tz="UTC")),
            "wind": wind,
            "hour": hour,
            "rain": pa.array([None if np.isnan(value) else value for value in rain]),
            "carrier": pa.array(np.array(["9E", "AA", "B6", "UA"])[carrier]),
            "dest": pa.array([None if n % 50 == 0 else f"D{n % 20:02}" for n in range(rows)]),
            "late": rng.random(rows) < 1 / (1 + np.exp(-odds)),
        }
    )
