"""Floor 3: registered models, their versions, aliases and cards."""
