"""What a detector of drift is. The ones there are stand in `table.py`."""

from typing import Protocol

from tidemill.core.values import Value
from tidemill.stats.arrays import FloatArray


class DriftScore(Value, frozen=True, kw_only=True):
    """How far a window lies from the reference, and how likely that is by chance when nothing has changed."""

    effect: float
    p_value: float


class FittedDetector(Protocol):
    """A detector that knows its reference."""

    def score(self, current: FloatArray) -> DriftScore:
        """Compare a window with the reference. Raises EmptyWindow when it holds no value."""
        ...


class Detector(Protocol):
    """Compares windows of one numeric feature with a reference. The law for every implementation:

    - Pure, deterministic, safe to call from several threads; the order of values does not matter.
    - effect is 0 for a window that is the reference, at least 0 for any, and grows with the distance.
    - p_value lies in [0, 1]; effect and p_value are finite for all finite windows, ties and constants included.
    - Raises EmptyWindow when a window holds no value, Invalid when it holds NaN or infinity.
    """

    @property
    def notable(self) -> float:
        """The least effect that is commonly held to matter."""
        ...

    def fit(self, reference: FloatArray, *, bins: int) -> FittedDetector:
        """Prepare for comparing many windows with one reference; detectors that do not bin pass over bins."""
        ...
