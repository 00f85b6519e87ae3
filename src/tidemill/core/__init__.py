"""Floor 0: values that all share."""
