"""Feast's HTTP calls, for callers that have been asking a Feast server."""
