"""The floor under gRPC in Python: `python grpc_bare.py MODEL.onnx PORT` answers raw ModelInfer and does nothing else.

grpc.aio on uvloop with the same messages, NumPy and ONNX Runtime; no check of rows, no routing, no journal, no metrics.
"""

import sys
from typing import Any

import grpc
import numpy as np
import onnxruntime
import uvloop

from tidemill.serving.grpc.wire import INFERENCE, MESSAGES

Request, Response = MESSAGES["ModelInferRequest"], MESSAGES["ModelInferResponse"]


async def main(model: str, port: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    async def infer(data: bytes, context: Any) -> bytes:
        request = Request.FromString(data)
        rows = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(request.inputs[0].shape)
        (scores,) = session.run(None, {"x": rows})
        response = Response(model_name=request.model_name, raw_output_contents=[scores.astype("<f8").tobytes()])
        response.outputs.add(name="score", datatype="FP64", shape=[len(scores)])
        return response.SerializeToString()

    server = grpc.aio.server()
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(INFERENCE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
