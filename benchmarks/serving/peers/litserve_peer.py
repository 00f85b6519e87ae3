"""LitServe: `python litserve_peer.py FOLDER PORT`. One inference worker, one API server, no batching (it costs at this size)."""

import sys

import litserve
from session import Session


class Trees(litserve.LitAPI):
    """The model behind /predict."""

    def setup(self, device: str) -> None:
        self.session = Session(sys.argv[1])

    def decode_request(self, request: dict[str, list[dict[str, object]]]) -> dict[str, object]:
        return request["inputs"][0]

    def predict(self, x: dict[str, object]) -> list[float]:
        return self.session.of_tensor(x)

    def encode_response(self, output: list[float]) -> dict[str, object]:
        return {"predictions": output}


if __name__ == "__main__":
    server = litserve.LitServer(Trees(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, log_level="warning")
