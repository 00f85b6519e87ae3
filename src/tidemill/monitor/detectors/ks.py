"""Kolmogorov-Smirnov distance between the values themselves."""

from tidemill.monitor.detector import DriftScore
from tidemill.stats.arrays import FloatArray, floats
from tidemill.stats.drift import ks


class KolmogorovSmirnov:
    """Detector of the greatest gap between the two distribution functions, 0 to 1, with the test of that name. Needs no bins."""

    notable = 0.1

    def fit(self, reference: FloatArray, *, bins: int) -> "_Fitted":
        return _Fitted(reference)


class _Fitted:
    def __init__(self, reference: FloatArray) -> None:
        self._reference = floats(reference, "the reference window")

    def score(self, current: FloatArray) -> DriftScore:
        found = ks(self._reference, current)
        return DriftScore(effect=found.statistic, p_value=found.p_value)
