"""Intervals by resampling, for statistics that have no formula."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from tidemill.core.errors import Invalid
from tidemill.stats.arrays import AnyArray, EmptyWindow, check_level
from tidemill.stats.scores import Interval


def bootstrap_interval(
    statistic: Callable[..., float],
    samples: Sequence[ArrayLike],
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Return statistic(*samples) with its percentile bootstrap interval.

    samples: arrays of one length n >= 1 whose rows belong together and are drawn together, with replacement. Rows must be
    exchangeable; dependent rows (a time series) make it too narrow. What statistic raises on a resample goes to the caller.
    Raises EmptyWindow. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    arrays: list[AnyArray] = [np.asarray(sample) for sample in samples]
    if not arrays or arrays[0].shape[0] == 0:
        raise EmptyWindow("the sample")
    size = arrays[0].shape[0]
    if any(array.shape[0] != size for array in arrays):
        raise Invalid(
            f"samples differ in length ({', '.join(str(array.shape[0]) for array in arrays)}); expected rows that belong together"
        )
    draws = np.empty(resamples)
    for index in range(resamples):
        rows = rng.integers(0, size, size)
        draws[index] = statistic(*(array[rows] for array in arrays))
    tail = (1.0 - check_level(level)) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Interval(
        estimate=float(statistic(*arrays)),
        low=float(low),
        high=float(high),
        level=level,
        variance=float(draws.var(ddof=1)) if resamples > 1 else None,
    )
