"""Intervals that stay true however often one looks: confidence sequences for the mean of bounded observations."""

import math

import numpy as np
from numpy.typing import ArrayLike

from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.stats.arrays import FloatArray, floats

_BET_LIMIT = 0.5  # c of the paper: keeps each bet away from the pole of psi_E at 1


class MeanSequence(Value, frozen=True, kw_only=True):
    """All that a confidence sequence for a mean has to remember of the observations so far; grows by `observe`.

    With probability at least 1 - alpha the true mean lies between `lower` and `upper` at every moment at once, whatever the
    distribution within [low, high] and however the moment of looking is chosen. Observations must have the same mean
    given the past; they need not be independent or alike.
    """

    alpha: float = 0.05
    low: float = 0.0
    high: float = 1.0
    count: int = 0
    total: float = 0.0  # sum of the observations, scaled to [0, 1], as are the next three
    squares: float = 0.0  # sum of (x_i - mu_i)^2 with mu_i the regularised mean after i
    weights: float = 0.0  # sum of the bets lambda_i
    weighted: float = 0.0  # sum of lambda_i x_i
    penalty: float = 0.0  # sum of v_i psi_E(lambda_i)
    now_low: float = 0.0  # the bounds of the newest observation alone
    now_high: float = 1.0
    best_low: float = 0.0  # the running intersection: a bound once reached is never given back
    best_high: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise Invalid(f"alpha {self.alpha} is not an error rate; expected a number between 0 and 1, such as 0.05")
        if not self.low < self.high:
            raise Invalid(f"observations must be bounded by low < high, got {self.low} and {self.high}")

    @property
    def mean(self) -> float | None:
        """The plain mean of the observations; None before the first."""
        return self.low + self.total / self.count * (self.high - self.low) if self.count else None

    @property
    def lower(self) -> float:
        return self.low + self.best_low * (self.high - self.low)

    @property
    def upper(self) -> float:
        return self.low + self.best_high * (self.high - self.low)

    @property
    def lower_now(self) -> float:
        """The lower bound without the running intersection: wider, and still near the mean of late when the mean drifts."""
        return self.low + self.now_low * (self.high - self.low)

    @property
    def upper_now(self) -> float:
        """The upper bound without the running intersection."""
        return self.low + self.now_high * (self.high - self.low)


class SequencePath(Value, frozen=True, kw_only=True):
    """The bounds after each observation of one `observe`, as lists, and the state at its end."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    state: MeanSequence


def observe(state: MeanSequence, values: ArrayLike) -> MeanSequence:
    """Return the sequence after more observations, in their order. values (n,): within [low, high], n >= 0."""
    return _advance(state, values)[2]


def observe_path(state: MeanSequence, values: ArrayLike) -> SequencePath:
    """Return the bounds after every single observation: what somebody who looks each time would have seen."""
    lower, upper, after = _advance(state, values)
    return SequencePath(lower=tuple(lower.tolist()), upper=tuple(upper.tolist()), state=after)


def _advance(state: MeanSequence, values: ArrayLike) -> tuple[FloatArray, FloatArray, MeanSequence]:
    """Carry the predictable plug-in empirical Bernstein sequence forward.

    Source: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, Journal of the Royal Statistical
    Society B 86(1), 2024, Theorem 2 with equations (14) and (15); the running intersection is section 1.
    """
    observed = np.asarray(values, dtype=np.float64)
    if observed.size == 0:
        return observed, observed, state
    width = state.high - state.low
    x = (floats(observed, "the observations") - state.low) / width
    if x.min() < 0.0 or x.max() > 1.0:
        raise Invalid(
            f"an observation lies outside [{state.low:g}, {state.high:g}] (they reach from {observed.min():g} to {observed.max():g}); "
            "the bounds are part of the promise: widen them before the first observation"
        )
    steps = np.arange(state.count + 1, state.count + x.size + 1, dtype=np.float64)
    totals = _running(state.total, x)
    means = (0.5 + totals[1:]) / (steps + 1.0)
    means_before = (0.5 + totals[:-1]) / steps
    squares = _running(state.squares, (x - means) ** 2)
    # Predictable: the bet at step t may use what was seen before t only.
    spread_before = (0.25 + squares[:-1]) / steps
    log_term = math.log(2.0 / state.alpha)
    bets = np.minimum(_BET_LIMIT, np.sqrt(2.0 * log_term / (spread_before * steps * np.log1p(steps))))
    surprise = 4.0 * (x - means_before) ** 2 * (-np.log1p(-bets) - bets) / 4.0
    weights = _running(state.weights, bets)
    weighted = _running(state.weighted, bets * x)
    penalty = _running(state.penalty, surprise)
    centre = weighted[1:] / weights[1:]
    reach = (log_term + penalty[1:]) / weights[1:]
    best_low = np.maximum.accumulate(np.maximum(state.best_low, centre - reach))
    best_high = np.minimum.accumulate(np.minimum(state.best_high, centre + reach))
    after = MeanSequence(
        alpha=state.alpha,
        low=state.low,
        high=state.high,
        count=state.count + x.size,
        total=float(totals[-1]),
        squares=float(squares[-1]),
        weights=float(weights[-1]),
        weighted=float(weighted[-1]),
        penalty=float(penalty[-1]),
        now_low=max(0.0, float(centre[-1] - reach[-1])),
        now_high=min(1.0, float(centre[-1] + reach[-1])),
        best_low=float(best_low[-1]),
        best_high=float(best_high[-1]),
    )
    return state.low + best_low * width, state.low + best_high * width, after


def _running(start: float, values: FloatArray) -> FloatArray:
    """Return start and the sums after each value, added one by one, so that splitting a stream changes no bit."""
    return np.cumsum(np.concatenate([[start], values]))
