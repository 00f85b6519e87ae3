"""Fitted models of scikit-learn: classifiers, regressors, and pipelines that end in one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.training.fitted import ModelFile, beside
from tidemill.training.sample import Floats, Sample


class FittedSklearn:
    """Answers with a probability where the model tells one, else with its decision function, else with its prediction."""

    packages = ("scikit-learn", "skl2onnx", "skops")

    def __init__(self, model: Any, output_index: int | None) -> None:
        self._model = model
        has = [name for name in ("predict_proba", "decision_function", "predict") if hasattr(model, name)]
        if not has:
            raise Invalid(f"a {type(model).__name__} gives no score; expected a classifier or a regressor")
        # A list of classes, one for each of its labels, has a classifier of several.
        self._classes: Any = classes if not isinstance(classes := getattr(model, "classes_", None), list) else None
        self._method = has[0] if self._classes is not None else "predict"
        self.probability = self._method == "predict_proba"
        outcomes = 0 if self._classes is None else len(self._classes)
        if outcomes > 2 and output_index is None:
            raise Invalid(f"the model tells {outcomes} outcomes; say which is the score: output_index=0 to {outcomes - 1}")
        self._index = output_index if output_index is not None else 1 if self.probability and outcomes == 2 else 0

    def score(self, sample: Sample) -> Floats:
        answer = np.asarray(getattr(self._model, self._method)(self._rows(sample)), dtype=np.float64)
        return answer[:, self._index] if answer.ndim == 2 else answer

    def others(self, sample: Sample) -> dict[str, NDArray[Any]]:
        rows = self._rows(sample)
        if self._classes is None:
            answer = np.asarray(self._model.predict(rows))
            return {"predictions": answer} if answer.ndim == 2 and answer.shape[1] > 1 else {}
        if len(self._classes) == 2 and self._classes.dtype.kind in "biuf" and set(self._classes.tolist()) == {0, 1}:
            return {}  # the score and its threshold say it
        if self._method == "predict":
            return {}
        name = "probabilities" if self.probability else "decisions"
        told = np.asarray(getattr(self._model, self._method)(rows))
        return {"label": np.asarray(self._model.predict(rows)), **({name: told} if told.ndim == 2 else {})}

    def to_onnx(self, sample: Sample) -> ModelFile:
        if sample.texts or self._by_name():
            return self._convert(sample, {name: (name,) for name in sample.names})
        return self._convert(sample, {"x": sample.names})

    def own_file(self, sample: Sample) -> ModelFile:
        try:
            import skops.io
        except ImportError as error:
            raise ExtraMissing("skops", "sklearn") from error
        said = self.others(sample)
        return ModelFile(
            runtime="sklearn",
            file="model.skops",
            data=skops.io.dumps(self._model),
            tensors={"x": sample.names},
            output=self._method,
            output_index=self._index,
            others=beside(said, {name: "predict" if name == "label" else self._method for name in said}),
        )

    def _convert(self, sample: Sample, tensors: dict[str, tuple[str, ...]]) -> ModelFile:
        try:
            import skl2onnx
            from skl2onnx.common.data_types import FloatTensorType, StringTensorType
        except ImportError as error:
            raise ExtraMissing("skl2onnx", "ml") from error
        types = [
            (name, (StringTensorType if names[0] in sample.texts else FloatTensorType)([None, len(names)]))
            for name, names in tensors.items()
        ]
        options = {id(self._model): {"zipmap": False}} if self.probability else None
        try:
            made = skl2onnx.convert_sklearn(self._model, initial_types=types, options=options)
        except Exception as error:  # converters raise whatever they stumble over
            raise Invalid(f"skl2onnx does not convert it: {type(error).__name__}: {str(error).strip()[:200]}") from error
        outputs = [tensor.name for tensor in made.graph.output]
        said = self.others(sample)
        return ModelFile(
            runtime="onnx",
            file="model.onnx",
            data=made.SerializeToString(deterministic=True),
            tensors=tensors,
            output=outputs[-1],
            output_index=self._index,
            others=beside(said, {name: outputs[0 if name == "label" else -1] for name in said}, kind="float"),
        )

    def _by_name(self) -> bool:
        """Return whether some step picks columns by their names, so that it wants each as a tensor of its own."""
        steps = [step for _, step in getattr(self._model, "steps", [])]
        return any(hasattr(step, "transformers") for step in (self._model, *steps))

    def _rows(self, sample: Sample) -> Any:
        if not hasattr(self._model, "feature_names_in_"):
            return sample.matrix()
        try:
            import pandas as pd
        except ImportError as error:
            raise ExtraMissing("pandas", "sklearn") from error
        return pd.DataFrame(sample.columns)
