"""How an MLflow model is served: the model.json that its MLmodel comes to. Nothing that it names is loaded here.

Formats that are data are served by their own runtimes. What is left is a pickle or code: MLflow itself loads that, in a process of
its own, where the server's settings trust the runtime `mlflow`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tidemill.core.errors import Invalid
from tidemill.core.signature import Column, ColumnKind, ModelSpec, Output, OutputKind, Signature
from tidemill.registry.mlmodel import MLMODEL_FILE, MLmodel

_KINDS: dict[str, ColumnKind] = {
    "double": "double", "float": "double", "integer": "long", "long": "long", "string": "string", "boolean": "boolean",
}  # fmt: skip
_SAID: dict[str, OutputKind] = {**_KINDS, "float": "float"}
_ONNX_KINDS: dict[str, OutputKind] = {
    "tensor(float)": "float", "tensor(float16)": "float", "tensor(double)": "double", "tensor(int64)": "long", "tensor(int32)": "long",
    "tensor(bool)": "boolean", "tensor(string)": "string",
}  # fmt: skip
_BOOSTERS = ("lightgbm.basic.Booster", "xgboost.core.Booster")
Tensors = dict[str, tuple[str, ...]]
Reader = Callable[[str], bytes]


class NoForm(Invalid):
    """Why an MLflow model cannot be served. reason: in a few words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the MLflow model cannot be served: {reason}")


def served_spec(model: MLmodel, read: Reader) -> ModelSpec:
    """Return how the model's files are served. read gives a file of the model. Raises NoForm.

    The score is what MLflow's python_function gives: the prediction, or the function that the model was logged with. Only an
    estimator of XGBoost tells its probability, as its file does, and not its label. What the signature or the ONNX file names beside it
    is answered, too. Of several columns the first of numbers is the score; of text alone, a probability is.
    """
    columns, tensors = _inputs(model)
    file, runtime, output, index = _form(model)
    score, others = "score", tuple[Output, ...]()
    if runtime == "onnx":
        tensors, output, index, others = _onnx(read(file), columns, tensors)
    elif model.signature is not None:
        said = _outputs(model.signature.outputs)
        if runtime == "mlflow" and len(said) > 1:
            score, output, others = _frame(said, output)
        elif runtime == "sklearn" and output == "predict" and [each.kind for each in said] == ["string"]:
            output, index, others = "predict_proba", 1, (Output(name="label", kind="string", source="predict"),)
        elif len(said) == 1 and (said[0].width or 0) > 1:
            name = "probabilities" if output == "predict_proba" else "predictions"
            others = (Output(name=name, kind=said[0].kind, width=said[0].width, source=output),)
    if runtime not in ("mlflow", "onnx"):
        tensors = {"x": tuple(column.name for column in columns)}
    return ModelSpec(
        runtime=runtime,
        file=file,
        signature=Signature(inputs=columns, outputs=(Column(name=score, kind="double"),)),
        tensors=tensors,
        output=output,
        output_index=index,
        others=others,
        request_columns=tuple(column.name for column in columns),
    )


def _form(model: MLmodel) -> tuple[str, str, str, int]:
    """Return file, runtime, output and its column."""
    flavors = model.flavors
    if (file := _file(flavors, "onnx", "data")) is not None:
        return file, "onnx", "", 0
    if (file := _file(flavors, "lightgbm", "data")) and flavors["lightgbm"].get("model_class", _BOOSTERS[0]) in _BOOSTERS:
        return file, "lightgbm", "score", 0
    if (file := _file(flavors, "xgboost", "data")) and file.endswith((".ubj", ".json")):
        return file, "xgboost", "score", 0
    if (file := _file(flavors, "sklearn", "pickled_model")) and flavors["sklearn"].get("serialization_format") == "skops":
        function = str(flavors.get("python_function", {}).get("predict_fn", "predict"))
        return file, "sklearn", function, 1 if function == "predict_proba" else 0
    if "python_function" in flavors:
        return MLMODEL_FILE, "mlflow", "predict", 0
    raise NoForm(f"it has no flavor python_function (it has: {', '.join(flavors) or 'none'})")


