"""The `MLmodel` file of an MLflow model: what it says is read and written, nothing that it names is loaded or run."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tidemill.core.codec import decode_any, encode_text
from tidemill.core.errors import Invalid
from tidemill.core.signature import ModelSpec
from tidemill.core.values import Value, field

MLMODEL_FILE = "MLmodel"
LIMIT_BYTES, LIMIT_NODES = 8 << 20, 500_000
# As MLflow writes them; the signature stands apart because its sides are JSON inside of the YAML.
_NAMED = ("artifact_path", "mlflow_version", "model_id", "model_uuid", "run_id", "utc_time_created", "model_size_bytes")


class MLmodelSignature(Value, frozen=True, kw_only=True):
    """What an MLflow model takes and gives: column and tensor specs as MLflow writes them."""

    inputs: tuple[dict[str, Any], ...] = ()
    outputs: tuple[dict[str, Any], ...] = ()
    params: tuple[dict[str, Any], ...] = ()


class MLmodel(Value, frozen=True, kw_only=True):
    """What an MLmodel file says. flavors: how libraries load it. more: every key that has no field here, kept as it came."""

    flavors: dict[str, dict[str, Any]]
    signature: MLmodelSignature | None = None
    artifact_path: str | None = None
    mlflow_version: str | None = None
    model_id: str | None = None
    model_uuid: str | None = None
    run_id: str | None = None
    utc_time_created: str | None = None
    model_size_bytes: int | None = None
    more: dict[str, Any] = field(default_factory=dict)


def parse_mlmodel(data: bytes) -> MLmodel:
    """Read an MLmodel file. Raises Invalid; what unfolds to more than any model needs is refused."""
    said = _plain(_loaded(data))
    if not isinstance(said, dict):
        raise Invalid("MLmodel was not understood: expected keys and values, as in flavors: {sklearn: {…}}")
    flavors = said.pop("flavors", None)
    if not isinstance(flavors, dict) or not all(isinstance(options, dict) for options in flavors.values()):
        raise Invalid("MLmodel was not understood: expected flavors, each with its options")
    signature = _signature(said.pop("signature", None))
    named = {name: said.pop(name, None) for name in _NAMED}
    size = named.pop("model_size_bytes")
    texts = {name: None if value is None else str(value) for name, value in named.items()}
    return MLmodel(flavors=flavors, signature=signature, model_size_bytes=size if isinstance(size, int) else None, more=said, **texts)


def write_mlmodel(model: MLmodel) -> bytes:
    """Return the file that says this, as MLflow writes it."""
    import yaml

    said: dict[str, Any] = {name: value for name in _NAMED if (value := getattr(model, name)) is not None}
    said |= {"flavors": model.flavors, **model.more}
    if model.signature is not None:
        sides = {"inputs": model.signature.inputs, "outputs": model.signature.outputs, "params": model.signature.params}
        said["signature"] = {side: encode_text(specs) if specs else None for side, specs in sides.items()}
    text: str = yaml.safe_dump(said, default_flow_style=False, allow_unicode=True)
    return text.encode()


def mlmodel_of(spec: ModelSpec, *, run_id: str | None = None, model_id: str | None = None, made_at: datetime | None = None) -> MLmodel:
    """Return the MLmodel with which MLflow loads a Tidemill bundle whose model file is ONNX. Raises Invalid for another runtime."""
    if spec.runtime != "onnx":
        raise Invalid(f"a bundle of runtime {spec.runtime!r} has no form that MLflow loads; only onnx has")
    onnx = {"data": spec.file, "providers": ["CPUExecutionProvider"], "onnx_version": None, "onnx_session_options": None}
    inputs = tuple(
        {"type": "tensor", "name": name, "tensor-spec": {"dtype": "float32", "shape": [-1, len(columns)]}}
        for name, columns in spec.tensors.items()
    )
    return MLmodel(
        flavors={"onnx": onnx, "python_function": {"loader_module": "mlflow.onnx", "data": spec.file}},
        signature=MLmodelSignature(inputs=inputs),
        run_id=run_id,
        model_id=model_id,
        utc_time_created=None if made_at is None else f"{made_at:%Y-%m-%d %H:%M:%S.%f}",
    )


def signature_columns(model: MLmodel) -> dict[str, str]:
    """Return what a model takes and gives in short: `in x` -> double, `out -` -> tensor float64 [-1, 3]."""
    found = {}
    for side, specs in (("in", model.signature.inputs), ("out", model.signature.outputs)) if model.signature else ():
        for number, spec in enumerate(specs):
            found[f"{side} {spec.get('name') or number}"] = _short(spec)
    return found


def _short(spec: Mapping[str, Any]) -> str:
    tensor = spec.get("tensor-spec")
    kind = f"tensor {tensor.get('dtype')} {tensor.get('shape')}" if isinstance(tensor, dict) else str(spec.get("type"))
    return kind if spec.get("required", True) else f"{kind}, optional"


def _signature(said: Any) -> MLmodelSignature | None:
    if not isinstance(said, dict):
        return None
    sides = {}
    for side in ("inputs", "outputs", "params"):
        specs = said.get(side)
        specs = decode_any(specs, what=f"{side} of the signature in MLmodel") if isinstance(specs, str) else specs
        if specs is not None and not (isinstance(specs, list) and all(isinstance(spec, dict) for spec in specs)):
            raise Invalid(f"MLmodel was not understood: {side} of its signature are not a list of column or tensor specs")
        sides[side] = tuple(specs or ())
    return MLmodelSignature(**sides)


def _loaded(data: bytes) -> Any:
    import yaml  # here, for serving workers, which seldom read such a file, are to be ready at once

    if len(data) > LIMIT_BYTES:
        raise Invalid(f"MLmodel has {len(data):,} bytes; expected at most {LIMIT_BYTES:,}")
    try:
        return yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise Invalid(f"MLmodel is not valid YAML: {reason}") from error
    except RecursionError:
        raise Invalid("MLmodel was not understood: it is nested too deeply") from None


def _plain(said: Any) -> Any:
    """Return what YAML gave as plain JSON values: dates as text, keys as text; each alias written out, up to a limit."""
    left = [LIMIT_NODES]

    def plain(value: Any, depth: int) -> Any:
        left[0] -= 1 + (len(value) // 64 if isinstance(value, str) else 0)
        if left[0] < 0 or depth > 100:
            raise Invalid(f"MLmodel unfolds to more than {LIMIT_NODES:,} values or 100 levels; no model needs so many")
        if isinstance(value, dict):
            return {str(key): plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set):
            return [plain(item, depth + 1) for item in value]
        small = isinstance(value, int) and abs(value) < 1 << 63
        return value if value is None or small or isinstance(value, float | str) else str(value)

    return plain(said, 0)
