"""Inference calls of KServe's own client: `python calls.py REST_URL GRPC_ADDRESS MODEL`. Runs in an environment of its own."""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.inference_client import InferenceGRPCClient

A, B = [1.0, 2.0, 4.0], [1, 2, 3]


def request(model: str, *, binary: bool) -> InferRequest:
    """Return three rows as two tensors."""
    a, b = InferInput("a", [3], "FP64"), InferInput("b", [3], "INT64")
    a.set_data_from_numpy(np.array(A), binary_data=binary)
    b.set_data_from_numpy(np.array(B), binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[a, b])


def told(response: Any) -> dict[str, Any]:
    """Return the outputs of a response by name."""
    return {output.name: output.as_numpy().tolist() for output in response.outputs}


async def main(rest: str, grpc: str, model: str) -> dict[str, Any]:
    """Make each kind of call; return what was answered."""
    found: dict[str, Any] = {}
    v1 = InferenceRESTClient(RESTConfig(protocol="v1", retries=1))
    instances = {"instances": [{"a": a, "b": b} for a, b in zip(A, B, strict=True)]}
    found["v1 predict"] = await v1.infer(rest, instances, model_name=model)
    found["v1 ready"] = await v1.is_model_ready(rest, model)
    v2 = InferenceRESTClient(RESTConfig(protocol="v2", retries=1))
    found["v2 live"], found["v2 ready"] = await v2.is_server_live(rest), await v2.is_server_ready(rest)
    found["v2 model ready"] = await v2.is_model_ready(rest, model)
    for binary in (False, True):
        found[f"v2 infer, {'binary' if binary else 'JSON'}"] = told(await v2.infer(rest, request(model, binary=binary), model_name=model))
    stub = InferenceGRPCClient(grpc, retries=2)
    found["grpc live"], found["grpc model ready"] = await stub.is_server_live(), await stub.is_model_ready(model)
    found["grpc infer"] = told(await stub.infer(request(model, binary=True)))
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(*sys.argv[1:]))))
