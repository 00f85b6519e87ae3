"""Jensen-Shannon distance over bins of equal shares of the reference."""

from tidemill.monitor.detector import DriftScore
from tidemill.stats.arrays import FloatArray
from tidemill.stats.drift import bin_counts, chi_square, jensen_shannon_of_counts, quantile_edges


class JensenShannon:
    """Detector of the Jensen-Shannon distance, 0 to 1; significance by the chi-square test on the same bins."""

    notable = 0.19  # what a population stability index of 0.2 comes to for small shifts: the root of 0.2 / (8 ln 2)

    def fit(self, reference: FloatArray, *, bins: int) -> "_Fitted":
        return _Fitted(reference, bins)


class _Fitted:
    def __init__(self, reference: FloatArray, bins: int) -> None:
        self._edges = quantile_edges(reference, bins=bins)
        self._counts = bin_counts(reference, self._edges)

    def score(self, current: FloatArray) -> DriftScore:
        counts = bin_counts(current, self._edges)
        return DriftScore(effect=jensen_shannon_of_counts(self._counts, counts), p_value=chi_square(self._counts, counts).p_value)
