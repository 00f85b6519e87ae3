"""Floor 8: worlds that run by a simulated clock: the demo, scenarios, replays, faults."""
