"""What a runtime is, and the table of those there are."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tidemill.core.codec import decode
from tidemill.core.errors import Corrupt, Invalid, NotPermitted, TidemillError
from tidemill.core.settings import nearest
from tidemill.core.signature import SPEC_FILE, ModelSpec, Output
from tidemill.registry.mlmodel import MLMODEL_FILE, parse_mlmodel
from tidemill.registry.served import served_spec
from tidemill.serving.block import finite
from tidemill.serving.outputs import DTYPES, Array

Column = Sequence[Any] | NDArray[Any]
Columns = Mapping[str, Column]
Scores = NDArray[np.float64]

# Members are loaded when chosen; they never import this table's members.
RUNTIMES = {
    "lightgbm": "tidemill.serving.runtimes.lightgbm:load_lightgbm",
    "mlflow": "tidemill.serving.runtimes.mlflow:load_mlflow",
    "onnx": "tidemill.serving.runtimes.onnx:load_onnx",
    "python": "tidemill.serving.runtimes.python:load_python",
    "sklearn": "tidemill.serving.runtimes.sklearn:load_sklearn",
    "steps": "tidemill.serving.runtimes.steps:load_steps",
    "torch": "tidemill.serving.runtimes.torch:load_torch",
    "xgboost": "tidemill.serving.runtimes.xgboost:load_xgboost",
}
# What runs code of a bundle, in a process of its own a bundle: it may crash, hang and leak, and nobody else is harmed.
ISOLATED = frozenset({"mlflow", "python", "torch"})
# Libraries whose models, run by one thread, hold neither threads nor locks of their own.
FORKABLE = frozenset({"lightgbm", "onnx"})
# Whoever wrote the code was given the rows of one request, and may have made use of it.
LOOKS_AROUND = frozenset({"mlflow", "python"})
_ISOLATION = "tidemill.serving.runtimes.isolated:load_isolated"


class Answer(NamedTuple):
    """What a model says of rows: the scores, and what its spec names beside them, in that order."""

    scores: Scores
    others: tuple[Array, ...]


class Runtime(Protocol):
    """One loaded model. The law for every implementation:

    - run is deterministic and keeps no state between calls; it may be called from several threads.
    - Numeric columns are lists or arrays, None and NaN meaning missing; text columns hold str, None meaning missing.
    - The score is one finite float64 a row; anything else, and any exception of the model, is ModelFailed.
    - answer gives the same scores, and each of the others as its spec declares it: n rows of that kind and width, numbers finite, text
      as str. Anything else is ModelFailed. To run costs the same, whatever others there are.
    - What does not fit the spec is found when loading, not when running: Invalid.
    - One that answers from elsewhere has a true `waits`: it is called in a thread, so that other endpoints do not wait for it.
    """

    def run(self, columns: Columns, rows: int) -> Scores:
        """Return the score of each row."""
        ...

    def answer(self, columns: Columns, rows: int) -> Answer:
        """Return the score of each row, and what is said beside it."""
        ...


class ModelFailed(TidemillError):
    """The model raised, or gave something that is no answer."""

    def __init__(self, model: str, reason: str) -> None:
        self.model, self.reason = model, reason
        super().__init__(f"model {model} failed: {reason}; the request is fine, look at the model with: tidemill model show {model}")


class RuntimeRefused(NotPermitted):
    """The server's settings do not allow this kind of model."""

    def __init__(self, runtime: str, trusted: Sequence[str]) -> None:
        self.runtime = runtime
        super().__init__(
            f"this server does not load models of runtime {runtime!r} (it trusts: {', '.join(trusted)}); "
            f"if the bundle's code may run here, add {runtime!r} to the setting trusted_runtimes"
        )


def read_spec(folder: Path) -> ModelSpec:
    """Return the spec of a bundle, or the one that an MLflow model comes to. Raises Corrupt when it is neither, Invalid."""
    if (folder / SPEC_FILE).is_file():
        return decode((folder / SPEC_FILE).read_bytes(), ModelSpec, what=f"{SPEC_FILE} of bundle {folder.name}")
    if (folder / MLMODEL_FILE).is_file():
        return served_spec(parse_mlmodel((folder / MLMODEL_FILE).read_bytes()), lambda path: _inside(folder, path).read_bytes())
    raise Corrupt(f"model bundle {folder.name} has no {SPEC_FILE}; register the model again")


def load_runtime(
    folder: Path, spec: ModelSpec, *, trusted: Sequence[str], model: str, threads: int = 1, deadline_s: float = 10.0
) -> Runtime:
    """Load the model of a bundle, here or in a process of its own that has deadline_s for each answer.

    Raises Invalid, Corrupt, RuntimeRefused, ExtraMissing.
    """
    check_runtime(spec, trusted)
    if apart(spec):
        isolated: Runtime = _member(_ISOLATION)(folder, spec, model=model, deadline_s=deadline_s)
        return isolated
    return load_here(folder, spec, model=model, threads=threads)


def check_runtime(spec: ModelSpec, trusted: Sequence[str]) -> None:
    """Raises Invalid for a runtime that is not known, RuntimeRefused for one that is not trusted; of several steps, for each."""
    for kind in _kinds(spec):
        if kind not in RUNTIMES:
            raise Invalid(f"model runtime {kind!r} is not known; {nearest(kind, list(RUNTIMES))}")
        if kind not in trusted:
            raise RuntimeRefused(kind, trusted)


