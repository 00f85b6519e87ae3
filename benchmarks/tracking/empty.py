"""A server that does nothing: it takes any request whole, and answers at once what MLflow's client needs to go on."""

import asyncio
import json
import sys
from typing import Any

import uvicorn

RUN_ID = "0" * 31 + "1"
INFO = {
    "run_id": RUN_ID, "run_uuid": RUN_ID, "run_name": "run", "experiment_id": "1", "user_id": "", "status": "RUNNING", "start_time": "1",
    "artifact_uri": f"mlflow-artifacts:/1/{RUN_ID}/artifacts", "lifecycle_stage": "active",
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "runs/create": {"run": {"info": INFO, "data": {}, "inputs": {}}},
    "runs/update": {"run_info": INFO},
    "runs/get": {"run": {"info": INFO, "data": {}, "inputs": {}}},
    "experiments/create": {"experiment_id": "1"},
    "experiments/get": {
        "experiment": {"experiment_id": "1", "name": "e", "artifact_location": "mlflow-artifacts:/1", "lifecycle_stage": "active"}
    },
}


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Take a request whole and answer what its client needs to go on."""
    while (await receive()).get("more_body"):
        pass
    body = next((json.dumps(found).encode() for path, found in ANSWERS.items() if scope["path"].endswith(path)), b"{}")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    config = uvicorn.Config(answer, port=int(sys.argv[1]), loop="uvloop", http="httptools", lifespan="off", log_level="error")
    asyncio.run(uvicorn.Server(config).serve())
