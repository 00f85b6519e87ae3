"""The detectors of drift in numbers, one file each."""
