"""Tests of tidemill.serving.kserve."""
