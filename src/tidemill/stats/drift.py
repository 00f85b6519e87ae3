"""How far the distribution of one feature has moved between two windows: population stability, Kolmogorov-Smirnov, Jensen-Shannon."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.stats.arrays import EmptyWindow, FloatArray, IntArray, floats
from tidemill.stats.distributions import chi_square_tail, kolmogorov_tail


class TestResult(Value, frozen=True, kw_only=True):
    """A test statistic and the probability of one at least as large if nothing had changed."""

    __test__ = False  # the name is the field's word; it is not a test case of ours

    statistic: float
    p_value: float


def quantile_edges(reference: ArrayLike, *, bins: int = 10) -> FloatArray:
    """Return the edges of bins that hold about equal shares of reference.

    reference (n,): finite, n >= 1. Edges are strictly increasing, at least two and at most bins + 1; where many values are
    equal, bins merge, and a value that most rows share (no rain, no delay) keeps a bin that ends at it. When all values
    are equal there are three bins: below, that value, above. Raises EmptyWindow.
    """
    values = floats(reference, "the reference window")
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.array([low - 1.0, np.nextafter(low, -np.inf), low, low + 1.0])
    cuts = np.unique(np.quantile(values, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
    cuts = cuts[cuts < high]
    if cuts.size and cuts[0] == low:
        low = float(np.nextafter(low, -np.inf))
    return np.concatenate([[low], cuts, [high]])


def bin_counts(values: ArrayLike, edges: FloatArray) -> IntArray:
    """Count values into bins (edges[i], edges[i+1]]; the end bins also take what lies outside. Raises EmptyWindow.

    Bins are closed above, so that a value that many rows share (a zero, a cap) and that is therefore an edge falls
    into the bin that it ends.
    """
    array = floats(values, "the window")
    if edges.size < 2 or not (np.diff(edges) > 0).all():
        raise Invalid(f"bin edges must be at least two and strictly increasing, got {edges.size} of them")
    return np.bincount(np.searchsorted(edges[1:-1], array, side="left"), minlength=edges.size - 1)


def category_counts(reference: Sequence[object], current: Sequence[object]) -> tuple[tuple[str, ...], IntArray, IntArray]:
    """Return the categories of two windows in sorted order, and how often each window holds them. Raises EmptyWindow.

    Values are compared as text; None counts as a category of its own, written "(missing)".
    """
    windows = []
    for values, what in ((reference, "the reference window"), (current, "the current window")):
        if len(values) == 0:
            raise EmptyWindow(what)
        texts = np.array(["(missing)" if value is None else str(value) for value in values], dtype=object)
        windows.append(texts)
    names, codes = np.unique(np.concatenate(windows).astype(str), return_inverse=True)
    split = windows[0].size
    return (
        tuple(names.tolist()),
        np.bincount(codes[:split], minlength=names.size),
        np.bincount(codes[split:], minlength=names.size),
    )


def psi(reference: ArrayLike, current: ArrayLike, *, edges: FloatArray) -> float:
    """Return the population stability index between two windows of one feature.

    reference (n,) and current (m,): finite, n and m >= 1, same unit. edges (k+1,): strictly increasing;
    values outside fall into the end bins; 0.5 is added to every count so that empty bins stay finite.
    The result is in nats, >= 0, symmetric, and 0 when both windows fill the bins in equal shares of equal size.
    Raises EmptyWindow. Source: Siddiqi, Credit Risk Scorecards (Wiley, 2006).
    """
    return psi_of_counts(bin_counts(reference, edges), bin_counts(current, edges))


def psi_of_counts(reference: ArrayLike, current: ArrayLike) -> float:
    """Return the population stability index of two windows that are counted into the same bins or categories. See `psi`."""
    p, q = _counts(reference, current)
    p, q = (p + 0.5) / (p + 0.5).sum(), (q + 0.5) / (q + 0.5).sum()
    return float(((p - q) * np.log(p / q)).sum())


def jensen_shannon(reference: ArrayLike, current: ArrayLike, *, edges: FloatArray) -> float:
    """Return the Jensen-Shannon distance between two windows of one feature, binned as in `psi` (nothing is added to counts).

    The square root of the divergence in bits: from 0, equal shares, to 1, no bin in common; a metric. Raises EmptyWindow.
    Source: Endres and Schindelin, IEEE Transactions on Information Theory 49(7), 2003.
    """
    return jensen_shannon_of_counts(bin_counts(reference, edges), bin_counts(current, edges))


def jensen_shannon_of_counts(reference: ArrayLike, current: ArrayLike) -> float:
    """Return the Jensen-Shannon distance of two windows that are counted into the same bins or categories."""
    p, q = _counts(reference, current)
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2.0
    bits = 0.0
    for share in (p, q):
        seen = share > 0
        bits += float((share[seen] * np.log2(share[seen] / middle[seen])).sum()) / 2.0
    return math.sqrt(min(1.0, max(0.0, bits)))


def ks(reference: ArrayLike, current: ArrayLike) -> TestResult:
    """Compare two windows by the two-sample Kolmogorov-Smirnov test.

    reference (n,) and current (m,): finite, any order, ties allowed. The statistic is the greatest distance between the
    two empirical distribution functions, in [0, 1]. The p-value is the limit law with Stephens' correction for finite
    windows; within 0.01 of the exact one from about 20 values a window, and too large (careful) under ties. Raises EmptyWindow.
    Source: Stephens, Journal of the Royal Statistical Society B 32(1), 1970.
    """
    first, second = np.sort(floats(reference, "the reference window")), np.sort(floats(current, "the current window"))
    both = np.concatenate([first, second])
    below_first = np.searchsorted(first, both, side="right") / first.size
    below_second = np.searchsorted(second, both, side="right") / second.size
    distance = float(np.abs(below_first - below_second).max())
    root = math.sqrt(first.size * second.size / (first.size + second.size))
    return TestResult(statistic=distance, p_value=kolmogorov_tail((root + 0.12 + 0.11 / root) * distance))


def chi_square(reference: ArrayLike, current: ArrayLike) -> TestResult:
    """Compare two windows that are counted into the same bins or categories by Pearson's chi-square test of homogeneity.

    Bins that both windows leave empty do not count; no continuity correction. One bin only: statistic 0, p-value 1.
    Raises EmptyWindow. Source: Agresti, Categorical Data Analysis (3rd ed., Wiley, 2013), section 3.2.
    """
    p, q = _counts(reference, current)
    seen = (p + q) > 0
    table = np.stack([p[seen], q[seen]])
    if table.shape[1] < 2:
        return TestResult(statistic=0.0, p_value=1.0)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    return TestResult(statistic=statistic, p_value=chi_square_tail(statistic, table.shape[1] - 1))


def _counts(reference: ArrayLike, current: ArrayLike) -> tuple[FloatArray, FloatArray]:
    p, q = floats(reference, "the reference window"), floats(current, "the current window")
    if p.shape != q.shape:
        raise Invalid(f"windows are counted into {p.size} and {q.size} bins; expected the same bins for both")
    for counts, what in ((p, "the reference window"), (q, "the current window")):
        if counts.sum() <= 0:
            raise EmptyWindow(what)
    return p, q
