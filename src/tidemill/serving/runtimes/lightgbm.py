"""Models in LightGBM's text format: numbers only. Categories are the numbers that training saw, never pandas' own."""

from pathlib import Path
from typing import Any

from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.signature import ModelSpec
from tidemill.serving.runtimes.matrix import MatrixFeed
from tidemill.serving.runtimes.runtime import Answer, Columns, ModelFailed, Scores, check_sources, primary, read_model, whole_answer


class LightgbmRuntime:
    """A booster that reads one matrix with the threads that it is given."""

    def __init__(self, data: bytes, spec: ModelSpec, *, model: str, threads: int) -> None:
        self._model, self._spec, self._threads = model, spec, threads
        self._feed = MatrixFeed(spec, model=model)
        check_sources(spec, [spec.output], model)
        self._booster = _booster(data, spec, model)
        self._feed.check_width(self._booster.num_feature())
        if self._booster.pandas_categorical:
            raise Invalid(
                f"model {model} was fitted on categories of pandas, whose codes are not the server's; "
                f"fit it on numbers, or register it as ONNX with its encoder"
            )

    def run(self, columns: Columns, rows: int) -> Scores:
        return primary(self._ask(columns), self._spec, rows, self._model)

    def answer(self, columns: Columns, rows: int) -> Answer:
        return whole_answer({self._spec.output: self._ask(columns)}, self._spec, rows, self._model)

    def _ask(self, columns: Columns) -> Any:
        matrix = self._feed.matrix(columns)
        try:
            return self._booster.predict(matrix, num_threads=self._threads)
        except Exception as error:  # LightGBM raises its own class for what the row holds, and others for its shape
            raise ModelFailed(self._model, f"{type(error).__name__}: {error}") from error


def load_lightgbm(folder: Path, spec: ModelSpec, *, model: str, threads: int) -> LightgbmRuntime:
    """Load the text file of a bundle."""
    return LightgbmRuntime(read_model(folder, spec, model), spec, model=model, threads=threads)


def _booster(data: bytes, spec: ModelSpec, model: str) -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise ExtraMissing("lightgbm", "lightgbm") from error
    try:
        text = data.decode()
        if not text.startswith("tree\n"):
            raise ValueError("it does not begin with 'tree'")
        return lightgbm.Booster(model_str=text)
    except (ValueError, lightgbm.basic.LightGBMError) as error:
        raise Invalid(f"{spec.file} of model {model} is not a model in LightGBM's text format: {error}") from error
