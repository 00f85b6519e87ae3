"""Tests of tidemill.store."""
