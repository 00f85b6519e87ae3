"""Confidence sequences: the formula, its promise under continuous peeking, and that streams may be split anywhere."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid
from tidemill.stats.sequences import MeanSequence, observe, observe_path


def by_the_book(x: list[float], alpha: float) -> tuple[list[float], list[float]]:
    """Theorem 2, one observation at a time, without the running intersection."""
    mean, spread, total, squares = 0.5, 0.25, 0.0, 0.0
    weights = weighted = penalty = 0.0
    lower, upper = [], []
    for t, value in enumerate(x, start=1):
        bet = min(0.5, math.sqrt(2 * math.log(2 / alpha) / (spread * t * math.log(1 + t))))
        penalty += 4 * (value - mean) ** 2 * (-math.log(1 - bet) - bet) / 4
        weights, weighted = weights + bet, weighted + bet * value
        reach = (math.log(2 / alpha) + penalty) / weights
        lower.append(weighted / weights - reach)
        upper.append(weighted / weights + reach)
        total += value
        mean = (0.5 + total) / (t + 1)
        squares += (value - mean) ** 2
        spread = (0.25 + squares) / (t + 1)
    return lower, upper


def test_bounds_follow_the_theorem() -> None:
    x = np.random.default_rng(3).beta(2, 5, 300)
    path = observe_path(MeanSequence(alpha=0.05), x)
    lower, upper = by_the_book(x.tolist(), 0.05)
    np.testing.assert_allclose(path.lower, np.maximum.accumulate(np.maximum(0, lower)), rtol=1e-12)
    np.testing.assert_allclose(path.upper, np.minimum.accumulate(np.minimum(1, upper)), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rare", "coin", "beta", "score-differences"])
def test_the_mean_is_missed_at_any_time_in_at_most_alpha_of_streams(kind: str) -> None:
    alpha, streams, length = 0.1, 600, 800
    misses = 0
    for seed in range(streams):
        rng = np.random.default_rng(seed)
        low, high = 0.0, 1.0
        if kind == "rare":
            truth, x = 0.02, (rng.random(length) < 0.02).astype(float)
        elif kind == "coin":
            truth, x = 0.5, (rng.random(length) < 0.5).astype(float)
        elif kind == "beta":
            truth, x = 2 / 7, rng.beta(2, 5, length)
        else:
            low, high, truth, x = -1.0, 1.0, 0.0, rng.normal(0, 0.1, length).clip(-1, 1)
        path = observe_path(MeanSequence(alpha=alpha, low=low, high=high), x)
        misses += bool(np.any((np.array(path.lower) > truth) | (np.array(path.upper) < truth)))
    # One-sided binomial bound: a true rate of alpha would exceed this in less than one of a thousand test runs.
    assert misses <= streams * alpha + 3.1 * math.sqrt(streams * alpha * (1 - alpha))


def test_it_narrows_and_finds_a_real_difference() -> None:
    x = np.random.default_rng(0).normal(0.02, 0.1, 20_000).clip(-1, 1)
    after = observe(MeanSequence(alpha=0.05, low=-1.0, high=1.0), x)
    assert 0 < after.lower < 0.02 < after.upper < 0.05
    assert after.mean == pytest.approx(x.mean())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.data())
def test_splitting_a_stream_changes_no_bit(values: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))
    start = MeanSequence()
    assert observe(observe(start, values[:cut]), values[cut:]) == observe(start, values)


@given(st.lists(st.floats(0, 1), max_size=60))
def test_bounds_only_close_in(values: list[float]) -> None:
    path = observe_path(MeanSequence(), values)
    assert list(path.lower) == sorted(path.lower)
    assert list(path.upper) == sorted(path.upper, reverse=True)
    assert len(path.lower) == len(values)


def test_state_survives_the_catalog() -> None:
    state = observe(MeanSequence(), [0.1, 0.7])
    assert decode(encode(state), MeanSequence) == state


def test_before_the_first_observation_everything_is_possible() -> None:
    start = MeanSequence(low=-1.0, high=1.0)
    assert (start.mean, start.lower, start.upper) == (None, -1.0, 1.0)


def test_an_observation_outside_the_bounds_is_refused() -> None:
    with pytest.raises(Invalid, match="outside"):
        observe(MeanSequence(), [0.2, 1.2])


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0])
def test_an_impossible_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(Invalid, match="alpha"):
        MeanSequence(alpha=alpha)
