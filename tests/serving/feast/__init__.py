"""Tests of tidemill.serving.feast."""
