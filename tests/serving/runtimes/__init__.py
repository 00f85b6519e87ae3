"""Tests of tidemill.serving.runtimes."""
