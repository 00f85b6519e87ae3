"""MLflow's scoring protocol and SageMaker's container contract, which share their paths."""
