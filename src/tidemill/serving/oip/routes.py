"""The Open Inference Protocol v2 over HTTP: tensors to rows and back.

A model is an endpoint; each column is a tensor of shape [n] or [n, 1]. A tensor of the model file, [n, k], is taken too,
in place of the columns that fill it. A version in the path is checked against those that are served; routing stays the endpoint's.
"""

from datetime import datetime
from importlib.metadata import version
from typing import Any, NamedTuple

from tidemill.core.clock import Clock, parse_moment
from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid, NotFound, TidemillError
from tidemill.core.signature import ColumnKind
from tidemill.serving.http import Reply
from tidemill.serving.oip.wire import (
    ErrorAnswer,
    InferenceRequest,
    InferenceResponse,
    LiveAnswer,
    ModelMetadata,
    ModelReady,
    ReadyAnswer,
    RequestInput,
    ResponseOutput,
    ServerMetadata,
    TensorMetadata,
)
from tidemill.serving.predict import Endpoint, PredictAnswer
from tidemill.serving.problems import RouteNotFound, headers_of, status_of
from tidemill.serving.rows import Rows, RowsRefused
from tidemill.serving.world import World

_DATATYPES: dict[ColumnKind, str] = {"double": "FP64", "long": "INT64", "string": "BYTES", "boolean": "BOOL"}
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_WHOLE = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
_KNOWN = _FLOATS | _WHOLE | {"BYTES", "BOOL"}


class Target(NamedTuple):
    """What a path asks: of which model, of which version, and what."""

    model: str
    version: str | None
    verb: str  # "metadata", "ready" or "infer"


class Inference(NamedTuple):
    """A decoded request."""

    request: InferenceRequest
    rows: Rows


class OipRoutes:
    """Answers the protocol's requests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def error_reply(self, error: TidemillError) -> Reply:
        """Return an error in the protocol's shape."""
        status = status_of(error)
        # The protocol knows no 422; its clients look for 400.
        return Reply(400 if isinstance(error, RowsRefused) else status, encode(ErrorAnswer(error=str(error))), extra=headers_of(error))

    def health(self, world: World | None, *, ready: bool) -> Reply:
        if ready:
            return Reply(200 if world is not None else 503, encode(ReadyAnswer(ready=world is not None)))
        return Reply(200, encode(LiveAnswer(live=True)))

    def server(self) -> Reply:
        return Reply(200, encode(ServerMetadata(name="tidemill", version=version("tidemill"), extensions=[])))

    def target(self, path: str) -> Target:
        """Read `/v2/models/[PROJECT/]MODEL[/versions/V][/ready|/infer]`. Raises RouteNotFound."""
        parts = path.strip("/").split("/")[1:]
        if len(parts) < 2 or parts[0] != "models" or "" in parts:
            raise RouteNotFound(path[:200])
        parts = parts[1:]
        verb = parts.pop() if len(parts) > 1 and parts[-1] in ("ready", "infer") else "metadata"
        wanted = None
        if len(parts) > 2 and parts[-2] == "versions":
            wanted = parts[-1]
            parts = parts[:-2]
        if len(parts) > 2:
            raise RouteNotFound(path[:200])
        return Target("/".join(parts), wanted, verb)

    def describe(self, endpoint: Endpoint, target: Target) -> Reply:
        """Answer metadata and readiness of a model."""
        _check_version(endpoint, target)
        if target.verb == "ready":
            return Reply(200, encode(ModelReady(name=endpoint.config.key, ready=True)))
        inputs = {column.name: column.kind for column in endpoint.main.spec.signature.inputs}
        outputs = [TensorMetadata(name=_score_name(endpoint), datatype="FP64", shape=[-1])]
        if endpoint.threshold(endpoint.main) is not None:
            outputs.append(TensorMetadata(name="label", datatype="BOOL", shape=[-1]))
        metadata = ModelMetadata(
            name=endpoint.config.key,
            versions=sorted({str(variant.config.version) for variant in endpoint.variants.values()}),
            platform=f"tidemill_{endpoint.main.spec.runtime}",
            inputs=[
                TensorMetadata(name=name, datatype=_DATATYPES[inputs.get(name, "string")], shape=[-1]) for name in endpoint.schema.types
            ],
            outputs=outputs,
        )
        return Reply(200, encode(metadata))

    def decode(self, endpoint: Endpoint, target: Target, body: bytes) -> Inference:
        """Read an inference request as rows. Raises Invalid, RowsRefused."""
        _check_version(endpoint, target)
        request = decode(body, InferenceRequest, what="inference request")
        if not request.inputs:
            raise Invalid("inference request has no inputs; expected one tensor a column")
        tensors = endpoint.main.spec.tensors
        columns: dict[str, list[Any]] = {}
        count = -1
        for tensor in request.inputs:
            names = (tensor.name,) if tensor.name in endpoint.schema.types else tensors.get(tensor.name, (tensor.name,))
            rows, flat = _checked(tensor, len(names))
            if count not in (-1, rows):
                raise Invalid(f"tensor {tensor.name!r} has {rows} rows, the others {count}; expected as many in each")
            count = rows
            for place, name in enumerate(names):
                if name in columns:
                    raise Invalid(f"column {name!r} comes twice")
                columns[name] = flat[place :: len(names)]
        for output in request.outputs or ():
            if output.name not in (_score_name(endpoint), "label"):
                raise Invalid(f"model {endpoint.config.key!r} has no output {output.name!r} (it has: {_score_name(endpoint)}, label)")
        ids, at = _parameters(request.parameters or {})
        return Inference(request, endpoint.schema.take(columns, count, ids=ids, at=at))

    def encode(self, endpoint: Endpoint, inference: Inference, answer: PredictAnswer) -> bytes:
        """Return the answer as tensors; the prediction ids are among the parameters."""
        count = len(answer.predictions)
        scores = [each.score for each in answer.predictions]
        outputs = [ResponseOutput(name=_score_name(endpoint), shape=[count], datatype="FP64", data=scores)]
        if all(each.label is not None for each in answer.predictions):
            labels = [each.label for each in answer.predictions]
            outputs.append(ResponseOutput(name="label", shape=[count], datatype="BOOL", data=labels))
        wanted = {output.name for output in inference.request.outputs or ()}
        response = InferenceResponse(
            model_name=endpoint.config.key,
            model_version=str(answer.version) if answer.version is not None else None,
            id=inference.request.id,
            parameters={"prediction_ids": [each.id for each in answer.predictions]},
            outputs=[output for output in outputs if not wanted or output.name in wanted],
        )
        return encode(response)


