"""How good the scores of a binary classifier are: ranking, calibration, decisions at a threshold, each with its interval."""

import math

import numpy as np
from numpy.typing import ArrayLike

from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.stats.arrays import BoolArray, EmptyWindow, FloatArray, IntArray, OneClass, check_level, floats, labels_and_scores
from tidemill.stats.distributions import normal_quantile, normal_two_sided
from tidemill.stats.drift import TestResult

_SMALLEST_PROBABILITY = 1e-15


class Interval(Value, frozen=True, kw_only=True):
    """An estimate with the bounds of its confidence interval, and its variance where one is known."""

    estimate: float
    low: float
    high: float
    level: float
    variance: float | None = None


class Difference(Value, frozen=True, kw_only=True):
    """A difference with the bounds of its confidence interval and the p-value of "there is none"."""

    difference: float
    low: float
    high: float
    level: float
    p_value: float


class Confusion(Value, frozen=True, kw_only=True):
    """Decisions at one threshold, counted against labels. A ratio with nothing under the line is None."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def total(self) -> int:
        return self.true_positive + self.false_positive + self.true_negative + self.false_negative

    @property
    def accuracy(self) -> float | None:
        return _ratio(self.true_positive + self.true_negative, self.total)

    @property
    def precision(self) -> float | None:
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float | None:
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def false_positive_rate(self) -> float | None:
        return _ratio(self.false_positive, self.false_positive + self.true_negative)

    @property
    def f1(self) -> float | None:
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)


class ReliabilityBin(Value, frozen=True, kw_only=True):
    """Predictions of about the same score: how many, what they said on average, what happened."""

    count: int
    mean_score: float
    positive_share: float


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve: the probability that a positive outranks a negative, ties counting half.

    labels (n,): 0 or 1, both present; scores (n,): finite. Raises EmptyWindow, OneClass.
    Source: Hanley and McNeil, Radiology 143(1), 1982.
    """
    label, score = labels_and_scores(labels, scores)
    positives = _both_classes(label)
    ranks = _midranks(score)
    return float((ranks[label].sum() - positives * (positives + 1) / 2) / (positives * (label.size - positives)))


def auc_interval(labels: ArrayLike, scores: ArrayLike, *, level: float = 0.95) -> Interval:
    """Return the area under the ROC curve with DeLong's interval, cut to [0, 1]. Raises EmptyWindow, OneClass.

    Needs two of each class for a variance; with one the interval is [0, 1]. Source: DeLong, DeLong and Clarke-Pearson,
    Biometrics 44(3), 1988, in the n log n form of Sun and Xu, IEEE Signal Processing Letters 21(11), 2014.
    """
    label, score = labels_and_scores(labels, scores)
    area, covariance = _delong(label, [score])
    variance = float(covariance[0, 0])
    if not math.isfinite(variance):
        return Interval(estimate=float(area[0]), low=0.0, high=1.0, level=check_level(level))
    reach = normal_quantile(0.5 + check_level(level) / 2) * math.sqrt(variance)
    estimate = float(area[0])
    return Interval(estimate=estimate, low=max(0.0, estimate - reach), high=min(1.0, estimate + reach), level=level, variance=variance)


def auc_difference(labels: ArrayLike, scores: ArrayLike, other: ArrayLike, *, level: float = 0.95) -> Difference:
    """Return how much the area under the ROC curve of scores exceeds that of other on the same rows (paired DeLong test).

    Raises EmptyWindow, OneClass. Equal rankings: difference 0, p-value 1. Source: as `auc_interval`.
    """
    label, score = labels_and_scores(labels, scores)
    _, second = labels_and_scores(labels, other)
    area, covariance = _delong(label, [score, second])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    return _difference(float(area[0] - area[1]), variance, level)


def auc_change(reference: Interval, current: Interval, *, level: float = 0.95) -> Difference:
    """Return current minus reference for two areas measured on different rows (independent windows).

    Both come from `auc_interval`; one without a variance makes the interval [-1, 1]. Source: as `auc_interval`.
    """
    variance = math.inf
    if reference.variance is not None and current.variance is not None:
        variance = reference.variance + current.variance
    return _difference(current.estimate - reference.estimate, variance, level)


