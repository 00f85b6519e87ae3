"""Population stability index over bins of equal shares of the reference."""

from tidemill.monitor.detector import DriftScore
from tidemill.stats.arrays import FloatArray
from tidemill.stats.drift import bin_counts, chi_square, psi_of_counts, quantile_edges


class PopulationStability:
    """Detector of the population stability index, in nats; significance by the chi-square test on the same bins."""

    notable = 0.2  # Siddiqi (2006): below 0.1 no change, 0.1 to 0.25 some, above that a shift; the middle of "some", rounded up

    def fit(self, reference: FloatArray, *, bins: int) -> "_Fitted":
        return _Fitted(reference, bins)


class _Fitted:
    def __init__(self, reference: FloatArray, bins: int) -> None:
        self._edges = quantile_edges(reference, bins=bins)
        self._counts = bin_counts(reference, self._edges)

    def score(self, current: FloatArray) -> DriftScore:
        counts = bin_counts(current, self._edges)
        # Shares are compared, so a small window is not taken for a drifted one; the 0.5 of psi_of_counts then favours neither.
        scaled = counts * (self._counts.sum() / counts.sum())
        return DriftScore(effect=psi_of_counts(self._counts, scaled), p_value=chi_square(self._counts, counts).p_value)
