"""Floor 2: who may do what, and the record of who did. Opens a `Workspace` for an actor."""
