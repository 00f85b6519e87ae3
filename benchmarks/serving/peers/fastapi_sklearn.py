"""FastAPI with scikit-learn, as people write it: `python fastapi_sklearn.py FOLDER PORT`, with model.joblib in the folder."""

import sys
from pathlib import Path

import joblib
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

model = joblib.load(Path(sys.argv[1]) / "model.joblib")
app = FastAPI()


class Tensor(BaseModel):
    """One tensor of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Inference(BaseModel):
    """A request."""

    inputs: list[Tensor]


@app.post("/infer")
def infer(request: Inference) -> dict[str, object]:
    """Answer."""
    tensor = request.inputs[0]
    return {"predictions": model.predict(np.array(tensor.data).reshape(tensor.shape)).tolist()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