def _score_name(endpoint: Endpoint) -> str:
    outputs = endpoint.main.spec.signature.outputs
    return outputs[0].name if outputs else "score"


def _check_version(endpoint: Endpoint, target: Target) -> None:
    versions = sorted({str(variant.config.version) for variant in endpoint.variants.values()})
    if target.version is not None and target.version not in versions:
        raise NotFound(f"model {target.model!r} has no version {target.version!r} here (it has: {', '.join(versions)})")


def _parameters(parameters: dict[str, Any]) -> tuple[list[str] | None, datetime | None]:
    ids, at = parameters.get("prediction_ids"), parameters.get("at")
    if ids is not None and not (isinstance(ids, list) and all(isinstance(each, str) and 0 < len(each) <= 200 for each in ids)):
        raise Invalid("parameter 'prediction_ids' was not understood; expected a list of texts, one a row")
    if at is not None and not isinstance(at, str):
        raise Invalid("parameter 'at' was not understood; expected a moment such as 2013-06-01T12:00:00Z")
    return ids, parse_moment(at) if at is not None else None


def _checked(tensor: RequestInput, width: int) -> tuple[int, list[Any]]:
    """Return a tensor's rows and its data, flat. Raises Invalid when datatype, shape and data do not agree."""
    if tensor.datatype not in _KNOWN:
        raise Invalid(f"tensor {tensor.name!r} has the datatype {tensor.datatype!r}; expected one of {', '.join(sorted(_KNOWN))}")
    fits = (len(tensor.shape) == 2 and tensor.shape[1] == width) or (width == 1 and len(tensor.shape) == 1)
    if not fits or tensor.shape[0] < 0:
        wanted = "[n] or [n, 1]" if width == 1 else f"[n, {width}]"
        raise Invalid(f"tensor {tensor.name!r} has the shape {tensor.shape}; expected {wanted}")
    flat = tensor.data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(each, list) for each in flat):
            raise Invalid(f"tensor {tensor.name!r} is nested unevenly")
        flat = [value for each in flat for value in each]
    if len(flat) != tensor.shape[0] * width:
        raise Invalid(f"tensor {tensor.name!r} holds {len(flat)} values; its shape {tensor.shape} says {tensor.shape[0] * width}")
    return tensor.shape[0], flat
