"""Floor 3: datasets, their immutable versions and their contracts."""