def _file(flavors: Mapping[str, Mapping[str, Any]], flavor: str, key: str) -> str | None:
    file = flavors.get(flavor, {}).get(key)
    return file if isinstance(file, str) and file else None


def _inputs(model: MLmodel) -> tuple[tuple[Column, ...], Tensors]:
    """Return the columns that a model takes, and the tensors that they make up."""
    specs = model.signature.inputs if model.signature is not None else ()
    if not specs:
        raise NoForm("its MLmodel has no signature; log it with one: signature=mlflow.models.infer_signature(rows, answers)")
    if specs[0].get("type") == "tensor":
        tensors = {str(spec.get("name") or "x"): _tensor(spec) for spec in specs}
        columns = [Column(name=name, kind=kind) for kind, names in tensors.values() for name in names]
        return tuple(columns), {name: names for name, (_, names) in tensors.items()}
    found = tuple(_column(spec, place) for place, spec in enumerate(specs))
    return found, {"x": tuple(column.name for column in found)}


def _column(spec: Mapping[str, Any], place: int) -> Column:
    kind, name = _KINDS.get(str(spec.get("type"))), str(spec.get("name") or f"x{place}")
    if kind is None:
        raise NoForm(f"its column {name!r} is of type {spec.get('type')}; only numbers, text and booleans are served")
    return Column(name=name, kind=kind, required=bool(spec.get("required", True)))


def _tensor(spec: Mapping[str, Any]) -> tuple[ColumnKind, tuple[str, ...]]:
    """Return the kind and the made-up names of a tensor's columns."""
    tensor, name = spec.get("tensor-spec") or {}, str(spec.get("name") or "x")
    shape, dtype = tensor.get("shape"), str(tensor.get("dtype"))
    kind = _dtype_kind(dtype)
    wide = shape[1] if isinstance(shape, list) and len(shape) == 2 else 1 if isinstance(shape, list) and len(shape) == 1 else -1
    if kind is None or not isinstance(wide, int) or wide < 1:
        raise NoForm(f"its tensor {name!r} is {dtype} of shape {shape}; only rows of so many numbers, texts or booleans are served")
    return kind, (name,) if wide == 1 and spec.get("name") else tuple(f"{name}{place}" for place in range(wide))


def _dtype_kind(dtype: str) -> ColumnKind | None:
    return (
        "double" if dtype.startswith("float") else "long" if dtype.startswith(("int", "uint")) else "string" if dtype in ("str", "object")
        else "boolean" if dtype == "bool" else None
    )  # fmt: skip


def _outputs(specs: Sequence[Mapping[str, Any]]) -> list[Output]:
    """Return what a signature says that a model gives, as far as it is rows of numbers, texts or booleans."""
    found = []
    for place, spec in enumerate(specs):
        kind: OutputKind | None = _SAID.get(str(spec.get("type")))
        width: Any = None
        if isinstance(tensor := spec.get("tensor-spec"), Mapping):
            shape, dtype = tensor.get("shape"), str(tensor.get("dtype"))
            kind = "float" if dtype == "float32" else _dtype_kind(dtype)
            if not isinstance(shape, list) or len(shape) not in (1, 2) or not all(isinstance(size, int) for size in shape):
                continue
            width = shape[1] if len(shape) == 2 else None
        if kind is not None and (width is None or width == -1 or width > 0):
            found.append(Output(name=str(spec.get("name") or f"y{place}"), kind=kind, width=width))
    return found


