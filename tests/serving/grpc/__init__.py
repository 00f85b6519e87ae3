"""Tests of tidemill.serving.grpc."""
