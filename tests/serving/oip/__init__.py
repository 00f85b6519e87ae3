"""Tests of tidemill.serving.oip."""
