"""What every detector must do, as tests. A test class inherits the suite and gives it a detector; nothing else is needed for a new one.

class TestDetectors(DetectorConformance):
    @pytest.fixture(params=sorted(DETECTORS))
    def detector(self, request): return load_detector(request.param)
"""

import numpy as np
import pytest

from tidemill.core.errors import Invalid
from tidemill.monitor.detector import Detector
from tidemill.stats.arrays import EmptyWindow, FloatArray

BINS = 10


class DetectorConformance:
    """The law of `Detector`. Give it the fixture detector."""

    @pytest.fixture
    def detector(self) -> Detector:
        pytest.fail("a conformance test gives the fixture detector")

    @pytest.fixture
    def reference(self) -> FloatArray:
        return np.random.default_rng(0).normal(0, 1, 5000)

    def test_the_reference_has_not_drifted_from_itself(self, detector: Detector, reference: FloatArray) -> None:
        found = detector.fit(reference, bins=BINS).score(reference)
        assert found.effect == pytest.approx(0, abs=1e-9)
        assert found.p_value == pytest.approx(1)

    def test_a_further_window_scores_higher(self, detector: Detector, reference: FloatArray) -> None:
        fitted = detector.fit(reference, bins=BINS)
        window = np.random.default_rng(1).normal(0, 1, 2000)
        effects = [fitted.score(window + shift).effect for shift in (0.0, 0.25, 0.5, 1.0)]
        assert effects == sorted(effects)
        assert effects[0] < detector.notable < effects[-1]

    def test_a_wider_window_of_the_same_middle_is_seen(self, detector: Detector, reference: FloatArray) -> None:
        found = detector.fit(reference, bins=BINS).score(np.random.default_rng(1).normal(0, 2, 2000))
        assert found.effect > detector.notable
        assert found.p_value < 1e-6

    def test_chance_is_not_taken_for_drift(self, detector: Detector, reference: FloatArray) -> None:
        fitted = detector.fit(reference, bins=BINS)
        windows = [np.random.default_rng(seed).normal(0, 1, 500) for seed in range(2, 202)]
        p_values = np.array([fitted.score(window).p_value for window in windows])
        assert (p_values < 0.05).mean() < 0.12

    def test_the_order_of_values_does_not_matter_and_nothing_is_remembered(self, detector: Detector, reference: FloatArray) -> None:
        fitted = detector.fit(reference, bins=BINS)
        window = np.random.default_rng(1).normal(0.2, 1, 300)
        first = fitted.score(window)
        fitted.score(window + 9)
        assert fitted.score(window[::-1].copy()) == first
        assert detector.fit(reference[::-1].copy(), bins=BINS).score(window) == first

    @pytest.mark.parametrize("kind", ["constant", "two values", "one value a window", "huge", "disjoint"])
    def test_odd_windows_have_finite_scores(self, detector: Detector, kind: str) -> None:
        reference, current = {
            "constant": (np.full(50, 3.0), np.full(20, 3.0)),
            "two values": (np.repeat([0.0, 1.0], [90, 10]), np.repeat([0.0, 1.0], [10, 90])),
            "one value a window": (np.array([1.0]), np.array([2.0])),
            "huge": (np.array([-1e300, 0.0, 1e300]), np.array([1e300])),
            "disjoint": (np.arange(10.0), np.arange(100.0, 110.0)),
        }[kind]
        found = detector.fit(reference, bins=BINS).score(current)
        assert np.isfinite(found.effect)
        assert found.effect >= 0
        assert 0 <= found.p_value <= 1
        if kind == "constant":
            assert found.effect == pytest.approx(0, abs=1e-9)
        if kind in ("two values", "disjoint"):
            assert found.effect > detector.notable

    def test_a_window_without_values_is_refused(self, detector: Detector, reference: FloatArray) -> None:
        with pytest.raises(EmptyWindow, match="holds no value"):
            detector.fit(np.empty(0), bins=BINS)
        with pytest.raises(EmptyWindow, match="holds no value"):
            detector.fit(reference, bins=BINS).score(np.empty(0))
        with pytest.raises(Invalid, match="NaN"):
            detector.fit(reference, bins=BINS).score(np.array([np.nan]))
