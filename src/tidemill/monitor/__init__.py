"""Floor 6: windows of production held against a reference; detectors, reports, alerts."""
