"""Models of MLflow by their python_function flavor: pickles and code, so only where trusted, in a process of their own.

The model's environment is that of the server: what it needs beside mlflow has to be installed here.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Corrupt, ExtraMissing, Invalid
from tidemill.core.signature import ModelSpec
from tidemill.serving.runtimes.runtime import Answer, Columns, ModelFailed, Scores, primary, whole_answer


class MlflowRuntime:
    """A loaded python_function, fed what its signature says: a frame of columns, or one array."""

    def __init__(self, folder: Path, spec: ModelSpec, *, model: str) -> None:
        self._model, self._spec = model, spec
        self._kinds = {column.name: column.kind for column in spec.signature.inputs}
        self._function = _load(folder, spec, model)
        inputs = self._function.metadata.get_input_schema()
        self._tensors = inputs is not None and inputs.is_tensor_spec()
        self._types = {} if inputs is None or self._tensors else dict(zip(self._kinds, inputs.numpy_types(), strict=True))

    def run(self, columns: Columns, rows: int) -> Scores:
        answer = self._ask(columns)
        if (found := _by_name(answer)) is not None:
            if self._spec.output in found:
                answer = found[self._spec.output]
            elif isinstance(answer, dict):
                answer = next(iter(found.values()), None)
        return primary(_array_of(answer), self._spec, rows, self._model)

    def answer(self, columns: Columns, rows: int) -> Answer:
        answer = self._ask(columns)
        found = _by_name(answer)
        if found is None:
            found = {self._spec.output: _array_of(answer)}
        return whole_answer(found, self._spec, rows, self._model)

    def _ask(self, columns: Columns) -> Any:
        try:
            fed = self._arrays(columns) if self._tensors else self._frame(columns)
            return self._function.predict(fed)
        except Exception as error:  # user code
            raise ModelFailed(self._model, f"{type(error).__name__}: {str(error)[:500]}") from error

    def _frame(self, columns: Columns) -> Any:
        import pandas as pd

        return pd.DataFrame({name: self._array(columns[name], name) for name in self._kinds})

    def _array(self, column: Any, name: str) -> NDArray[Any]:
        if self._kinds[name] == "string":
            return np.array(column, dtype=object)
        values = np.asarray(column, dtype=np.float64)
        # Whole numbers come as doubles; MLflow takes them as what its signature says, as far as none is missing.
        return values if self._kinds[name] == "double" or np.isnan(values).any() else values.astype(self._types[name])

    def _arrays(self, columns: Columns) -> Any:
        specs = self._function.metadata.get_input_schema().inputs
        found = []
        for spec, names in zip(specs, self._spec.tensors.values(), strict=True):
            array = np.column_stack([np.asarray(columns[name]) for name in names]).astype(spec.type)
            found.append(array[:, 0] if len(spec.shape) == 1 else array)
        return found[0] if len(found) == 1 and specs[0].name is None else dict(zip(self._spec.tensors, found, strict=True))


def load_mlflow(folder: Path, spec: ModelSpec, *, model: str, threads: int) -> MlflowRuntime:
    """Load the MLflow model of a folder."""
    return MlflowRuntime(folder, spec, model=model)


def _by_name(answer: Any) -> dict[str, Any] | None:
    """Return what a model gave by column or key, None when it gave one array."""
    if isinstance(answer, dict):
        return {str(name): _array_of(each) for name, each in answer.items()}
    if hasattr(answer, "columns"):  # a frame of pandas
        return {str(name): answer[name].to_numpy() for name in answer.columns}
    return None


def _array_of(answer: Any) -> Any:
    return answer.to_numpy() if hasattr(answer, "to_numpy") else answer


def _load(folder: Path, spec: ModelSpec, model: str) -> Any:
    if not (folder / spec.file).is_file():
        raise Corrupt(f"model bundle of {model} has no {spec.file}; register the model again")
    try:
        import mlflow.pyfunc
    except ImportError as error:
        raise ExtraMissing("mlflow", "mlflow") from error
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        return mlflow.pyfunc.load_model(str(folder))
    except Exception as error:  # user code is loaded
        raise Invalid(f"the MLflow model {model} cannot be loaded: {type(error).__name__}: {str(error)[:500]}") from error
