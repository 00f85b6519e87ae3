"""Tests: they mirror src/tidemill and run against real services."""
