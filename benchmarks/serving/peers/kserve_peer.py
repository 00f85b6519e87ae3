"""KServe's Python server: `python kserve_peer.py FOLDER PORT`. One worker, HTTP only."""

import sys
from uuid import uuid4

import kserve
from session import Session


class Trees(kserve.Model):
    """The model behind /v2/models/trees/infer."""

    def __init__(self) -> None:
        super().__init__("trees")
        self.session = Session(sys.argv[1])
        self.ready = True

    async def predict(self, payload: kserve.InferRequest, headers: object = None, response_headers: object = None) -> kserve.InferResponse:
        output = kserve.InferOutput("score", [payload.inputs[0].shape[0]], "FP32")
        output.set_data_from_numpy(self.session.run(payload.inputs[0].as_numpy()), binary_data=False)
        return kserve.InferResponse(payload.id or str(uuid4()), self.name, [output])


if __name__ == "__main__":
    kserve.ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1, access_log_format=None).start([Trees()])
