"""Models in XGBoost's JSON or UBJSON: numbers only, missing ones as NaN."""

from pathlib import Path
from typing import Any

from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.signature import ModelSpec
from tidemill.serving.runtimes.matrix import MatrixFeed
from tidemill.serving.runtimes.runtime import Answer, Columns, ModelFailed, Scores, check_sources, primary, read_model, whole_answer


class XgboostRuntime:
    """A booster that reads a matrix in place."""

    def __init__(self, data: bytes, spec: ModelSpec, *, model: str, threads: int) -> None:
        self._model, self._spec = model, spec
        self._feed = MatrixFeed(spec, model=model)
        check_sources(spec, [spec.output], model)
        self._booster = _booster(data, spec, model, threads)
        self._feed.check_width(self._booster.num_features())
        best, rounds = self._booster.attr("best_iteration"), self._booster.num_boosted_rounds()
        if best is not None and int(best) + 1 < rounds:
            # XGBoost's own classes differ here: its estimators answer with the best rounds, its booster with all.
            raise Invalid(
                f"model {model} has {rounds} rounds, of which early stopping chose {int(best) + 1}; "
                f"save what is to answer: booster[: booster.best_iteration + 1].save_model({spec.file!r})"
            )

    def run(self, columns: Columns, rows: int) -> Scores:
        return primary(self._ask(columns), self._spec, rows, self._model)

    def answer(self, columns: Columns, rows: int) -> Answer:
        return whole_answer({self._spec.output: self._ask(columns)}, self._spec, rows, self._model)

    def _ask(self, columns: Columns) -> Any:
        matrix = self._feed.matrix(columns)
        try:
            return self._booster.inplace_predict(matrix, validate_features=False)
        except Exception as error:  # XGBoost raises its own class for what the row holds, and others for its shape
            raise ModelFailed(self._model, f"{type(error).__name__}: {error}") from error


def load_xgboost(folder: Path, spec: ModelSpec, *, model: str, threads: int) -> XgboostRuntime:
    """Load the JSON or UBJSON file of a bundle."""
    return XgboostRuntime(read_model(folder, spec, model), spec, model=model, threads=threads)


def _booster(data: bytes, spec: ModelSpec, model: str, threads: int) -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise ExtraMissing("xgboost", "xgboost") from error
    try:
        if not data.startswith(b"{"):
            raise ValueError("it does not begin with '{'")
        booster = xgboost.Booster({"nthread": threads})
        booster.load_model(bytearray(data))
    except (ValueError, xgboost.core.XGBoostError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Invalid(f"{spec.file} of model {model} is not a model in XGBoost's JSON or UBJSON: {reason}") from error
    booster.set_param({"nthread": threads})
    return booster
