"""Calibration: turn log odds into probabilities that come true as often as they say."""

import math

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.core.values import Value

Floats = NDArray[np.float64]
_STEPS = 100
_CLOSE = 1e-10


class Calibration(Value, frozen=True, kw_only=True):
    """probability = sigmoid(slope * log odds + intercept). The default changes nothing."""

    slope: float = 1.0
    intercept: float = 0.0


def fit_calibration(log_odds: Floats, labels: NDArray[np.bool_]) -> Calibration:
    """Fit Platt's sigmoid on rows that the model did not learn from.

    log_odds (n,): finite; labels (n,): both outcomes present. The targets are drawn in a little from 0 and 1, as Platt does, so that the
    slope stays finite when the two are separable; Newton's method with halved steps. Raises Invalid.
    Source: Platt, Advances in Large Margin Classifiers (1999); Lin, Lin and Weng, Machine Learning 68, 2007.
    """
    positives = int(labels.sum())
    if positives in (0, labels.size):
        raise Invalid(f"{positives} of {labels.size} rows are positive; calibration needs both outcomes: hold out more rows")
    if np.ptp(log_odds) == 0:
        return Calibration(slope=0.0, intercept=math.log(positives / (labels.size - positives)))
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (labels.size - positives + 2))
    # On standardised scores both curvatures are of one size, so that Newton's steps are well behaved.
    centre, spread = float(log_odds.mean()), float(log_odds.std())
    design = np.stack([(log_odds - centre) / spread, np.ones_like(log_odds)], axis=1)
    weights = np.array([1.0, math.log(positives / (labels.size - positives))])
    loss = _loss(design @ weights, target)
    for _ in range(_STEPS):
        said = _sigmoid(design @ weights)
        gradient = design.T @ (said - target)
        if np.abs(gradient).max() < _CLOSE * labels.size:
            break
        curvature = design.T @ (design * (said * (1 - said))[:, None]) + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (tried := _loss(design @ (weights - size * step), target)) > loss and size > 1e-10:
            size /= 2
        weights, loss = weights - size * step, tried
    slope = float(weights[0] / spread)
    return Calibration(slope=slope, intercept=float(weights[1] - slope * centre))


def calibrated(calibration: Calibration, log_odds: Floats) -> Floats:
    """Return the probabilities of log odds."""
    return _sigmoid(calibration.slope * log_odds + calibration.intercept)


def _sigmoid(x: Floats) -> Floats:
    found: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))  # never overflows
    return found


def _loss(x: Floats, target: Floats) -> float:
    return float((np.logaddexp(0.0, x) - target * x).sum())
