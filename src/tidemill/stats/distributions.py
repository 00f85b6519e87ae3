"""Tail probabilities and quantiles that the tests of this package need."""

import math
from statistics import NormalDist

_STANDARD = NormalDist()
_TINY = 1e-300
_SMALLEST_STEP = 1e-16
_LONGEST_SERIES = 10_000


def normal_quantile(probability: float) -> float:
    """Return z with P(Z <= z) = probability for a standard normal Z; probability lies strictly between 0 and 1."""
    return _STANDARD.inv_cdf(probability)


def normal_two_sided(z: float) -> float:
    """Return P(|Z| >= |z|) for a standard normal Z."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Return P(X >= statistic) for a chi-square variable with freedom >= 1 degrees of freedom.

    Series below freedom + 2, continued fraction (modified Lentz) above. Source: Press et al., Numerical Recipes
    (3rd ed., Cambridge, 2007), section 6.2.
    """
    shape, x = freedom / 2.0, statistic / 2.0
    if x <= 0.0:
        return 1.0
    front = math.exp(-x + shape * math.log(x) - math.lgamma(shape))
    if x < shape + 1.0:
        term = total = 1.0 / shape
        for step in range(1, _LONGEST_SERIES):
            term *= x / (shape + step)
            total += term
            if term < total * _SMALLEST_STEP:
                break
        return max(0.0, 1.0 - front * total)
    b = x + 1.0 - shape
    c, d = 1.0 / _TINY, 1.0 / b
    fraction = d
    for step in range(1, _LONGEST_SERIES):
        a = -step * (step - shape)
        b += 2.0
        d = 1.0 / (a * d + b or _TINY)
        c = b + a / c or _TINY
        fraction *= d * c
        if abs(d * c - 1.0) < _SMALLEST_STEP * 10:
            break
    return min(1.0, front * fraction)


def kolmogorov_tail(x: float) -> float:
    """Return P(K >= x) of the Kolmogorov distribution, the limit of sqrt(n) times the Kolmogorov-Smirnov distance.

    The alternating series above 1, its theta-function twin below, where the first converges slowly.
    Source: Marsaglia, Tsang and Wang, Journal of Statistical Software 8(18), 2003, equation (2).
    """
    if x <= 0.0:
        return 1.0
    if x < 1.0:
        scale = math.sqrt(2.0 * math.pi) / x
        return 1.0 - scale * sum(math.exp(-((2 * k - 1) ** 2) * math.pi**2 / (8.0 * x * x)) for k in range(1, 8))
    return min(1.0, max(0.0, 2.0 * sum((-1.0) ** (k - 1) * math.exp(-2.0 * k * k * x * x) for k in range(1, 12))))