def _frame(said: Sequence[Output], output: str) -> tuple[str, str, tuple[Output, ...]]:
    """Return of several outputs, by name, how the score is called, which it is, and what is said beside it."""
    numbers = [each for each in said if each.kind not in ("string", "boolean")]
    if not numbers:
        return "score", output, ()
    first = next((each for each in numbers if each.width is None), None)
    if first is None:  # a column of a tensor, which is told whole
        return "score" if all(each.name != "score" for each in said) else "first", numbers[0].name, tuple(said)
    return first.name, first.name, tuple(each for each in said if each is not first)


def _onnx(data: bytes, columns: Sequence[Column], tensors: Tensors) -> tuple[Tensors, str, int, tuple[Output, ...]]:
    """Return tensors, output and its column, and what an ONNX file says beside it. Of the file, its face is looked at, and made-up rows."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base but this
        raise NoForm(f"its ONNX file cannot be run: {' '.join(str(error).split())[:200]}") from error
    inputs = [tensor.name for tensor in session.get_inputs()]
    output, index = onnx_answer(session)
    names = tuple(column.name for column in columns)
    if set(inputs) != set(tensors):
        tensors = {inputs[0]: names} if len(inputs) == 1 else {name: (name,) for name in inputs}
        if not {name for those in tensors.values() for name in those} <= set(names):
            raise NoForm(f"its ONNX file takes {', '.join(inputs)}, its signature names {', '.join(names)}")
    return tensors, output, index, onnx_others(session, output)


def onnx_answer(session: Any) -> tuple[str, int]:
    """Return the output of an ONNX session that is the score, and its column: the second probability, if it tells any. Raises NoForm."""
    outputs = [tensor.name for tensor in session.get_outputs() if tensor.type.startswith("tensor(") and "string" not in tensor.type]
    if not outputs:
        raise NoForm("its ONNX file gives no tensor of numbers; export it with zipmap=False")
    probability = "probabilities" in outputs
    return "probabilities" if probability else outputs[0], int(probability)


def onnx_others(session: Any, score: str) -> tuple[Output, ...]:
    """Return what an ONNX session tells beside its score: each output of rows, the score's own where the score is one of its columns."""
    found = []
    fixed = any(isinstance(size, int) for tensor in session.get_inputs() for size in tensor.shape[:1])
    for tensor in session.get_outputs():
        kind, shape = _ONNX_KINDS.get(tensor.type), tensor.shape
        if kind is None or len(shape) not in (1, 2) or (isinstance(shape[0], int) and not fixed):
            continue
        width = None if len(shape) == 1 else shape[1] if isinstance(shape[1], int) else -1
        if tensor.name != score or (width or 0) > 1:
            found.append(Output(name=tensor.name if tensor.name != "score" else "scores", kind=kind, width=width, source=tensor.name))
    given = _tried(session, [output.source for output in found])
    return tuple(output for output in found if given is None or given[output.source] == (1 if output.width is None else 2))


def _tried(session: Any, outputs: Sequence[str]) -> dict[str, int] | None:
    """Return of how many dimensions outputs are for two made-up rows, 0 where there are not two; None when those cannot be run."""
    import numpy as np

    kinds = {"tensor(string)": object, "tensor(double)": np.float64, "tensor(int64)": np.int64, "tensor(int32)": np.int32,
             "tensor(bool)": np.bool_}  # fmt: skip
    feeds: dict[str, Any] = {}
    for tensor in session.get_inputs():
        shape = [2, *(size if isinstance(size, int) else 1 for size in tensor.shape[1:])]
        text = tensor.type == "tensor(string)"
        feeds[tensor.name] = np.full(shape, "" if text else 0, dtype=kinds.get(tensor.type, np.float32))
    try:
        arrays = session.run(list(outputs), feeds) if outputs else []
    except Exception:  # noqa: BLE001 (onnxruntime's own share no base but this; rows that are made up need not be to its liking)
        return None
    return {name: array.ndim if array.ndim and len(array) == 2 else 0 for name, array in zip(outputs, arrays, strict=True)}
