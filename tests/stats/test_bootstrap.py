"""Bootstrap intervals: against the formula where there is one."""

import numpy as np
import pytest

from tidemill.core.errors import Invalid
from tidemill.stats.arrays import EmptyWindow
from tidemill.stats.bootstrap import bootstrap_interval
from tidemill.stats.scores import auc, auc_interval, mean_interval


def test_the_mean_gets_about_its_normal_interval() -> None:
    x = np.random.default_rng(1).normal(3, 2, 400)
    got, expected = bootstrap_interval(np.mean, [x], rng=np.random.default_rng(0)), mean_interval(x)
    assert got.estimate == pytest.approx(expected.estimate)
    assert (got.low, got.high) == (pytest.approx(expected.low, abs=0.05), pytest.approx(expected.high, abs=0.05))


def test_rows_that_belong_together_are_drawn_together() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=300)
    labels = rng.random(300) < 1 / (1 + np.exp(-2 * x))
    got, expected = bootstrap_interval(auc, [labels, x], rng=np.random.default_rng(0), resamples=300), auc_interval(labels, x)
    assert (got.low, got.high) == (pytest.approx(expected.low, abs=0.02), pytest.approx(expected.high, abs=0.02))


def test_the_same_seed_gives_the_same_interval() -> None:
    x = np.arange(20.0)
    first, second = (bootstrap_interval(np.median, [x], rng=np.random.default_rng(5), resamples=50) for _ in range(2))
    assert first == second


def test_bad_samples_are_refused() -> None:
    with pytest.raises(EmptyWindow, match="holds no value"):
        bootstrap_interval(np.mean, [[]], rng=np.random.default_rng(0))
    with pytest.raises(Invalid, match="differ in length"):
        bootstrap_interval(np.corrcoef, [[1.0], [1.0, 2.0]], rng=np.random.default_rng(0))
