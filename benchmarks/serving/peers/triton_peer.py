"""Triton with its Python backend, by PyTriton's wheel: `python triton_peer.py FOLDER PORT`. One instance; no waiting for a batch."""

import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from session import Session

if __name__ == "__main__":
    session = Session(sys.argv[1])

    @batch
    def infer(x: np.ndarray) -> list[np.ndarray]:
        return [session.run(x).reshape(-1, 1)]

    port = int(sys.argv[2])
    config = TritonConfig(
        http_address="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            "trees", infer, [Tensor(name="x", dtype=np.float32, shape=(30,))], [Tensor(name="score", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=64),
        )  # fmt: skip
        triton.serve()
