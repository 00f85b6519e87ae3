"""The server that people write: FastAPI on uvicorn, pydantic, ONNX Runtime. It checks shapes, keeps and names nothing.

python fastapi_by_hand.py MODEL.onnx PORT
"""

import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Tensor(BaseModel):
    """One tensor of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Inference(BaseModel):
    """A request."""

    inputs: list[Tensor]


def app(model: str) -> FastAPI:
    """Return the application around one model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    made = FastAPI()

    @made.post("/infer")
    async def infer(request: Inference) -> dict[str, object]:
        tensor = request.inputs[0]
        (scores,) = session.run(None, {"x": np.array(tensor.data, dtype=np.float32).reshape(tensor.shape)})
        output = {"name": "score", "shape": [len(scores)], "datatype": "FP32", "data": scores.ravel().tolist()}
        return {"model_name": "trees", "outputs": [output]}

    return made


if __name__ == "__main__":
    uvicorn.run(app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
