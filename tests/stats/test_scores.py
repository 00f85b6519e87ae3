"""Scores of classifiers against scikit-learn, statsmodels and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

from tidemill.core.errors import Invalid
from tidemill.stats.arrays import EmptyWindow, OneClass
from tidemill.stats.scores import (
    auc,
    auc_change,
    auc_difference,
    auc_interval,
    brier,
    confusion,
    expected_calibration_error,
    log_loss,
    mean_interval,
    reliability,
    spiegelhalter,
    wilson,
)

rows = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), min_size=2, max_size=60)
both = rows.filter(lambda r: len({label for label, _ in r}) == 2)


def world(seed: int, n: int = 2000, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return rng.random(n) < 1 / (1 + np.exp(-x * strength)), 1 / (1 + np.exp(-x))


@pytest.mark.slow
@given(both)
def test_auc_agrees_with_scikit_learn_and_with_counting_pairs(data: list[tuple[bool, float]]) -> None:
    labels, scores = map(np.array, zip(*data, strict=True))
    wins = [(p > n) + (p == n) / 2 for p in scores[labels] for n in scores[~labels]]
    assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert auc(labels, scores) == pytest.approx(np.mean(wins))


@given(both)
def test_delong_variance_agrees_with_its_definition(data: list[tuple[bool, float]]) -> None:
    labels, scores = map(np.array, zip(*data, strict=True))
    positive, negative = scores[labels], scores[~labels]
    wins = (positive[:, None] > negative) + (positive[:, None] == negative) / 2
    got = auc_interval(labels, scores)
    if min(wins.shape) < 2:
        assert (got.low, got.high, got.variance) == (0, 1, None)
    else:
        expected = wins.mean(1).var(ddof=1) / positive.size + wins.mean(0).var(ddof=1) / negative.size
        assert got.variance == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_delong_interval_covers_as_often_as_it_says() -> None:
    truth = metrics.roc_auc_score(*world(10_000, 400_000))
    hits = sum(got.low <= truth <= got.high for got in (auc_interval(*world(seed, 300), level=0.9) for seed in range(1000)))
    assert 0.87 <= hits / 1000 <= 0.93


@pytest.mark.slow
def test_paired_delong_test_raises_false_alarm_as_often_as_it_says() -> None:
    alarms = 0
    for seed in range(1000):
        labels, scores = world(seed, 400)
        rng = np.random.default_rng(seed + 10_000)
        alarms += auc_difference(labels, scores + rng.normal(0, 0.1, 400), scores + rng.normal(0, 0.1, 400)).p_value < 0.1
    assert 0.07 <= alarms / 1000 <= 0.13


def test_a_better_score_wins_the_paired_test() -> None:
    labels, scores = world(1)
    noisy = scores + np.random.default_rng(0).normal(0, 0.5, scores.size)
    got = auc_difference(labels, scores, noisy)
    assert got.low > 0
    assert got.p_value < 1e-6
    assert got.difference == pytest.approx(auc(labels, scores) - auc(labels, noisy))
    same = auc_difference(labels, scores, scores * 2)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_change_between_windows_adds_both_variances() -> None:
    before, after = auc_interval(*world(1)), auc_interval(*world(2, strength=0.2))
    got = auc_change(before, after)
    assert got.difference == pytest.approx(after.estimate - before.estimate)
    assert (got.high - got.low) / 2 == pytest.approx(1.959964 * math.sqrt(before.variance + after.variance), rel=1e-5)
    few = auc_interval([0, 1], [0.1, 0.9])
    assert (auc_change(before, few).low, auc_change(before, few).high) == (-1, 1)


@pytest.mark.slow
@given(rows)
def test_brier_and_log_loss_agree_with_scikit_learn(data: list[tuple[bool, float]]) -> None:
    labels, scores = map(np.array, zip(*data, strict=True))
    assert brier(labels, scores) == pytest.approx(metrics.brier_score_loss(labels, scores))
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    assert log_loss(labels, scores) == pytest.approx(metrics.log_loss(labels, clipped, labels=[False, True]), rel=1e-4)


@given(rows)
def test_reliability_bins_hold_every_row_once(data: list[tuple[bool, float]]) -> None:
    labels, scores = map(np.array, zip(*data, strict=True))
    bins = reliability(labels, scores)
    assert sum(part.count for part in bins) == len(data)
    assert sum(part.count * part.mean_score for part in bins) == pytest.approx(scores.sum())
    assert sum(part.count * part.positive_share for part in bins) == pytest.approx(labels.sum())
    said = [part.mean_score for part in bins]
    assert said == sorted(set(said))


def test_calibration_error_tells_honest_from_boastful() -> None:
    rng = np.random.default_rng(0)
    honest = rng.random(50_000)
    labels = rng.random(50_000) < honest
    assert expected_calibration_error(labels, honest) < 0.01
    assert expected_calibration_error(labels, np.full(50_000, 0.7)) == pytest.approx(0.2, abs=0.01)


@pytest.mark.slow
def test_spiegelhalter_raises_false_alarm_as_often_as_it_says_and_finds_boasting() -> None:
    alarms = found = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        honest = rng.beta(2, 6, 400)
        labels = rng.random(400) < honest
        alarms += spiegelhalter(labels, honest).p_value < 0.1
        found += spiegelhalter(labels, honest**1.5).p_value < 0.1
    assert 0.07 <= alarms / 1000 <= 0.13
    assert found > 900


def test_spiegelhalter_by_hand() -> None:
    assert spiegelhalter([1, 0], [0.9, 0.2]).statistic == pytest.approx((0.1 * -0.8 + -0.2 * 0.6) / math.sqrt(0.64 * 0.09 + 0.36 * 0.16))
    assert spiegelhalter([1, 0], [1.0, 0.0]).p_value == 1
    assert spiegelhalter([0, 0], [1.0, 0.0]).p_value == 0


@pytest.mark.slow
@given(rows, st.floats(0, 1))
def test_confusion_agrees_with_scikit_learn(data: list[tuple[bool, float]], threshold: float) -> None:
    labels, scores = map(np.array, zip(*data, strict=True))
    got = confusion(labels, scores, threshold=threshold)
    expected = metrics.confusion_matrix(labels, scores >= threshold, labels=[False, True])
    assert [[got.true_negative, got.false_positive], [got.false_negative, got.true_positive]] == expected.tolist()
    assert got.accuracy == pytest.approx(metrics.accuracy_score(labels, scores >= threshold))
    if got.true_positive:
        assert got.f1 == pytest.approx(metrics.f1_score(labels, scores >= threshold))
    if got.precision is None:
        assert not (scores >= threshold).any()


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_agrees_with_statsmodels(trials: int, share: float, level: float) -> None:
    successes = round(share * trials)
    got = wilson(successes, trials, level=level)
    low, high = proportion_confint(successes, trials, alpha=1 - level, method="wilson")
    assert (got.low, got.high) == (pytest.approx(max(0, low), abs=1e-9), pytest.approx(min(1, high), abs=1e-9))


def test_mean_interval_by_hand() -> None:
    got = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert got.estimate == 2.5
    assert got.high - 2.5 == pytest.approx(1.959964 * math.sqrt(5 / 3 / 4), rel=1e-6)
    assert mean_interval([1.0]).high == math.inf


def test_bad_windows_are_refused() -> None:
    with pytest.raises(EmptyWindow, match="holds no value"):
        auc([], [])
    with pytest.raises(OneClass, match="of 2 labels 2 are positive"):
        auc([1, 1], [0.1, 0.2])
    with pytest.raises(Invalid, match="neither 0 nor 1"):
        brier([0, 2], [0.1, 0.2])
    with pytest.raises(Invalid, match="do not match"):
        brier([0], [0.1, 0.2])
    with pytest.raises(Invalid, match="probabilities"):
        brier([0, 1], [0.1, 1.2])
    with pytest.raises(EmptyWindow, match="trials"):
        wilson(0, 0)
    with pytest.raises(Invalid, match="cannot be"):
        wilson(3, 2)
    with pytest.raises(Invalid, match="level"):
        wilson(1, 2, level=95)
