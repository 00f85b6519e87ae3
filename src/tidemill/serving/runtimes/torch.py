"""Models of PyTorch: TorchScript (`.pt`) and exported programs (`.pt2`). Numbers in, the first answer out.

Only where trusted, in a process of their own: torch 2.13 says of both that their files can be made to run any code while they are
loaded (the warnings of `torch.jit.load` and `torch.export.load`, which unpickle), and a program is code in any case.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.signature import ModelSpec
from tidemill.core.values import replace
from tidemill.serving.runtimes.matrix import MatrixFeed
from tidemill.serving.runtimes.runtime import Columns, ModelFailed, Scores, primary, read_model


class TorchRuntime:
    """A program that takes one tensor [rows, columns] for each tensor of the spec, in order.

    Of several answers, `output` of the spec names one: by its key, or by its place (0, 1, …); the first unless it does.
    """

    def __init__(self, data: bytes, spec: ModelSpec, *, model: str, threads: int) -> None:
        self._model, self._spec = model, spec
        self._feeds = [MatrixFeed(replace(spec, tensors={name: columns}), model=model) for name, columns in spec.tensors.items()]
        self._torch = _torch()
        self._torch.set_num_threads(threads)
        self._program = _program(self._torch, data, spec, model)
        kinds = [parameter.dtype for parameter in self._program.parameters() if parameter.is_floating_point()]
        self._kind = np.float64 if kinds and kinds[0] == self._torch.float64 else np.float32

    def run(self, columns: Columns, rows: int) -> Scores:
        matrices = [np.array(feed.matrix(columns), dtype=self._kind) for feed in self._feeds]  # a copy: programs may write
        try:
            with self._torch.inference_mode():
                answer = self._picked(self._program(*map(self._torch.from_numpy, matrices)))
                scores = answer.detach().cpu().numpy()
        except Exception as error:  # user code
            raise ModelFailed(self._model, f"{type(error).__name__}: {str(error).strip()[:500]}") from error
        return primary(scores, self._spec, rows, self._model)

    def _picked(self, answer: Any) -> Any:
        wanted = self._spec.output
        if isinstance(answer, dict):
            return answer[wanted] if wanted in answer else next(iter(answer.values()))
        if isinstance(answer, tuple | list):
            return answer[int(wanted) if wanted.isdecimal() else 0]
        return answer


def load_torch(folder: Path, spec: ModelSpec, *, model: str, threads: int) -> TorchRuntime:
    """Load the program of a bundle."""
    return TorchRuntime(read_model(folder, spec, model), spec, model=model, threads=threads)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ExtraMissing("torch", "torch") from error
    return torch


def _program(torch: Any, data: bytes, spec: ModelSpec, model: str) -> Any:
    try:
        if spec.file.endswith(".pt2"):
            return torch.export.load(io.BytesIO(data)).module()
        return torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
    except Exception as error:  # torch raises many classes
        reason = " ".join(str(error).split())[:300]
        raise Invalid(f"{spec.file} of model {model} is neither TorchScript (.pt) nor an exported program (.pt2): {reason}") from error
