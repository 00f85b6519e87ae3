"""The server that people write by hand: Starlette on uvicorn, JSON in, ONNX Runtime, JSON out. It checks, keeps and names nothing.

python by_hand.py MODEL.onnx PORT COLUMN,COLUMN,…
"""

import sys

import numpy as np
import onnxruntime
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def app(model: str, columns: list[str]) -> Starlette:
    """Return the application around one model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    async def predict(request: Request) -> JSONResponse:
        rows = (await request.json())["rows"]
        numbers = np.array([[row[name] for name in columns] for row in rows], dtype=np.float32)
        (scores,) = session.run(["score"], {"x": numbers})
        return JSONResponse({"predictions": [{"score": score} for score in scores[:, 0].tolist()]})

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(app(sys.argv[1], sys.argv[3].split(",")), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
