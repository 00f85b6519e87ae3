"""Tests of tidemill.serving.invocations."""
