"""Floor 6: endpoints, their variants and routes, and the rollouts that change them."""
