"""Floor 4: feature views and services, the point-in-time join, and the same values online."""
