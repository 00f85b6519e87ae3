"""Fitted models of other libraries: one module a library."""
