"""Batch scoring: a table of rows to a table of scores, in shards, resumable, exactly one row for each."""
