"""Floor 4: from a table of features to a calibrated model in one portable file."""
