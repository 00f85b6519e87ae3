"""Tests of tidemill.serving."""
