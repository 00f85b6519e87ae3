"""Triton with its Python backend, from PyTriton's wheel: `python triton_peer.py FOLDER PORT`. One instance; no waiting for a batch.

The server is started as itself, with a model repository, since that is several times faster than going through PyTriton.
"""

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

CONFIG = """backend: "python"
max_batch_size: 64
input [{ name: "x", data_type: TYPE_FP32, dims: [30] }]
output [{ name: "score", data_type: TYPE_FP32, dims: [1] }]
instance_group [{ kind: KIND_CPU, count: 1 }]
"""
MODEL = """import sys

sys.path[:0] = {paths!r}
import numpy as np
import triton_python_backend_utils as triton
from session import Session


class TritonPythonModel:
    def initialize(self, args):
        self.session = Session({folder!r})

    def execute(self, requests):
        answers = []
        for request in requests:
            rows = triton.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(triton.InferenceResponse([triton.Tensor("score", self.session.run(rows).reshape(-1, 1))]))
        return answers
"""

if __name__ == "__main__":
    site = Path(sysconfig.get_paths()["purelib"])
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    place = Path(tempfile.mkdtemp(dir=sys.argv[1]))
    server = place / "tritonserver"
    shutil.copytree(site / "pytriton" / "tritonserver", server, ignore=shutil.ignore_patterns("python_backend_stubs"))
    stub = site / "pytriton" / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, server / "backends" / "python" / stub.name)
    model = place / "models" / "trees"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "1" / "model.py").write_text(MODEL.format(paths=[str(Path(__file__).parent), str(site)], folder=sys.argv[1]))
    port = int(sys.argv[2])
    libraries = os.pathsep.join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), str(site / "nvidia_pytriton.libs")]))
    command = [
        str(server / "bin" / "tritonserver"), f"--model-repository={model.parent}", f"--backend-directory={server / 'backends'}",
        "--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false",
    ]  # fmt: skip
    os.execve(command[0], command, os.environ | {"LD_LIBRARY_PATH": libraries})
