"""Models as a Python function of columns: `file` of the spec reads `model.py:predict` (a file of the bundle) or `package.module:predict`.

The function takes a dict of one array a column (float64, or object for text) and returns one number a row, or a dict of arrays: the
score by the `output` of the spec, beside it the others by theirs. It is code: a server loads it only when its settings trust this
runtime, and then into a process of its own.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Corrupt, Invalid
from tidemill.core.signature import ModelSpec
from tidemill.serving.runtimes.runtime import Answer, Column, Columns, ModelFailed, Scores, checked, given, primary, whole_answer

_Function = Callable[[dict[str, NDArray[Any]]], Any]


class PythonRuntime:
    """A function, called with the columns that the spec's tensors name."""

    def __init__(self, function: _Function, spec: ModelSpec, *, model: str) -> None:
        self._function, self._spec, self._model = function, spec, model
        kinds = {column.name: column.kind for column in spec.signature.inputs}
        self._columns = [(name, kinds[name] == "string") for names in spec.tensors.values() for name in names]

    def run(self, columns: Columns, rows: int) -> Scores:
        answer = self.give(columns)
        if self._spec.others or (isinstance(answer, Mapping) and self._spec.output in answer):
            found = answer if isinstance(answer, Mapping) else {self._spec.output: answer}
            return primary(given(found, self._spec.output, self._model), self._spec, rows, self._model)
        try:
            scores = np.asarray(answer, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ModelFailed(self._model, f"{type(error).__name__}: {error}") from error
        return checked(scores, rows, self._model)

    def answer(self, columns: Columns, rows: int) -> Answer:
        answer = self.give(columns)
        found = answer if isinstance(answer, Mapping) else {self._spec.output: answer}
        return whole_answer(found, self._spec, rows, self._model)

    def give(self, columns: Columns) -> Any:
        """Return the function's answer as it is. Raises ModelFailed."""
        found = {name: _array(columns[name], text=text) for name, text in self._columns}
        try:
            return self._function(found)
        except Exception as error:  # user code
            raise ModelFailed(self._model, f"{type(error).__name__}: {error}") from error


def load_python(folder: Path, spec: ModelSpec, *, model: str, threads: int) -> PythonRuntime:
    """Load the function that a bundle names."""
    place, colon, name = spec.file.rpartition(":")
    if not colon or not name.isidentifier():
        raise Invalid(f"model {model} names the function {spec.file!r}; expected FILE.py:FUNCTION or MODULE:FUNCTION")
    try:
        module = _file_module(folder / place, folder.name) if place.endswith(".py") else importlib.import_module(place)
        function = getattr(module, name)
    except FileNotFoundError:
        raise Corrupt(f"model bundle of {model} has no {place}; register the model again") from None
    except Exception as error:  # user code runs when a module is imported
        raise Invalid(f"function {spec.file!r} of model {model} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise Invalid(f"{spec.file!r} of model {model} is not a function")
    return PythonRuntime(function, spec, model=model)


def _file_module(path: Path, bundle: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"tidemill_bundle_{bundle}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _array(column: Column, *, text: bool) -> NDArray[Any]:
    if not text:
        return np.asarray(column, dtype=np.float64)
    filled = np.empty(len(column), dtype=object)
    filled[:] = list(column)
    return filled
