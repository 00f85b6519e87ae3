"""What a runtime is, and the table of those there are."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tidemill.core.codec import decode
from tidemill.core.errors import Corrupt, Invalid, NotPermitted, TidemillError
from tidemill.core.settings import nearest
from tidemill.core.signature import SPEC_FILE, ModelSpec
from tidemill.registry.mlmodel import MLMODEL_FILE, parse_mlmodel
from tidemill.registry.served import served_spec
from tidemill.serving.block import finite

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


class Runtime(Protocol):
    """One loaded model. The law for every implementation:

    - run is deterministic and keeps no state between calls; it may be called from several threads.
    - Numeric columns are lists or arrays, None and NaN meaning missing; text columns hold str, None meaning missing.
    - It returns one finite float64 a row; anything else, and any exception of the model, is ModelFailed.
    - What does not fit the spec is found when loading, not when running: Invalid.
    - One that answers from elsewhere has a true `waits`: it is called in a thread, so that other endpoints do not wait for it.
    """

    def run(self, columns: Columns, rows: int) -> Scores:
        """Return the score of each row."""
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
