"""Floor 4: pipelines of steps: graph from the calls, a cache that is right, runs with lineage."""
