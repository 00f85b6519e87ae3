"""Floor 2, above govern: named questions with a yes, a no or a warning, and the evidence for it."""
