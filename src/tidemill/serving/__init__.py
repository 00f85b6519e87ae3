"""The data plane: workers that answer predictions, keep a journal of them, and serve on without control plane or catalog."""
