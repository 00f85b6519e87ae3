"""MLflow's REST API over Tidemill's services: translate, decide nothing."""
