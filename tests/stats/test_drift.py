"""Drift numerics against scipy and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2, chi2_contingency, ks_2samp, kstwobign

from tidemill.core.errors import Invalid
from tidemill.stats.arrays import EmptyWindow
from tidemill.stats.distributions import chi_square_tail, kolmogorov_tail, normal_quantile, normal_two_sided
from tidemill.stats.drift import (
    bin_counts,
    category_counts,
    chi_square,
    jensen_shannon,
    jensen_shannon_of_counts,
    ks,
    psi,
    psi_of_counts,
    quantile_edges,
)

numbers = st.floats(-1e6, 1e6)
samples = arrays(np.float64, st.integers(1, 50), elements=numbers)
counts = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=12).filter(
    lambda rows: sum(r[0] for r in rows) > 0 and sum(r[1] for r in rows) > 0
)


@given(samples, samples)
def test_psi_is_symmetric_and_not_negative(reference: np.ndarray, current: np.ndarray) -> None:
    edges = quantile_edges(reference)
    there, back = psi(reference, current, edges=edges), psi(current, reference, edges=edges)
    assert there == pytest.approx(back)
    assert there >= 0


@given(samples)
def test_a_window_has_not_drifted_from_itself(values: np.ndarray) -> None:
    edges = quantile_edges(values)
    assert psi(values, values, edges=edges) == 0
    assert jensen_shannon(values, values, edges=edges) == 0
    assert ks(values, values).statistic == 0
    assert ks(values, values).p_value == 1


def test_psi_by_hand() -> None:
    assert psi_of_counts([99.5, 299.5], [199.5, 199.5]) == pytest.approx((0.25 - 0.5) * math.log(0.5) + (0.75 - 0.5) * math.log(1.5))


@given(samples, st.integers(1, 20))
def test_edges_increase_and_every_value_is_counted_once(values: np.ndarray, bins: int) -> None:
    edges = quantile_edges(values, bins=bins)
    assert 2 <= edges.size <= max(4, bins + 1)
    assert (np.diff(edges) > 0).all()
    assert bin_counts(values, edges).sum() == values.size


def test_bins_hold_equal_shares_of_the_reference() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    assert bin_counts(values, quantile_edges(values)).tolist() == pytest.approx([1000] * 10, abs=1)


def test_a_value_that_most_rows_share_keeps_its_own_bin() -> None:
    rain = np.concatenate([np.zeros(950), np.linspace(0.1, 1, 50)])
    assert bin_counts(rain, quantile_edges(rain)).tolist() == [950, 50]
    assert bin_counts([1.0, 2.0, 2.0, 3.0], quantile_edges([2.0, 2.0])).tolist() == [1, 2, 1]


def test_values_outside_fall_into_the_end_bins() -> None:
    assert bin_counts([-9.0, 0.5, 1.0, 9.0], np.array([0.0, 1.0, 2.0])).tolist() == [3, 1]


@given(counts)
def test_jensen_shannon_agrees_with_scipy(rows: list[tuple[int, int]]) -> None:
    p, q = zip(*rows, strict=True)
    assert jensen_shannon_of_counts(p, q) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-7)


@given(samples, samples)
def test_ks_distance_is_the_greatest_gap_between_the_distribution_functions(reference: np.ndarray, current: np.ndarray) -> None:
    gaps = [abs((reference <= x).mean() - (current <= x).mean()) for x in [*reference, *current]]
    assert ks(reference, current).statistic == pytest.approx(max(gaps))


@pytest.mark.parametrize("sizes", [(20, 30), (50, 400), (3000, 2000)])
@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3])
def test_ks_p_value_is_close_to_the_exact_one(sizes: tuple[int, int], shift: float) -> None:
    rng = np.random.default_rng(7)
    first, second = rng.normal(size=sizes[0]), rng.normal(shift, 1, size=sizes[1])
    expected = ks_2samp(first, second, method="exact").pvalue
    assert ks(first, second).statistic == pytest.approx(ks_2samp(first, second, method="exact").statistic)
    assert ks(first, second).p_value == pytest.approx(expected, abs=0.035 if min(sizes) < 50 else 0.01)


@given(counts)
def test_chi_square_agrees_with_scipy(rows: list[tuple[int, int]]) -> None:
    rows = [row for row in rows if sum(row)]
    got = chi_square(*zip(*rows, strict=True))
    if len(rows) > 1:
        expected = chi2_contingency(np.array(rows).T, correction=False)
        assert got.statistic == pytest.approx(expected.statistic, abs=1e-9)
        assert got.p_value == pytest.approx(expected.pvalue, abs=1e-9)
    else:
        assert got.p_value == 1


@given(st.floats(0, 500), st.integers(1, 200))
def test_chi_square_tail_agrees_with_scipy(x: float, freedom: int) -> None:
    assert chi_square_tail(x, freedom) == pytest.approx(chi2.sf(x, freedom), rel=1e-6, abs=1e-12)


@given(st.floats(0.01, 6))
def test_kolmogorov_tail_agrees_with_scipy(x: float) -> None:
    assert kolmogorov_tail(x) == pytest.approx(kstwobign.sf(x), abs=1e-12)


def test_normal_tail_and_quantile() -> None:
    assert normal_two_sided(1.959963984540054) == pytest.approx(0.05)
    assert normal_quantile(0.975) == pytest.approx(1.959963984540054)


def test_categories_are_counted_with_the_missing_ones() -> None:
    names, p, q = category_counts(["AA", "UA", None, "AA"], ["UA", "B6"])
    assert names == ("(missing)", "AA", "B6", "UA")
    assert (p.tolist(), q.tolist()) == ([1, 2, 0, 1], [0, 0, 1, 1])


@pytest.mark.parametrize("windows", [([], [1.0]), ([1.0], [])])
def test_an_empty_window_is_refused(windows: tuple[list[float], list[float]]) -> None:
    with pytest.raises(EmptyWindow, match="holds no value"):
        ks(*windows)
    with pytest.raises(EmptyWindow, match="holds no value"):
        psi(*windows, edges=np.array([0.0, 1.0]))
    with pytest.raises(EmptyWindow, match="holds no value"):
        category_counts(*windows)


def test_nan_is_refused() -> None:
    with pytest.raises(Invalid, match="NaN"):
        ks([1.0, math.nan], [1.0])


def test_windows_in_different_bins_are_refused() -> None:
    with pytest.raises(Invalid, match="same bins"):
        psi_of_counts([1, 2], [1, 2, 3])
