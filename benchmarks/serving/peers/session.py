"""What all peers run: the model file of a folder in ONNX Runtime, one thread."""

from pathlib import Path

import numpy as np
import onnxruntime


class Session:
    """The model."""

    def __init__(self, folder: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(Path(folder) / "model.onnx", options, providers=["CPUExecutionProvider"])

    def run(self, rows: np.ndarray) -> np.ndarray:
        """Return a score a row."""
        scores: np.ndarray = self._session.run(None, {"x": rows.astype(np.float32, copy=False)})[0]
        return scores.reshape(-1)

    def of_tensor(self, tensor: dict[str, object]) -> list[float]:
        """Return the scores of a tensor as the Open Inference Protocol has it in JSON."""
        scores: list[float] = self.run(np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])).tolist()
        return scores
