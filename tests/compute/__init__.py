"""Tests of tidemill.compute."""
