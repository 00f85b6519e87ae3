"""Fitted models of XGBoost: its booster, or one of its estimators."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.codec import decode_any
from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.training.fitted import ModelFile, beside
from tidemill.training.sample import Floats, Sample


class FittedXgboost:
    """Answers with all rounds, or with the best where early stopping chose some: the others are cut off."""

    packages = ("xgboost", "xgboost-cpu", "onnxmltools")  # one library by two names

    def __init__(self, model: Any, output_index: int | None) -> None:
        booster = model if not hasattr(model, "get_booster") else model.get_booster()
        best = booster.attr("best_iteration")
        self._booster: Any = booster[: int(best) + 1] if best is not None else booster.copy()
        self._booster.set_attr(best_iteration=None)
        self._booster.feature_names = self._booster.feature_types = None
        self._booster.set_param({"nthread": 1})
        objective = model.objective if hasattr(model, "get_booster") else _objective(booster)
        self.probability = str(objective) in ("binary:logistic", "multi:softprob")
        many = str(objective) == "multi:softprob"
        if many and output_index is None:
            raise Invalid("the model tells several outcomes; say which is the score: output_index=…")
        self._index, self._classes = (output_index or 0) if many else 0, many or str(objective) == "binary:logistic"
        self._many = many

    def score(self, sample: Sample) -> Floats:
        answer = np.asarray(self._booster.inplace_predict(sample.matrix()), dtype=np.float64)
        return answer[:, self._index] if answer.ndim == 2 else answer

    def others(self, sample: Sample) -> dict[str, NDArray[Any]]:
        answer = self._booster.inplace_predict(sample.matrix())
        if answer.ndim < 2 or answer.shape[1] == 1:
            return {}
        return {"probabilities" if self._many else "predictions": answer}

    def to_onnx(self, sample: Sample) -> ModelFile:
        try:
            import onnxmltools
            from onnxmltools.convert.common.data_types import FloatTensorType
        except ImportError as error:
            raise ExtraMissing("onnxmltools", "ml") from error
        try:
            made = onnxmltools.convert_xgboost(self._booster, initial_types=[("x", FloatTensorType([None, len(sample.names)]))])
        except Exception as error:  # converters raise whatever they stumble over
            raise Invalid(f"onnxmltools does not convert it: {type(error).__name__}: {str(error)[:200]}") from error
        said = self.others(sample)
        outputs = [tensor.name for tensor in made.graph.output]
        return ModelFile(
            runtime="onnx",
            file="model.onnx",
            data=made.SerializeToString(deterministic=True),
            tensors={"x": sample.names},
            output=outputs[-1],
            output_index=(self._index if self._many else 1) if self._classes else 0,
            others=beside(said, dict.fromkeys(said, outputs[-1]), kind="float"),
        )

    def own_file(self, sample: Sample) -> ModelFile:
        said = self.others(sample)
        return ModelFile(
            runtime="xgboost",
            file="model.ubj",
            data=bytes(self._booster.save_raw("ubj")),
            tensors={"x": sample.names},
            output="score",
            output_index=self._index,
            others=beside(said, dict.fromkeys(said, "score"), kind="float"),
        )


def _objective(booster: Any) -> str:
    return str(decode_any(booster.save_config())["learner"]["objective"]["name"])
