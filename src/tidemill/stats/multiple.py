"""Many tests at once: keep the share of false discoveries in bounds."""

import numpy as np
from numpy.typing import ArrayLike

from tidemill.core.errors import Invalid
from tidemill.stats.arrays import FloatArray


def benjamini_hochberg(p_values: ArrayLike) -> FloatArray:
    """Return adjusted p-values: rejecting those <= q keeps the expected share of false discoveries <= q.

    p_values (n,): each in [0, 1], n >= 0; holds for independent or positively dependent tests. The order is kept.
    Source: Benjamini and Hochberg, Journal of the Royal Statistical Society B 57(1), 1995.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise Invalid("p-values must be one row of numbers between 0 and 1")
    order = np.argsort(values, kind="stable")
    ranked = values[order] * values.size / np.arange(1, values.size + 1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(ranked[::-1])[::-1])
    return adjusted
