"""Pure numerics on arrays: drift, scores, intervals, sequences. No input or output, no clock, no hidden randomness."""
