"""Model files as people have them, as the files of a version: ONNX, LightGBM's text, XGBoost's JSON, skops, joblib, MLflow's folders."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.core.codec import canonical, decode
from tidemill.core.errors import ExtraMissing, Invalid, NotFound
from tidemill.core.signature import SPEC_FILE, Column, ColumnKind, ModelSpec, Output, Signature
from tidemill.core.values import Value
from tidemill.registry.mlmodel import MLMODEL_FILE
from tidemill.registry.served import onnx_answer, onnx_others
from tidemill.serving.runtimes.runtime import load_here
from tidemill.serving.runtimes.sklearn import read_estimator
from tidemill.training.export import open_onnx
from tidemill.training.fitted import bundle_model

Files = dict[str, bytes | Path]
KNOWN = "an ONNX file, LightGBM's text, XGBoost's JSON, a skops or joblib file of scikit-learn, or a folder with MLmodel or model.json"
TRIED_ROWS = 64
_KINDS: Mapping[str, ColumnKind] = {"tensor(string)": "string", "tensor(int64)": "long", "tensor(int32)": "long", "tensor(bool)": "boolean"}


class PickleRefused(Invalid):
    """A pickle runs what it says when it is read."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path.name} is a pickle, which runs code when it is read; if you made it yourself, say so with --trust-pickle, "
            "else ask for the model as ONNX or skops"
        )


class Wishes(Value, frozen=True, kw_only=True):
    """What a model file does not say of itself. columns: in the order of the model; optional: those that may be missing."""

    columns: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    output_index: int | None = None
    threshold: float | None = None
    trust_pickle: bool = False


def read_model_files(path: Path, wishes: Wishes) -> Files:
    """Return the files of a version by their paths in it, tried on a made-up row. Raises NotFound, Invalid, PickleRefused, ExtraMissing."""
    if path.is_dir():
        found: Files = {str(each.relative_to(path)): each for each in sorted(path.rglob("*")) if each.is_file()}
        if not {SPEC_FILE, MLMODEL_FILE} & found.keys():
            raise Invalid(f"folder {path} holds neither {MLMODEL_FILE} nor {SPEC_FILE}; expected {KNOWN}")
        return found
    if not path.is_file():
        raise NotFound(f"there is no file {path}; give the path of {KNOWN}")
    data = path.read_bytes()
    if path.suffix in (".joblib", ".pkl", ".pickle", ".skops"):
        return _of_estimator(path, data, wishes)
    read = _reader(path, data)
    if read is None:
        raise Invalid(f"{path.name} was not understood; expected {KNOWN}")
    spec = read(data, wishes)
    strange = sorted(set(wishes.optional) - {column.name for column in spec.signature.inputs})
    if strange:
        raise Invalid(f"the model has no column {strange[0]!r} (it has: {', '.join(spec.request_columns[:40])})")
    return _tried(path, {spec.file: data, SPEC_FILE: canonical(spec)}, spec)


def _reader(path: Path, data: bytes) -> Callable[[bytes, Wishes], ModelSpec] | None:
    if path.suffix == ".onnx":
        return _of_onnx
    if data.startswith(b"tree\n"):
        return _of_lightgbm
    return _of_xgboost if data.startswith(b"{") else None


def _of_onnx(data: bytes, wishes: Wishes) -> ModelSpec:
    try:
        session = open_onnx(data)
    except ExtraMissing:
        raise
    except Exception as error:  # onnxruntime's own exceptions share no base but this
        raise Invalid(f"the file is not a model that ONNX Runtime can run: {' '.join(str(error).split())[:200]}") from error
    inputs = session.get_inputs()
    tensors: dict[str, tuple[str, ...]] = {}
    columns: list[Column] = []
    for tensor in inputs:
        wide = tensor.shape[1] if len(tensor.shape) == 2 else 1
        if not isinstance(wide, int):
            wide = len(wishes.columns)
        made = (tensor.name,) if wide == 1 else tuple(f"{tensor.name}{place}" for place in range(wide))
        tensors[tensor.name] = _named(wishes, wide) if len(inputs) == 1 and (wishes.columns or not wide) else made
        kind = _KINDS.get(tensor.type, "double")
        columns += [Column(name=name, kind=kind, required=name not in wishes.optional) for name in tensors[tensor.name]]
    output, index = onnx_answer(session)
    index = wishes.output_index if wishes.output_index is not None else index
    return _spec(
        "onnx", "model.onnx", columns, wishes, tensors=tensors, output=output, output_index=index, others=onnx_others(session, output)
    )


def _of_lightgbm(data: bytes, wishes: Wishes) -> ModelSpec:
    try:
        import lightgbm
    except ImportError as error:
        raise ExtraMissing("lightgbm", "lightgbm") from error
    try:
        booster = lightgbm.Booster(model_str=data.decode())
    except (ValueError, lightgbm.basic.LightGBMError) as error:
        raise Invalid(f"the file is not a model in LightGBM's text format: {error}") from error
    outcomes = booster.num_model_per_iteration()
    told = Output(name="probabilities", kind="double", width=outcomes, source="score")
    return _of_trees("lightgbm", "model.txt", booster.feature_name(), wishes, told=told if outcomes > 1 else None)


