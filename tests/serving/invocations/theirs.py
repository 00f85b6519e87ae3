"""MLflow's side of the tests: its client, and its scoring server without HTTP."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, load_model, save_model, scoring_server
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from mlflow.types.schema import ColSpec, Schema

__all__ = ["Scoring", "ScoringServerClient", "pd"]


class Example(PythonModel):
    """The example model of the runtimes' suite."""

    def predict(self, context, model_input, params=None):  # MLflow reads hints as a signature
        return np.clip(model_input["a"] * 0.1 + model_input["b"] * 0.01, 0, 1).to_numpy()


class Scoring:
    """A model behind MLflow's scoring server."""

    def __init__(self, folder: Path) -> None:
        inputs = Schema([ColSpec("double", "a"), ColSpec("long", "b")])
        signature = ModelSignature(inputs=inputs, outputs=Schema([ColSpec("double", "score")]))
        save_model(folder, python_model=Example(), signature=signature, pip_requirements=[])
        self._model = load_model(str(folder))

    def score(self, body: bytes, kind: str) -> tuple[int, list[float] | None]:
        """Return the status and the predictions that a body gets."""
        try:
            found = scoring_server.invocations(body, kind, self._model, self._model.metadata.get_input_schema())
        except MlflowException as error:
            return error.get_http_status_code(), None
        return found.status, json.loads(found.response)["predictions"] if found.status == 200 else None
