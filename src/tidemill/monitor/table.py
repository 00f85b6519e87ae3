"""The detectors there are, by name. They are loaded when chosen and never import this table."""

from importlib import import_module

from tidemill.core.errors import Invalid
from tidemill.core.settings import nearest
from tidemill.monitor.detector import Detector

DETECTORS = {
    "js": "tidemill.monitor.detectors.js:JensenShannon",
    "ks": "tidemill.monitor.detectors.ks:KolmogorovSmirnov",
    "psi": "tidemill.monitor.detectors.psi:PopulationStability",
}


def load_detector(name: str) -> Detector:
    """Return a detector by name. Raises Invalid naming the nearest one."""
    if name not in DETECTORS:
        raise Invalid(f"detector {name!r} is not known; {nearest(name, list(DETECTORS))}")
    module, _, attribute = DETECTORS[name].partition(":")
    detector: Detector = getattr(import_module(module), attribute)()
    return detector
