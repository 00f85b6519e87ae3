"""Every detector of the table against the law, and what a wrong name is told."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from tidemill.core.errors import Invalid
from tidemill.monitor.conformance import DetectorConformance
from tidemill.monitor.detector import Detector
from tidemill.monitor.table import DETECTORS, load_detector


class TestDetectors(DetectorConformance):
    @pytest.fixture(params=sorted(DETECTORS))
    def detector(self, request: pytest.FixtureRequest) -> Detector:
        return load_detector(request.param)


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(Invalid, match="did you mean 'psi'"):
        load_detector("psy")


def test_psi_does_not_take_a_small_window_for_a_drifted_one() -> None:
    fitted = load_detector("psi").fit(np.arange(10_000.0), bins=10)
    assert fitted.score(np.arange(0, 10_000.0, 500)).effect == pytest.approx(0, abs=1e-4)


def test_significance_is_that_of_the_named_tests() -> None:
    rng = np.random.default_rng(0)
    reference, current = rng.normal(0, 1, 4000), rng.normal(0.1, 1, 900)
    assert load_detector("ks").fit(reference, bins=10).score(current).p_value == pytest.approx(ks_2samp(reference, current).pvalue, rel=0.1)
    edges = np.quantile(reference, np.linspace(0, 1, 11))[1:-1]
    table = [np.bincount(np.searchsorted(edges, values), minlength=10) for values in (reference, current)]
    expected = chi2_contingency(np.array(table), correction=False).pvalue
    for name in ("psi", "js"):
        assert load_detector(name).fit(reference, bins=10).score(current).p_value == pytest.approx(expected, rel=1e-6)