def _of_xgboost(data: bytes, wishes: Wishes) -> ModelSpec:
    try:
        import xgboost
    except ImportError as error:
        raise ExtraMissing("xgboost", "xgboost") from error
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(data))
    except xgboost.core.XGBoostError as error:
        raise Invalid(f"the file is not a model in XGBoost's JSON: {str(error).strip().splitlines()[0]}") from error
    names = booster.feature_names or [f"f{place}" for place in range(booster.num_features())]
    said = booster.inplace_predict(np.zeros((1, booster.num_features()), dtype=np.float32), validate_features=False)
    told = None
    if said.ndim == 2 and said.shape[1] > 1:
        objective = decode(booster.save_config(), dict[str, Any])["learner"]["objective"]["name"]
        name = "probabilities" if objective == "multi:softprob" else "predictions"
        told = Output(name=name, kind="float", width=said.shape[1], source="score")
    return _of_trees("xgboost", "booster.json", names, wishes, told=told)


def _of_trees(runtime: str, file: str, names: Sequence[str], wishes: Wishes, *, told: Output | None) -> ModelSpec:
    """told: all that the model tells of a row, None when that is its score."""
    if told is not None and told.name == "probabilities" and wishes.output_index is None:
        raise Invalid(f"the model tells {told.width} outcomes; say which is the score: --output-index 0 to {(told.width or 0) - 1}")
    given = _named(wishes, len(names)) if wishes.columns else tuple(names)
    columns = [Column(name=name, kind="double", required=name not in wishes.optional) for name in given]
    return _spec(
        runtime,
        file,
        columns,
        wishes,
        tensors={"x": given},
        output="score",
        output_index=wishes.output_index or 0,
        others=(told,) if told is not None else (),
    )


def _of_estimator(path: Path, data: bytes, wishes: Wishes) -> Files:
    """Return an estimator as a bundle: as ONNX if that gives made-up rows the same scores, else in its library's own format."""
    if path.suffix == ".skops":
        model = read_estimator(data, path.name, path.stem)
    elif not wishes.trust_pickle:
        raise PickleRefused(path)
    else:
        model = _unpickled(path)
    names, wide = getattr(model, "feature_names_in_", None), getattr(model, "n_features_in_", len(wishes.columns))
    given = _named(wishes, wide) if wishes.columns or not wide else tuple(map(str, names)) if names is not None else _counted(wide)
    if names is not None and given != tuple(names):
        raise Invalid(f"the model was fitted on the columns {', '.join(map(str, names))}; leave --columns out")
    rows = np.random.default_rng(0).normal(size=(TRIED_ROWS, wide))
    sample = {name: rows[:, place] for place, name in enumerate(given)}
    try:
        made = bundle_model(model, sample, output_index=wishes.output_index, threshold=wishes.threshold, optional=wishes.optional)
    except ExtraMissing:
        raise
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"{path.name} cannot be registered without rows to try it on: {error}; "
            "register it from Python: tm.save_model(model, FOLDER, rows)"
        ) from error
    return _tried(path, dict(made.files), made.spec)


def _unpickled(path: Path) -> Any:
    try:
        import joblib  # type: ignore[import-untyped]
    except ImportError as error:
        raise ExtraMissing("joblib", "sklearn") from error
    try:
        return joblib.load(path)
    except Exception as error:  # the file may raise whatever it likes
        raise Invalid(f"{path.name} cannot be loaded: {type(error).__name__}: {str(error)[:200]}") from error


def _spec(runtime: str, file: str, columns: Sequence[Column], wishes: Wishes, **feed: Any) -> ModelSpec:
    return ModelSpec(
        runtime=runtime,
        file=file,
        signature=Signature(inputs=tuple(columns), outputs=(Column(name="score", kind="double"),)),
        threshold=wishes.threshold,
        request_columns=tuple(column.name for column in columns),
        **feed,
    )


def _tried(path: Path, files: Mapping[str, bytes], spec: ModelSpec) -> Files:
    """Return files that are a model: loaded as a server loads them, and asked for the score of one made-up row."""
    with tempfile.TemporaryDirectory(prefix="tidemill-") as name:
        folder = Path(name)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        texts = {column.name for column in spec.signature.inputs if column.kind == "string"}
        row = {column.name: ["" if column.name in texts else 1] for column in spec.signature.inputs}
        load_here(folder, spec, model=path.stem, threads=1).run(row, 1)
    return dict(files)


def _named(wishes: Wishes, wide: int) -> tuple[str, ...]:
    if not wishes.columns:
        raise Invalid("the model does not say how many columns it takes; name them in its order: --columns A,B,C")
    if len(wishes.columns) != wide:
        raise Invalid(f"--columns names {len(wishes.columns)} columns; the model takes {wide}")
    return wishes.columns


def _counted(wide: int) -> tuple[str, ...]:
    return tuple(f"x{place}" for place in range(wide))
