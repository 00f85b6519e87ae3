"""Floor 7: rules that tie events to actions, the controller that acts on them, the workers that do the work."""