def brier(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the mean squared distance between probabilities and labels: 0 is best, always-right-on-average p gives p(1-p).

    scores: probabilities in [0, 1]. Raises EmptyWindow. Source: Brier, Monthly Weather Review 78(1), 1950.
    """
    label, score = _probabilities(labels, scores)
    return float(np.mean((score - label) ** 2))


def log_loss(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the mean negative log likelihood in nats; probabilities are kept 1e-15 away from 0 and 1. Raises EmptyWindow."""
    label, score = _probabilities(labels, scores)
    likely = np.clip(np.where(label, score, 1.0 - score), _SMALLEST_PROBABILITY, 1.0)
    return float(-np.log(likely).mean())


def reliability(labels: ArrayLike, scores: ArrayLike, *, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """Return bins of about equal counts in order of score; equal scores stay together, so there may be fewer bins.

    scores: probabilities in [0, 1]. Raises EmptyWindow. Equal counts rather than equal widths, because the scores of rare
    outcomes crowd near 0. Source: Nguyen and O'Connor, EMNLP 2015, section 3.
    """
    label, score = _probabilities(labels, scores)
    edges = np.unique(np.quantile(score, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
    place = np.searchsorted(edges, score, side="left")
    count = np.bincount(place, minlength=edges.size + 1)
    said = np.bincount(place, weights=score, minlength=edges.size + 1)
    was = np.bincount(place, weights=label.astype(np.float64), minlength=edges.size + 1)
    return tuple(
        ReliabilityBin(count=int(n), mean_score=float(s / n), positive_share=float(w / n))
        for n, s, w in zip(count, said, was, strict=True)
        if n
    )


def expected_calibration_error(labels: ArrayLike, scores: ArrayLike, *, bins: int = 10) -> float:
    """Return the mean distance, weighted by count, between what the bins of `reliability` said and what happened.

    In [0, 1]. Biased upwards on few rows: compare with a tolerance, not with 0. Raises EmptyWindow.
    Source: Guo et al., ICML 2017, equation (3), with bins of equal counts.
    """
    parts = reliability(labels, scores, bins=bins)
    total = sum(part.count for part in parts)
    return sum(part.count * abs(part.mean_score - part.positive_share) for part in parts) / total


def spiegelhalter(labels: ArrayLike, scores: ArrayLike) -> TestResult:
    """Test whether probabilities come true as often as they say: the statistic is standard normal if they do.

    Probabilities of exactly 0, 1/2 and 1 carry no news; when all are such, statistic 0 and p-value 1 (0 if a certain one is wrong).
    Raises EmptyWindow. Source: Spiegelhalter, Statistics in Medicine 5, 1986.
    """
    label, score = _probabilities(labels, scores)
    surprise = float(((label - score) * (1 - 2 * score)).sum())
    spread = math.sqrt(float(((1 - 2 * score) ** 2 * score * (1 - score)).sum()))
    if spread == 0.0:
        return TestResult(statistic=0.0, p_value=float(abs(surprise) < 1e-12))
    return TestResult(statistic=surprise / spread, p_value=normal_two_sided(surprise / spread))


def confusion(labels: ArrayLike, scores: ArrayLike, *, threshold: float) -> Confusion:
    """Count decisions "positive when score >= threshold" against labels. Raises EmptyWindow."""
    label, score = labels_and_scores(labels, scores)
    said = score >= threshold
    return Confusion(
        true_positive=int((said & label).sum()),
        false_positive=int((said & ~label).sum()),
        true_negative=int((~said & ~label).sum()),
        false_negative=int((~said & label).sum()),
    )


def wilson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Return the share of successes with Wilson's score interval, good for few trials and for shares near 0 and 1.

    0 <= successes <= trials. Raises EmptyWindow for no trial. Source: Wilson, Journal of the American Statistical Association 22, 1927.
    """
    if trials == 0:
        raise EmptyWindow("the sample of trials")
    if not 0 <= successes <= trials:
        raise Invalid(f"{successes} successes in {trials} trials cannot be; expected 0 to {trials}")
    z = normal_quantile(0.5 + check_level(level) / 2)
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    low = 0.0 if successes == 0 else max(0.0, middle - reach)
    high = 1.0 if successes == trials else min(1.0, middle + reach)
    return Interval(estimate=share, low=low, high=high, level=level)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _probabilities(labels: ArrayLike, scores: ArrayLike) -> tuple[BoolArray, FloatArray]:
    label, score = labels_and_scores(labels, scores)
    if score.min() < 0 or score.max() > 1:
        raise Invalid(f"scores reach from {score.min():g} to {score.max():g}; expected probabilities between 0 and 1")
    return label, score


def _both_classes(label: BoolArray) -> int:
    positives = int(label.sum())
    if positives in (0, label.size):
        raise OneClass(positives, label.size)
    return positives


def _midranks(score: FloatArray) -> FloatArray:
    """Return ranks from 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ends: IntArray = np.cumsum(counts)
    middles: FloatArray = ends - (counts - 1) / 2.0
    return middles[place]


def _delong(label: BoolArray, scores: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Return the areas of several scores on the same rows, and their covariance (infinite where a class has one row)."""
    positives = _both_classes(label)
    negatives = label.size - positives
    areas, by_positive, by_negative = [], [], []
    for score in scores:
        ranks = _midranks(score)
        # How a positive fares among the negatives, and a negative among the positives: rank among all minus rank among its own.
        over_negatives = (ranks[label] - _midranks(score[label])) / negatives
        under_positives = 1.0 - (ranks[~label] - _midranks(score[~label])) / positives
        areas.append(over_negatives.mean())
        by_positive.append(over_negatives)
        by_negative.append(under_positives)
    if min(positives, negatives) < 2:
        return np.array(areas), np.full((len(scores), len(scores)), math.inf)
    first = np.atleast_2d(np.cov(np.stack(by_positive))) / positives
    second = np.atleast_2d(np.cov(np.stack(by_negative))) / negatives
    return np.array(areas), first + second


def _difference(difference: float, variance: float, level: float) -> Difference:
    """Return a difference with its normal interval; no variance (equal rankings) makes it exact, an unknown one empty of news."""
    check_level(level)
    if not math.isfinite(variance):
        return Difference(difference=difference, low=-1.0, high=1.0, level=level, p_value=1.0)
    spread = math.sqrt(max(0.0, variance))
    if spread < 1e-12:
        return Difference(difference=difference, low=difference, high=difference, level=level, p_value=float(abs(difference) < 1e-12))
    reach = normal_quantile(0.5 + level / 2) * spread
    return Difference(
        difference=difference,
        low=max(-1.0, difference - reach),
        high=min(1.0, difference + reach),
        level=level,
        p_value=normal_two_sided(difference / spread),
    )


def mean_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Return the mean with its normal interval. values (n,): finite. With one value the interval is unbounded. Raises EmptyWindow."""
    array = floats(values, "the sample")
    estimate = float(array.mean())
    if array.size < 2:
        return Interval(estimate=estimate, low=-math.inf, high=math.inf, level=check_level(level))
    variance = float(array.var(ddof=1)) / array.size
    reach = normal_quantile(0.5 + check_level(level) / 2) * math.sqrt(variance)
    return Interval(estimate=estimate, low=estimate - reach, high=estimate + reach, level=level, variance=variance)
