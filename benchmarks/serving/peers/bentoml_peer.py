"""BentoML: `python bentoml_peer.py FOLDER PORT`. One worker; its batching is off, as it costs at this size."""

import os
import sys
from pathlib import Path

import bentoml
from session import Session


@bentoml.service(workers=1, traffic={"timeout": 60}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Trees:
    """The model behind /infer."""

    def __init__(self) -> None:
        self.session = Session(os.environ["FOLDER"])

    @bentoml.api
    async def infer(self, inputs: list[dict]) -> dict:
        return {"predictions": self.session.of_tensor(inputs[0])}


if __name__ == "__main__":
    os.environ |= {"FOLDER": sys.argv[1], "BENTOML_DO_NOT_TRACK": "true"}
    here = Path(__file__)
    command = ["bentoml", "serve", f"{here.stem}:Trees", "--working-dir", str(here.parent), "--host", "127.0.0.1", "--port", sys.argv[2]]
    os.execv(Path(sys.executable).parent / "bentoml", command)
