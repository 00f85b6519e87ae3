"""Fitted models of scikit-learn, LightGBM, XGBoost and PyTorch as bundles: ONNX where it says the same, else the library's own file.

What was tried, and how far the two lay apart, is kept in the bundle: `export.json`.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tidemill.core.codec import canonical
from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.ids import Digest
from tidemill.core.signature import SPEC_FILE, Column, ModelSpec, Output, OutputKind, Signature, Step
from tidemill.core.values import Value, replace
from tidemill.store.objects import ObjectStore
from tidemill.store.trees import put_tree
from tidemill.training.export import PARITY_BOUND, Parity, open_onnx
from tidemill.training.sample import Floats, Sample, read_sample

EXPORT_FILE = "export.json"
_OUTPUT_KINDS: Mapping[str, OutputKind] = {"b": "boolean", "i": "long", "u": "long", "f": "double"}
# By the package of a model's class or of one that it inherits from; the first that fits is taken. Loaded when chosen.
LIBRARIES = {
    "lightgbm": "tidemill.training.libraries.lightgbm:FittedLightgbm",
    "xgboost": "tidemill.training.libraries.xgboost:FittedXgboost",
    "torch": "tidemill.training.libraries.torch:FittedTorch",
    "sklearn": "tidemill.training.libraries.sklearn:FittedSklearn",
}


class ModelFile(Value, frozen=True, kw_only=True):
    """One form of a model: what runs it, its bytes, and where the answer stands."""

    runtime: str
    file: str
    data: bytes
    tensors: dict[str, tuple[str, ...]]
    output: str
    output_index: int = 0
    others: tuple[Output, ...] = ()


class Fitted(Protocol):
    """A fitted model of a library, made of the model and the column of its answer that is the score (None: the usual one).

    All of its methods raise Invalid, with a reason in one sentence, for what the library cannot do.
    """

    packages: tuple[str, ...]
    probability: bool

    def score(self, sample: Sample) -> Floats:
        """Return the score of each row as the library tells it."""
        ...

    def others(self, sample: Sample) -> dict[str, NDArray[Any]]:
        """Return what the library tells beside the score, by name: [n] or [n, k], numbers or text. Nothing that the score says already."""
        ...

    def to_onnx(self, sample: Sample) -> ModelFile:
        """Return the model as ONNX."""
        ...

    def own_file(self, sample: Sample) -> ModelFile:
        """Return the model in the library's own format, never a pickle."""
        ...


class Export(Value, frozen=True, kw_only=True):
    """How a bundle came to its model file. parity: how far ONNX and the library lie apart, over the larger of 1 and the score.

    why: in one sentence, why the library's own file was kept; empty for ONNX.
    """

    runtime: str
    parity: Parity | None
    why: str
    versions: dict[str, str]


class Bundled(Value, frozen=True, kw_only=True):
    """The files of a bundle, and how they came about."""

    files: dict[str, bytes]
    spec: ModelSpec
    export: Export


