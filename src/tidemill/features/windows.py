"""Summaries of spans of values: the one arithmetic behind history and the online store, so that both give the same bits."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from math import floor, nan

import numpy as np
from numpy.typing import NDArray

from tidemill.features.views import AggregateFunction

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PORTION = 1 << 22
FEW = 8  # so many are added without numpy: of more, reduceat adds some beside others
_FIRST = np.zeros(1, dtype=np.int64)
_EXACT = 2.0**53


def summarise(
    function: AggregateFunction,
    values: Floats | None,
    starts: Ints,
    ends: Ints,
    *,
    quantile: float | None = None,
    times: Ints | None = None,
    moments: Ints | None = None,
) -> Floats:
    """Return function over values[starts[i]:ends[i]] for each i; NaN values do not count.

    starts <= ends, both (m,), in any order. values None counts rows. An empty span gives count, distinct and sum 0, else NaN. For
    time_since: times of the values and moments (m,) of the spans, in microseconds; the result is in seconds.
    The result of a span depends on the values in it and on their order, never on where the span lies: sums of whole
    numbers are exact, all other sums are added in one fixed order (numpy's pairwise one).
    """
    if function in ("last", "time_since"):
        places = _last_places(values, starts, ends)
        there = places >= 0
        if function == "last":
            assert values is not None, "a view says which column"
            return _taken(values, places, there)
        assert times is not None, "time_since is told the times"
        assert moments is not None, "time_since is told the moments"
        ages = np.full(places.size, np.nan)
        ages[there] = (moments[there] - times[places[there]]) / 1e6
        return ages
    if values is None:
        return (ends - starts).astype(np.float64)
    if function == "quantile":
        assert quantile is not None, "a view says which quantile"
        return _quantiles(values, starts, ends, quantile)
    if function == "distinct":
        return _distinct(values, starts, ends)
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


def summarise_ends(
    function: AggregateFunction,
    values: Floats | list[float],
    starts: Sequence[int],
    *,
    quantile: float | None,
    times: Sequence[int],
    moment: int,
) -> list[float]:
    """Return what `summarise` says of values[start:] for each start, bit for bit: sooner, for the spans of one entity at one moment.

    values: at most FEW as a list, or an array. times: of the values, in microseconds; moment: that of all spans.
    """
    if function in ("last", "time_since"):
        there = (
            np.flatnonzero(values == values) if isinstance(values, np.ndarray) else [n for n, value in enumerate(values) if value == value]
        )
        if not len(there):
            return [nan] * len(starts)
        place = int(there[-1])
        told = float(values[place]) + 0.0 if function == "last" else (moment - times[place]) / 1e6
        return [told if place >= start else nan for start in starts]
    if isinstance(values, list):
        return [_of_few(function, values[start:], quantile) for start in starts]
    if function in ("quantile", "distinct"):
        ends = np.full(len(starts), values.size)
        found: list[float] = summarise(function, values, np.array(starts), ends, quantile=quantile).tolist()
        return found
    present = ~np.isnan(values)
    whole = bool(np.logical_and.reduce(present))
    counts = [values.size - start if whole else int(np.count_nonzero(present[start:])) for start in starts]
    if function == "count":
        return [float(count) for count in counts]
    if function in ("min", "max"):
        reduce, limit = (np.minimum, np.inf) if function == "min" else (np.maximum, -np.inf)
        values = values if whole else np.where(present, values, limit)
        return [float(reduce.reduce(values[start:])) + 0.0 if count else nan for start, count in zip(starts, counts, strict=True)]
    values = values if whole else np.where(present, values, 0.0)
    with np.errstate(invalid="ignore"):
        sums = [float(np.add.reduceat(values[start:], _FIRST)[0]) + 0.0 if start < values.size else 0.0 for start in starts]
    return sums if function == "sum" else [total / count if count else nan for total, count in zip(sums, counts, strict=True)]


def _of_few(function: AggregateFunction, values: list[float], quantile: float | None) -> float:
    """Return what `summarise` says of values, at most FEW."""
    present = [value for value in values if value == value]
    count = len(present)
    if function == "count":
        return float(count)
    if function == "distinct":
        return float(len(set(present)))
    if function == "sum" or (count and function in ("mean", "share")):
        # To the first one the sum of the others, as numpy's reduceat adds so few; a missing one is a 0. Not sum(): it corrects itself.
        others = 0.0
        for each in values[1:]:
            others += each if each == each else 0.0
        total = (values[0] if values and values[0] == values[0] else 0.0) + others
        return total + 0.0 if function == "sum" else (total + 0.0) / count
    if not count:
        return nan
    if function in ("min", "max"):
        return (min(present) if function == "min" else max(present)) + 0.0
    assert quantile is not None, "a view says which quantile"
    present.sort()
    exact = quantile * (count - 1)
    below = floor(exact)
    share = exact - below
    low, high = present[below], present[min(below + 1, count - 1)]
    return (low if low == high else low * (1 - share) + high * share) + 0.0


def spread(starts: Ints, ends: Ints) -> Iterator[tuple[slice, Ints, Ints]]:
    """Yield which spans, the places of all that is in them, one span after the other, and where each of them ends among those.

    In portions of about PORTION places, so that memory stays bounded however long the spans are.
    """
    sizes = ends - starts
    totals = np.cumsum(sizes)
    first = 0
    while first < sizes.size:
        done = int(totals[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(totals, done + PORTION, side="right")))
        these = slice(first, last)
        until = totals[these] - done
        offsets = np.repeat(starts[these] - (until - sizes[these]), sizes[these])
        yield these, np.arange(offsets.size, dtype=np.int64) + offsets, until
        first = last


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


def _last_places(values: Floats | None, starts: Ints, ends: Ints) -> Ints:
    """Return the place of the last value in each span, -1 where there is none."""
    found = ends - 1
    if values is not None and values.size:
        there = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(values.size)))
        found = there[np.maximum(found, 0)]
    return np.where((ends > starts) & (found >= starts), found, -1)


def _taken(values: Floats, places: Ints, there: NDArray[np.bool_]) -> Floats:
    found = np.full(places.size, np.nan)
    found[there] = values[places[there]]
    return found + 0.0


def _quantiles(values: Floats, starts: Ints, ends: Ints, quantile: float) -> Floats:
    found = np.full(starts.size, np.nan)
    for these, places, until in spread(starts, ends):
        owners = np.repeat(np.arange(until.size), np.diff(until, prepend=0))
        inside = values[places]
        present = ~np.isnan(inside)
        owners, inside = owners[present], inside[present]
        inside = inside[np.lexsort((inside, owners))]
        counts = np.bincount(owners, minlength=until.size)
        wanted = np.flatnonzero(counts)
        exact = quantile * (counts[wanted] - 1)
        below = np.floor(exact).astype(np.int64)
        lowest = (np.cumsum(counts) - counts)[wanted]
        low, high = inside[lowest + below], inside[lowest + np.minimum(below + 1, counts[wanted] - 1)]
        share = exact - below
        with np.errstate(invalid="ignore"):
            between = np.where(low == high, low, low * (1 - share) + high * share)
        found[these.start + wanted] = between
    return found + 0.0


def _distinct(values: Floats, starts: Ints, ends: Ints) -> Floats:
    """Count in each span the values that do not stand earlier in it."""
    order = np.lexsort((np.arange(values.size), values))
    again = np.flatnonzero(values[order[1:]] == values[order[:-1]]) + 1
    before = np.full(values.size, -1, dtype=np.int64)
    before[order[again]] = order[again - 1]
    before[np.isnan(values)] = values.size  # never the first of its kind
    found = np.zeros(starts.size)
    for these, places, until in spread(starts, ends):
        owners = np.repeat(np.arange(until.size), np.diff(until, prepend=0))
        fresh = before[places] < starts[these][owners]
        found[these] = np.bincount(owners[fresh], minlength=until.size)
    return found


def numbers_of_texts(texts: Iterable[str | None]) -> Floats:
    """Return a whole number below 2^53 for each text, the same one for the same text: 53 bits of its BLAKE2b. NaN for a missing one."""
    return np.array([np.nan if text is None else float(_hash(text)) for text in texts], dtype=np.float64)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 11
