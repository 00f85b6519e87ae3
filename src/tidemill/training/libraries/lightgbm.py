"""Fitted models of LightGBM: its booster, or one of its estimators."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.training.export import booster_to_onnx
from tidemill.training.fitted import ModelFile, beside
from tidemill.training.sample import Floats, Sample

THREADS = 1  # scores of a sample


class FittedLightgbm:
    """Answers with all rounds, or with the best where early stopping chose some."""

    packages = ("lightgbm",)

    def __init__(self, model: Any, output_index: int | None) -> None:
        self._booster: Any = model if hasattr(model, "model_to_string") else model.booster_
        self._many = self._booster.num_model_per_iteration() > 1
        if self._many and output_index is None:
            raise Invalid(f"the model tells {self._booster.num_model_per_iteration()} outcomes; say which is the score: output_index=…")
        self._index = (output_index or 0) if self._many else 0
        self._text: str = self._booster.model_to_string()
        self.probability = any(line.split()[0] in ("objective=binary", "objective=multiclass") for line in self._objective())
        if self._booster.pandas_categorical:
            raise Invalid("the model was fitted on categories of pandas, whose codes are not the server's; fit it on numbers")

    def score(self, sample: Sample) -> Floats:
        answer = np.asarray(self._booster.predict(sample.matrix(), num_threads=THREADS), dtype=np.float64)
        return answer[:, self._index] if answer.ndim == 2 else answer

    def others(self, sample: Sample) -> dict[str, NDArray[Any]]:
        return {"probabilities": self._booster.predict(sample.matrix(), num_threads=THREADS)} if self._many else {}

    def to_onnx(self, sample: Sample) -> ModelFile:
        if self._many:
            raise Invalid("only LightGBM models of one score a row are written as ONNX")
        data = booster_to_onnx(self._text, len(sample.names))
        return ModelFile(runtime="onnx", file="model.onnx", data=data, tensors={"x": sample.names}, output="score")

    def own_file(self, sample: Sample) -> ModelFile:
        return ModelFile(
            runtime="lightgbm",
            file="model.txt",
            data=self._text.encode(),
            tensors={"x": sample.names},
            output="score",
            output_index=self._index,
            others=beside(self.others(sample), {"probabilities": "score"}),
        )

    def _objective(self) -> list[str]:
        return [line for line in self._text[:2000].splitlines() if line.startswith("objective=")]