def bundle_model(
    model: Any,
    sample: Any,
    *,
    columns: Sequence[str] | None = None,
    output_index: int | None = None,
    threshold: float | None = None,
    feature_service: str | None = None,
    features: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> Bundled:
    """Make a bundle of a fitted model, which is tried on the rows of a sample: as ONNX if that gives the same scores.

    sample: a frame, a dict of columns, or an array whose columns are named. The score is the probability of the second of two
    outcomes, or the prediction; a model of more outcomes wants output_index. Labels that are not 0 and 1, all probabilities where there
    are more than two, and all predictions where there are several, are answered beside it. features: columns that the server looks up in
    feature_service; of the others, optional ones may be missing. Raises Invalid for a model of another library.
    """
    rows = read_sample(sample, columns)
    fitted = _fitted(model, output_index)
    file, export = _choose(fitted, rows)
    inputs = _columns(rows, may_miss=(*features, *optional))
    low, high = (0.0, 1.0) if fitted.probability else (None, None)
    spec = ModelSpec(
        runtime=file.runtime,
        file=file.file,
        signature=Signature(inputs=inputs, outputs=(Column(name="score", kind="double", low=low, high=high),)),
        tensors=file.tensors,
        output=file.output,
        output_index=file.output_index,
        others=file.others,
        threshold=threshold,
        feature_service=feature_service,
        request_columns=tuple(name for name in rows.names if name not in features),
    )
    return Bundled(files={file.file: file.data, SPEC_FILE: canonical(spec), EXPORT_FILE: canonical(export)}, spec=spec, export=export)


def wrap_model(made: Bundled, code: str | Path, *, before: str = "", after: str = "", sample: Any = None) -> Bundled:
    """Put functions of a Python file before or behind a bundled model; a server runs them where it trusts `python`.

    before: gets the columns of requests, which are those of sample, as one array each (text as objects), and returns those of the
    model, by name. after: gets the column `score` and what was sent, and returns the score. Raises Invalid.
    """
    if not (before or after) or (before and sample is None):
        raise Invalid("nothing is put around the model; name a function as after, or one as before with a sample of what it is sent")
    code, spec = Path(code), made.spec
    looked_up = {column.name for column in spec.signature.inputs} - set(spec.request_columns)
    inputs = _columns(read_sample(sample), may_miss=tuple(looked_up)) if before else spec.signature.inputs
    names = tuple(column.name for column in inputs)
    first = (Step(runtime="python", file=f"{code.name}:{before}", tensors={"x": names}),) if before else ()
    last = (Step(runtime="python", file=f"{code.name}:{after}", tensors={"x": ("score", *names)}),) if after else ()
    model = Step(runtime=spec.runtime, file=spec.file, tensors=spec.tensors, output=spec.output, output_index=spec.output_index)
    wrapped = replace(
        spec,
        runtime="steps",
        file="",
        signature=Signature(inputs=inputs, outputs=(Column(name="score", kind="double"),)),
        tensors={"x": names},
        request_columns=tuple(name for name in names if name not in looked_up),
        steps=(*first, model, *last),
        others=() if after else spec.others,
    )
    return replace(made, spec=wrapped, files={**made.files, code.name: code.read_bytes(), SPEC_FILE: canonical(wrapped)})


def save_bundle(made: Bundled, folder: str | Path) -> None:
    """Write the files of a bundle into a folder, from which `run.model` registers it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, data in made.files.items():
        (Path(folder) / name).write_bytes(data)


def save_model(model: Any, folder: str | Path, sample: Any, **named: Any) -> Export:
    """Write the bundle of a fitted model into a folder, from which `run.model` registers it; named as `bundle_model` takes it."""
    made = bundle_model(model, sample, **named)
    save_bundle(made, folder)
    return made.export


def store_bundle(store: ObjectStore, made: Bundled) -> Digest:
    """Store the files of a bundle, for `register`."""
    return put_tree(store, made.files)


def store_model(store: ObjectStore, model: Any, sample: Any, **named: Any) -> Digest:
    """Store the bundle of a fitted model, for `register`; named as `bundle_model` takes it."""
    return store_bundle(store, bundle_model(model, sample, **named))


def compare(found: Floats, expected: Floats) -> Parity:
    """Return how far scores lie apart, each over the larger of 1 and what was expected."""
    gaps = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    return Parity(rows=len(gaps), largest=float(gaps.max()), mean=float(gaps.mean()), bound=PARITY_BOUND)


def beside(said: Mapping[str, NDArray[Any]], sources: Mapping[str, str], *, kind: OutputKind | None = None) -> tuple[Output, ...]:
    """Return how arrays that a library tells are declared. sources: what the file calls them; kind: of the file's broken numbers."""
    found = []
    for name, array in said.items():
        own = _OUTPUT_KINDS.get(array.dtype.kind, "string")
        width = array.shape[1] if array.ndim == 2 else None
        found.append(Output(name=name, kind=kind or own if own == "double" else own, width=width, source=sources[name]))
    return tuple(found)


def run_file(file: ModelFile, sample: Sample) -> tuple[Floats, dict[str, NDArray[Any]]]:
    """Return what an ONNX file says of the rows of a sample: scores, and by name what is said beside them.

    Raises Invalid when it cannot be run, or not on them.
    """
    names = list(dict.fromkeys((file.output, *(output.asked for output in file.others))))
    try:
        session = open_onnx(file.data)
        kinds = {tensor.name: tensor.type for tensor in session.get_inputs()}
        answers = session.run(names, {name: _tensor(sample, names, kinds[name]) for name, names in file.tensors.items()})
    except ExtraMissing:
        raise
    except Exception as error:  # onnxruntime's own exceptions share no base but this
        raise Invalid(f"ONNX Runtime does not run it: {_sentence(error)}") from error
    said = dict(zip(names, answers, strict=True))
    found = np.asarray(said[file.output], dtype=np.float64)
    others = {output.name: np.asarray(said[output.asked]) for output in file.others}
    return found[:, file.output_index] if found.ndim == 2 else found, others


def _choose(fitted: Fitted, sample: Sample) -> tuple[ModelFile, Export]:
    expected, parity, why = fitted.score(sample), None, ""
    if not np.isfinite(expected).all():
        raise Invalid("the model's own scores of the sample are not finite numbers; try it on rows as they will be asked for")
    versions = {package: known for package in ("onnx", *fitted.packages) if (known := _version(package))}
    try:
        file = fitted.to_onnx(sample)
        found, others = run_file(file, sample)
        if found.shape != expected.shape:
            raise Invalid(f"as ONNX it gives an answer of shape {found.shape} for {sample.rows} rows")
        parity = compare(found, expected)
        strange = _differs(others, fitted.others(sample))
        if parity.holds and not strange:
            return file, Export(runtime=file.runtime, parity=parity, why="", versions=versions)
        why = (
            strange
            if parity.holds
            else f"as ONNX its scores differ by up to {parity.largest:.2g} on {parity.rows} rows, {parity.bound:g} is allowed"
        )
    except (Invalid, ExtraMissing) as error:
        why = str(error)
    own = fitted.own_file(sample)
    return own, Export(runtime=own.runtime, parity=parity, why=why, versions=versions)


def _differs(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> str:
    """Return in one sentence what an ONNX file says otherwise beside the score, empty when nothing."""
    for name, array in expected.items():
        other = found[name]
        if other.shape != array.shape:
            return f"as ONNX its {name} have the shape {other.shape}, not {array.shape}"
        if array.dtype.kind not in "biuf":
            wrong = int((other.astype(str) != array.astype(str)).sum())
        else:
            wrong = int((~np.isclose(other.astype(float), array.astype(float), rtol=PARITY_BOUND, atol=PARITY_BOUND)).sum())
        if wrong:
            return f"as ONNX {wrong} of its {array.size} {name} are others"
    return ""


def _columns(sample: Sample, *, may_miss: Sequence[str]) -> tuple[Column, ...]:
    """Return the columns of a sample; those of numbers that are missing in it may be missing."""
    missing = {name for name in sample.names if name not in sample.texts and np.isnan(sample.columns[name]).any()} | set(may_miss)
    return tuple(
        Column(name=name, kind="string" if name in sample.texts else "double", required=name not in missing) for name in sample.names
    )


def _fitted(model: Any, output_index: int | None) -> Fitted:
    packages = [kind.__module__.partition(".")[0] for kind in type(model).__mro__]
    for package in packages:
        if package in LIBRARIES:
            module, _, name = LIBRARIES[package].partition(":")
            fitted: Fitted = getattr(import_module(module), name)(model, output_index)
            return fitted
    raise Invalid(
        f"a {type(model).__module__}.{type(model).__name__} is no fitted model of {', '.join(sorted(LIBRARIES))}; "
        f"write it as ONNX yourself, or as a Python function"
    )


def _tensor(sample: Sample, names: tuple[str, ...], kind: str) -> NDArray[Any]:
    if kind == "tensor(string)":
        return np.column_stack([[("" if value is None else value) for value in sample.columns[name]] for name in names]).astype(object)
    wanted = np.float64 if kind == "tensor(double)" else np.float32
    return np.column_stack([sample.columns[name] for name in names]).astype(wanted)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
