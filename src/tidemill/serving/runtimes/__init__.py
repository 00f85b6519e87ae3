"""What runs a model: one module a kind of model file."""
