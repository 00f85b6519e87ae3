"""Summaries of spans of values: the one arithmetic behind history and the online store, so that both give the same bits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tidemill.features.views import AggregateFunction

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_EXACT = 2.0**53


def summarise(function: AggregateFunction, values: Floats | None, starts: Ints, ends: Ints) -> Floats:
    """Return function over values[starts[i]:ends[i]] for each i; NaN values do not count.

    starts <= ends, both (m,), in any order. values None counts rows. An empty span gives count 0, sum 0, else NaN.
    The result of a span depends on the values in it and on their order, never on where the span lies: sums of whole
    numbers are exact, all other sums are added in one fixed order (numpy's pairwise one).
    """
    if values is None:
        return (ends - starts).astype(np.float64)
    present = ~np.isnan(values)
    whole = bool(present.all())
    counts = (ends - starts).astype(np.float64) if whole else _differences(present.astype(np.float64), starts, ends)
    if function == "count":
        return counts
    if function in ("min", "max"):
        limit = np.inf if function == "min" else -np.inf
        reduce = np.minimum if function == "min" else np.maximum
        found = _reduce_spans(reduce, values if whole else np.where(present, values, limit), starts, ends)
        return np.where(counts > 0, found + 0.0, np.nan)  # (no negative zero: which of two zeros came first is not to matter)
    sums = _sums(values if whole else np.where(present, values, 0.0), starts, ends)
    if function == "sum":
        return sums
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = sums / counts
    return means


def canonical_order(times: Ints, columns: Sequence[Floats | Ints]) -> Ints:
    """Return the order in which events are summed: by time, and events of one time by their values.

    Ordering ties by value makes a sum independent of the order in which events arrived.
    """
    return np.lexsort([*reversed(columns), times])


def _sums(values: Floats, starts: Ints, ends: Ints) -> Floats:
    # Sums of whole numbers below 2^53 are exact in any order, so differences of running sums equal sums: much faster for long windows.
    if starts.size > 256 and np.isfinite(values).all() and (values == np.rint(values)).all() and np.abs(values).sum() < _EXACT:
        return _differences(values, starts, ends)
    return np.where(ends > starts, _reduce_spans(np.add, values, starts, ends), 0.0) + 0.0  # (no negative zero)


def _differences(values: Floats, starts: Ints, ends: Ints) -> Floats:
    running = np.concatenate([[0.0], np.cumsum(values)])
    found: Floats = running[ends] - running[starts]
    return found


def _reduce_spans(reduce: np.ufunc, values: Floats, starts: Ints, ends: Ints) -> Floats:
    """Return reduce over each span; what an empty span gives is for the caller to replace."""
    if starts.size == 0:
        return np.empty(0)
    # reduceat also reduces the gap between one span's end and the next one's start; in ascending order all gaps together
    # are no longer than the array.
    if (starts[1:] >= starts[:-1]).all():
        return _reduce_ascending(reduce, values, starts, ends)
    order = np.lexsort((ends, starts))
    starts, ends = starts[order], ends[order]
    fresh = np.ones(order.size, dtype=np.bool_)  # equal spans are reduced once
    fresh[1:] = (starts[1:] != starts[:-1]) | (ends[1:] != ends[:-1])
    found = np.empty(order.size)
    found[order] = _reduce_ascending(reduce, values, starts[fresh], ends[fresh])[np.cumsum(fresh) - 1]
    return found


def _reduce_ascending(reduce: np.ufunc, values: Floats, starts: Ints, ends: Ints) -> Floats:
    edges = np.empty(2 * starts.size, dtype=np.int64)
    edges[::2], edges[1::2] = starts, ends
    padded = np.empty(values.size + 1)  # so that a span may end behind the last value
    padded[:-1], padded[-1] = values, 0.0
    with np.errstate(invalid="ignore"):
        reduced: Floats = reduce.reduceat(padded, edges)[::2]
    return reduced
