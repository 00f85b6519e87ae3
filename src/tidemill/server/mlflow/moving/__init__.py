"""Moving between MLflow's stores and Tidemill: import and export, without the mlflow package."""
