"""Tests of stream scoring."""
