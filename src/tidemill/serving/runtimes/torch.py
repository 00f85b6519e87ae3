"""Models of PyTorch: TorchScript (`.pt`) and exported programs (`.pt2`). Numbers in, the first answer out, and further ones by name.

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
from tidemill.serving.runtimes.runtime import Answer, Columns, ModelFailed, Scores, given, primary, read_model, sources, whole_answer


class TorchRuntime:
    """A program that takes one tensor [rows, columns] for each tensor of the spec, in order.

    Of several answers, `output` of the spec names the score: by its key, or by its place (0, 1, …); the first unless it does. So do the
    sources of its others.
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
        return primary(given(self._ask(columns), self._spec.output, self._model), self._spec, rows, self._model)

    def answer(self, columns: Columns, rows: int) -> Answer:
        return whole_answer(self._ask(columns), self._spec, rows, self._model)

    def _ask(self, columns: Columns) -> dict[str, Any]:
        """Return the answers by key or place, the score's by its name in any case."""
        matrices = [np.array(feed.matrix(columns), dtype=self._kind) for feed in self._feeds]  # a copy: programs may write
        try:
            with self._torch.inference_mode():
                answer = self._program(*map(self._torch.from_numpy, matrices))
                found = _by_name(answer)
                if not self._spec.output.isdecimal():
                    found.setdefault(self._spec.output, next(iter(found.values())))
                return {name: found[name].detach().cpu().numpy() for name in sources(self._spec) if name in found}
        except Exception as error:  # user code
            raise ModelFailed(self._model, f"{type(error).__name__}: {str(error).strip()[:500]}") from error


def load_torch(folder: Path, spec: ModelSpec, *, model: str, threads: int) -> TorchRuntime:
    """Load the program of a bundle."""
    return TorchRuntime(read_model(folder, spec, model), spec, model=model, threads=threads)


def _by_name(answer: Any) -> dict[str, Any]:
    if isinstance(answer, dict):
        return dict(answer)
    return {str(place): each for place, each in enumerate(answer if isinstance(answer, tuple | list) else [answer])}


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
