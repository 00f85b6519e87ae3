"""Models of scikit-learn in the skops format: never a pickle. `output` of the spec names the method that answers.

The types that a file names are read before it is loaded, and only those of scikit-learn's models are built. That keeps accidents
out, not attackers: skops is no security boundary (mlflow#25686), so a server loads such files only when its settings trust them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.signature import ModelSpec
from tidemill.serving.block import Block
from tidemill.serving.runtimes.matrix import MatrixFeed
from tidemill.serving.runtimes.runtime import (
    Answer,
    Columns,
    ModelFailed,
    Scores,
    check_sources,
    primary,
    read_model,
    sources,
    whole_answer,
)

METHODS = ("predict_proba", "predict", "decision_function")
# What its classifiers and regressors, fitted with their defaults, hold beyond what skops builds unasked.
_BUILT = frozenset(
    {
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.tree._tree.Tree",
    }
)


class SklearnRuntime:
    """An estimator: fed a frame when it was fitted on one, a matrix else."""

    def __init__(self, data: bytes, spec: ModelSpec, *, model: str) -> None:
        self._model, self._spec = model, spec
        estimator = read_estimator(data, spec.file, model)
        has = [method for method in METHODS if hasattr(estimator, method)]
        if spec.output not in has:
            told = ", ".join(has) or "none that answers"
            raise Invalid(f"model {model} has no method {spec.output!r} (it has: {told}); name one as output in its model.json")
        check_sources(spec, has, model)
        self._methods: dict[str, Callable[[Any], Any]] = {name: getattr(estimator, name) for name in sources(spec)}
        self._feed = _feed(estimator, spec, model)

    def run(self, columns: Columns, rows: int) -> Scores:
        return primary(self._ask(self._spec.output, self._feed(columns)), self._spec, rows, self._model)

    def answer(self, columns: Columns, rows: int) -> Answer:
        fed = self._feed(columns)
        return whole_answer({name: self._ask(name, fed) for name in self._methods}, self._spec, rows, self._model)

    def _ask(self, method: str, fed: Any) -> Any:
        try:
            return self._methods[method](fed)
        except Exception as error:  # scikit-learn raises many classes
            raise ModelFailed(self._model, f"{type(error).__name__}: {error}") from error


def load_sklearn(folder: Path, spec: ModelSpec, *, model: str, threads: int) -> SklearnRuntime:
    """Load the skops file of a bundle. One row is scored by one thread, whatever the estimator was fitted with."""
    return SklearnRuntime(read_model(folder, spec, model), spec, model=model)


def read_estimator(data: bytes, file: str, model: str) -> Any:
    """Return the estimator of a skops file, if all that it names is scikit-learn's. Raises Invalid, ExtraMissing."""
    try:
        import skops.io
    except ImportError as error:
        raise ExtraMissing("skops", "sklearn") from error
    try:
        named = skops.io.get_untrusted_types(data=data)
    except Exception as error:  # a file that is none fails in many ways
        raise Invalid(f"{file} of model {model} is not in the skops format: {type(error).__name__}: {error}") from error
    if strange := sorted(set(named) - _BUILT):
        raise Invalid(
            f"{file} of model {model} holds what is not scikit-learn's: {', '.join(strange)}; register it as ONNX, or as a Python function"
        )
    try:
        estimator = skops.io.loads(data, trusted=named)
    except Exception as error:  # the same
        raise Invalid(f"{file} of model {model} cannot be loaded: {type(error).__name__}: {error}") from error
    for name in getattr(estimator, "get_params", dict)():
        if name.rpartition("__")[2] == "n_jobs":
            estimator.set_params(**{name: 1})
    return estimator


def _feed(estimator: Any, spec: ModelSpec, model: str) -> Callable[[Columns], Any]:
    """Return what turns columns into what the estimator was fitted on. Raises Invalid when its columns are others."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        feed = MatrixFeed(spec, model=model)
        feed.check_width(int(getattr(estimator, "n_features_in_", len(feed.names))))
        return feed.matrix
    try:
        import pandas as pd
    except ImportError as error:
        raise ExtraMissing("pandas", "sklearn") from error
    fed = [name for columns in spec.tensors.values() for name in columns]
    if list(names) != fed:
        raise Invalid(f"model {model} was fitted on {', '.join(map(str, names))}; its model.json feeds it {', '.join(fed)}")
    texts = {name for name in fed if spec.signature.input(name).kind == "string"}

    def frame(columns: Columns) -> Any:
        if isinstance(columns, Block) and list(columns.names) == fed:
            return pd.DataFrame(columns.matrix, columns=fed)
        return pd.DataFrame({name: _array(columns[name], text=name in texts) for name in fed})

    return frame


def _array(column: Any, *, text: bool) -> NDArray[Any]:
    return np.array(column, dtype=object if text else np.float64)  # None is missing text, and NaN among numbers
