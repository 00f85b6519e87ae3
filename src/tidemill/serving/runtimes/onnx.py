"""Models in ONNX, run by ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.core.signature import ModelSpec
from tidemill.serving.block import Block
from tidemill.serving.runtimes.runtime import (
    Answer,
    Column,
    Columns,
    ModelFailed,
    Scores,
    check_sources,
    primary,
    read_model,
    sources,
    whole_answer,
)

_NUMERIC: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
_TEXT = "tensor(string)"


class OnnxRuntime:
    """A session of one thread by default: workers are processes, and threads of theirs would only fight over the cores."""

    def __init__(self, data: bytes, spec: ModelSpec, *, model: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._model, self._spec = model, spec
        try:
            # From bytes: a model file may name other files, which are not to be looked for beside it.
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no base but this
            raise Invalid(f"{spec.file} of model {model} is not a model that ONNX Runtime can run: {error}") from error
        self._fill = self._plan()
        self._outputs, self._sources = [spec.output], list(sources(spec))
        # One matrix of single precision is what most models take: a block of the same is given to them as it is.
        (tensor, *others) = self._session.get_inputs()
        plain = not others and tensor.type == "tensor(float)" and len(tensor.shape) == 2
        self._only: str = tensor.name
        self._same = (spec.tensors[tensor.name], np.dtype(np.float32)) if plain else None

    def run(self, columns: Columns, rows: int) -> Scores:
        return primary(self._ask(self._outputs, columns, rows)[0], self._spec, rows, self._model)

    def answer(self, columns: Columns, rows: int) -> Answer:
        found = dict(zip(self._sources, self._ask(self._sources, columns, rows), strict=True))
        return whole_answer(found, self._spec, rows, self._model)

    def _ask(self, outputs: list[str], columns: Columns, rows: int) -> list[Any]:
        if type(columns) is Block and (columns.names, columns.matrix.dtype) == self._same:
            feeds = {self._only: columns.matrix}
        else:
            feeds = {name: fill(columns, rows) for name, fill in self._fill.items()}
        try:
            answers: list[Any] = self._session.run(outputs, feeds)
        except Exception as error:  # the same
            raise ModelFailed(self._model, str(error)) from error
        return answers

    def _plan(self) -> dict[str, Callable[[Columns, int], NDArray[Any]]]:
        inputs = {tensor.name: tensor for tensor in self._session.get_inputs()}
        if set(inputs) != set(self._spec.tensors):
            raise Invalid(
                f"model {self._model} takes the tensors {', '.join(sorted(inputs))}, "
                f"its model.json fills {', '.join(sorted(self._spec.tensors)) or 'none'}; register it again with a matching model.json"
            )
        outputs = {tensor.name: tensor for tensor in self._session.get_outputs()}
        if self._spec.output not in outputs:
            raise Invalid(f"model {self._model} has no output {self._spec.output!r} (it has: {', '.join(outputs)})")
        if not outputs[self._spec.output].type.startswith("tensor("):
            raise Invalid(
                f"output {self._spec.output!r} of model {self._model} is no tensor; export the model without ZipMap (zipmap=False)"
            )
        check_sources(self._spec, [name for name, tensor in outputs.items() if tensor.type.startswith("tensor(")], self._model)
        return {name: self._filler(name, tensor, self._spec.tensors[name]) for name, tensor in inputs.items()}

    def _filler(self, name: str, tensor: Any, columns: tuple[str, ...]) -> Callable[[Columns, int], NDArray[Any]]:
        wide = tensor.shape[1] if len(tensor.shape) == 2 else 1
        if len(tensor.shape) > 2 or (isinstance(wide, int) and wide != len(columns)):
            raise Invalid(
                f"tensor {name!r} of model {self._model} has the shape {tensor.shape}; model.json fills it with {len(columns)} columns"
            )
        flat = len(tensor.shape) == 1
        if tensor.type == _TEXT:
            return lambda found, rows: _text(found, columns, rows, flat)
        if tensor.type not in _NUMERIC:
            raise Invalid(f"tensor {name!r} of model {self._model} is a {tensor.type}; expected one of {', '.join([*_NUMERIC, _TEXT])}")
        # Nothing here holds the runtime itself: its memory is free when nobody holds it any more, not when the collector looks.
        kind, model = _NUMERIC[tensor.type], self._model
        return lambda found, rows: _numbers(found, columns, rows, kind, flat, model)


def _numbers(found: Columns, columns: tuple[str, ...], rows: int, kind: Any, flat: bool, model: str) -> NDArray[Any]:
    if isinstance(found, Block) and found.names == columns and kind in (np.float32, np.float64):
        whole = found.matrix if found.matrix.dtype == kind else found.matrix.astype(kind)
        return whole[:, 0] if flat else whole
    filled = np.empty((rows, len(columns)), dtype=kind)
    for place, name in enumerate(columns):
        try:
            filled[:, place] = _present(found[name], kind)
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelFailed(model, f"column {name!r} does not fit its tensor of {np.dtype(kind).name}: {error}") from error
    return filled[:, 0] if flat else filled


def _present(column: Column, kind: Any) -> Column:
    if kind in (np.float32, np.float64):
        return column if isinstance(column, np.ndarray) else np.array(column, dtype=np.float64)  # None becomes NaN
    if isinstance(column, np.ndarray) and np.isnan(column).any():
        raise ValueError("a missing value has no place in a tensor of whole numbers")
    return column


def _text(found: Columns, columns: tuple[str, ...], rows: int, flat: bool) -> NDArray[Any]:
    filled = np.empty((rows, len(columns)), dtype=object)
    for place, name in enumerate(columns):
        filled[:, place] = ["" if value is None else value for value in found[name]]
    return filled[:, 0] if flat else filled


def load_onnx(folder: Path, spec: ModelSpec, *, model: str, threads: int) -> OnnxRuntime:
    """Load the ONNX file of a bundle."""
    return OnnxRuntime(read_model(folder, spec, model), spec, model=model, threads=threads)
