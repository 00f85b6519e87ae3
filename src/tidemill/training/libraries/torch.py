"""Fitted models of PyTorch: modules that take one tensor [rows, columns] of float32 and give a score a row."""

import copy
import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.core.signature import Output
from tidemill.training.fitted import ModelFile, beside
from tidemill.training.sample import Floats, Sample


class FittedTorch:
    """Answers as in evaluation. Its own file is an exported program (`.pt2`), which only a server that trusts torch loads."""

    packages = ("torch",)
    probability = False

    def __init__(self, model: Any, output_index: int | None) -> None:
        import torch

        self._torch = torch
        self._module: Any = copy.deepcopy(model).eval().cpu()
        self._index = output_index

    def score(self, sample: Sample) -> Floats:
        answer = np.asarray(self._answer(sample), dtype=np.float64)
        if answer.ndim == 2 and answer.shape[1] > 1 and self._index is None:
            raise Invalid(f"the module gives {answer.shape[1]} numbers a row; say which is the score: output_index=…")
        return answer[:, self._index or 0] if answer.ndim == 2 else answer

    def others(self, sample: Sample) -> dict[str, NDArray[Any]]:
        answer = self._answer(sample)
        return {"predictions": answer} if answer.ndim == 2 and answer.shape[1] > 1 else {}

    def to_onnx(self, sample: Sample) -> ModelFile:
        buffer = io.BytesIO()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter that needs no further library warns that it is the older one
                self._torch.onnx.export(
                    self._module, (self._tensor(sample),), buffer, input_names=["x"], output_names=["score"],
                    dynamic_axes={"x": {0: "rows"}, "score": {0: "rows"}}, dynamo=False,
                )  # fmt: skip
        except Exception as error:  # converters raise whatever they stumble over
            raise Invalid(f"torch.onnx does not convert it: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        return ModelFile(
            runtime="onnx",
            file="model.onnx",
            data=buffer.getvalue(),
            tensors={"x": sample.names},
            output="score",
            output_index=self._index or 0,
            others=self._beside(sample),
        )

    def own_file(self, sample: Sample) -> ModelFile:
        buffer, rows = io.BytesIO(), self._tensor(sample)
        rows = rows if len(rows) > 1 else self._torch.cat([rows, rows])  # one row alone would be taken for all that there can be
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dynamic = ({0: self._torch.export.Dim("rows")},)
                self._torch.export.save(self._torch.export.export(self._module, (rows,), dynamic_shapes=dynamic), buffer)
        except Exception as error:  # the same
            raise Invalid(f"torch.export does not take it: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        return ModelFile(
            runtime="torch",
            file="model.pt2",
            data=buffer.getvalue(),
            tensors={"x": sample.names},
            output="score",
            output_index=self._index or 0,
            others=self._beside(sample),
        )

    def _answer(self, sample: Sample) -> NDArray[Any]:
        with self._torch.inference_mode():
            try:
                answer: NDArray[Any] = self._module(self._tensor(sample)).numpy()
            except Exception as error:  # user code
                raise Invalid(f"the module does not take rows of {len(sample.names)} numbers: {type(error).__name__}: {error}") from error
        return answer

    def _beside(self, sample: Sample) -> tuple[Output, ...]:
        said = self.others(sample)
        single = any(array.dtype == np.float32 for array in said.values())
        return beside(said, dict.fromkeys(said, "score"), kind="float" if single else None)

    def _tensor(self, sample: Sample) -> Any:
        kinds = [parameter.dtype for parameter in self._module.parameters() if parameter.is_floating_point()]
        return self._torch.from_numpy(sample.matrix()).to(kinds[0] if kinds else self._torch.float32)