def _kinds(spec: ModelSpec) -> tuple[str, ...]:
    return tuple(step.runtime for step in spec.steps) or (spec.runtime,)


def goes_through_fork(spec: ModelSpec) -> bool:
    """Return whether a model that was loaded before a fork can be run after it."""
    return FORKABLE.issuperset(_kinds(spec))


def looks_around(spec: ModelSpec) -> bool:
    """Return whether what a model says of a row may depend on the rows that it is given with it."""
    return bool(LOOKS_AROUND.intersection(_kinds(spec)))


def apart(spec: ModelSpec) -> bool:
    """Return whether a model has a process of its own."""
    return bool(ISOLATED.intersection(_kinds(spec)))


def load_here(folder: Path, spec: ModelSpec, *, model: str, threads: int) -> Runtime:
    """Load the model of a bundle into this process, trusted or not. Raises Invalid, Corrupt, ExtraMissing."""
    runtime: Runtime = _member(RUNTIMES[spec.runtime])(folder, spec, model=model, threads=threads)
    return runtime


def _member(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def read_model(folder: Path, spec: ModelSpec, model: str) -> bytes:
    """Return the model file of a bundle. Raises Corrupt when it is not there, Invalid for one outside of the bundle."""
    try:
        return _inside(folder, spec.file).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise Corrupt(f"model bundle of {model} has no {spec.file}; register the model again") from None


def _inside(folder: Path, file: str) -> Path:
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise Invalid(f"a model names the file {file!r}, which is outside of its bundle; register it again")
    return path


def primary(answer: Any, spec: ModelSpec, rows: int, model: str) -> Scores:
    """Return the scores of what a library answered: [n], or the column output_index of [n, m]. Raises ModelFailed."""
    try:
        scores = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError):
        raise ModelFailed(model, f"its output {spec.output!r} is no array of numbers") from None
    if scores.ndim == 2:
        if not 0 <= spec.output_index < scores.shape[1]:
            raise ModelFailed(model, f"output {spec.output!r} has {scores.shape[1]} columns, none at {spec.output_index}")
        scores = scores[:, spec.output_index]
    return checked(scores, rows, model)


def checked(scores: Scores, rows: int, model: str) -> Scores:
    """Return scores if they are one finite number a row. Raises ModelFailed."""
    if scores.shape != (rows,):
        raise ModelFailed(model, f"it gave an answer of shape {scores.shape} for {rows} rows")
    if not finite(scores):
        raise ModelFailed(model, f"its score of row {int(np.flatnonzero(~np.isfinite(scores))[0])} is not a finite number")
    return scores


def sources(spec: ModelSpec) -> tuple[str, ...]:
    """Return what a model calls its score and its others, each once."""
    return tuple(dict.fromkeys((spec.output, *(output.asked for output in spec.others))))


def check_sources(spec: ModelSpec, has: Sequence[str], model: str) -> None:
    """Raises Invalid when a spec names an output that the model has not."""
    for output in spec.others:
        if output.asked not in has:
            raise Invalid(
                f"model {model} has no output {output.asked!r} (it has: {', '.join(has)}); name one as source of {output.name!r} "
                f"in its model.json"
            )


def whole_answer(found: Mapping[str, Any], spec: ModelSpec, rows: int, model: str) -> Answer:
    """Return what a library answered, by the names that it has for it, as an answer. Raises ModelFailed."""
    scores = primary(given(found, spec.output, model), spec, rows, model)
    return Answer(scores, tuple(declared(given(found, output.asked, model), output, rows, model) for output in spec.others))


def given(found: Mapping[str, Any], name: str, model: str) -> Any:
    """Return what a library answered under a name. Raises ModelFailed."""
    try:
        return found[name]
    except KeyError:
        raise ModelFailed(model, f"it gave no output {name!r} (it gave: {', '.join(map(str, found)) or 'none'})") from None


def declared(answer: Any, output: Output, rows: int, model: str) -> Array:
    """Return what a library answered if it is as its output is declared. Raises ModelFailed."""
    try:
        array = np.asarray(answer, dtype=object if output.kind == "string" else None)
    except ValueError:
        raise ModelFailed(model, f"its output {output.name!r} is uneven") from None
    wanted = [rows] if output.width is None else [rows, output.width]
    shape = [rows, -1] if wanted[1:] == [-1] and array.ndim == 2 and len(array) == rows else list(array.shape)
    if shape != wanted:
        raise ModelFailed(model, f"its output {output.name!r} has the shape {list(array.shape)}; its spec declares {wanted}")
    if output.kind == "string":
        if any(type(value) is not str for value in array.flat):
            raise ModelFailed(model, f"its output {output.name!r} holds what is no text")
        return array
    if array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, DTYPES[output.kind], "same_kind"):
        raise ModelFailed(model, f"its output {output.name!r} is of type {array.dtype}; its spec declares {output.kind}")
    numbers: Array = np.ascontiguousarray(array, dtype=DTYPES[output.kind])
    if numbers.dtype.kind == "f" and not finite(numbers):
        row = int(np.flatnonzero(~np.isfinite(numbers.reshape(rows, -1)).all(axis=1))[0])
        raise ModelFailed(model, f"its output {output.name!r} of row {row} is not a finite number")
    return numbers
