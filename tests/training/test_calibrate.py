"""Calibration against scikit-learn's Platt scaling, and at its edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import _SigmoidCalibration

from tidemill.core.errors import Invalid
from tidemill.stats.scores import expected_calibration_error, log_loss
from tidemill.training.calibrate import Calibration, calibrated, fit_calibration


def world(seed: int, n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident log odds: the truth is half as steep, and shifted."""
    rng = np.random.default_rng(seed)
    said = rng.normal(0, 2, n)
    return said, rng.random(n) < 1 / (1 + np.exp(-(0.5 * said - 0.7)))


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_agrees_with_scikit_learn(seed: int) -> None:
    said, labels = world(seed)
    reference = _SigmoidCalibration().fit(said, labels.astype(float))
    got = fit_calibration(said, labels)
    assert got.slope == pytest.approx(-reference.a_, rel=1e-3)
    assert got.intercept == pytest.approx(-reference.b_, rel=1e-2, abs=1e-3)


def test_it_makes_boastful_scores_honest() -> None:
    said, labels = world(1, 20_000)
    before, after = calibrated(Calibration(), said), calibrated(fit_calibration(said, labels), said)
    assert expected_calibration_error(labels, before) > 0.1
    assert expected_calibration_error(labels, after) < 0.02
    assert log_loss(labels, after) < log_loss(labels, before)


def test_separable_scores_stay_finite() -> None:
    said = np.linspace(-50, 50, 200)
    got = fit_calibration(said, said > 0)
    assert 0 < got.slope < 100
    assert np.isfinite(calibrated(got, np.array([-1e6, 1e6]))).all()


def test_scores_that_say_nothing_become_the_share() -> None:
    got = fit_calibration(np.zeros(10), np.arange(10) < 3)
    assert calibrated(got, np.zeros(1))[0] == pytest.approx(0.3)


@given(st.floats(-800, 800), st.floats(0, 5), st.floats(-5, 5))
def test_probabilities_are_probabilities(said: float, slope: float, intercept: float) -> None:
    assert 0 <= calibrated(Calibration(slope=slope, intercept=intercept), np.array([said]))[0] <= 1


def test_one_outcome_only_is_refused() -> None:
    with pytest.raises(Invalid, match="0 of 3 rows are positive"):
        fit_calibration(np.arange(3.0), np.zeros(3, dtype=bool))
