"""MLServer: `mlserver start FOLDER`, where settings say that this is the model. No pool of workers: on one core it costs."""

import json
import os
import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from session import Session


class Trees(MLModel):
    """The model behind /v2/models/trees/infer."""

    async def load(self) -> bool:
        self.session = Session(os.environ["FOLDER"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("score", self.session.run(rows))])


if __name__ == "__main__":
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    home = folder / "mlserver"
    home.mkdir()
    told = {"host": "127.0.0.1", "http_port": port, "grpc_port": 0, "metrics_endpoint": None, "metrics_port": 0, "parallel_workers": 0}
    (home / "settings.json").write_text(json.dumps(told | {"debug": False, "use_structured_logging": False}))
    (home / "model-settings.json").write_text(json.dumps({"name": "trees", "implementation": "mlserver_peer.Trees"}))
    os.environ |= {"FOLDER": str(folder), "PYTHONPATH": str(Path(__file__).parent)}
    os.execv(Path(sys.executable).parent / "mlserver", ["mlserver", "start", str(home)])
