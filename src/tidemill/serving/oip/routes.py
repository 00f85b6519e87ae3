"""The Open Inference Protocol v2 over HTTP: tensors to rows and back.

A model is an endpoint; each column is a tensor of shape [n] or [n, 1]. A tensor of the model file, [n, k], is taken too,
in place of the columns that fill it. A version in the path is checked against those that are served; routing stays the endpoint's.
"""

from datetime import datetime
from functools import lru_cache
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill.core.clock import Clock, parse_moment
from tidemill.core.codec import Attempt, decode, encode
from tidemill.core.errors import Invalid, NotFound, TidemillError
from tidemill.core.signature import ColumnKind
from tidemill.serving.block import Block
from tidemill.serving.http import Reply
from tidemill.serving.oip.wire import (
    ErrorAnswer,
    InferenceRequest,
    InferenceResponse,
    LiveAnswer,
    ModelMetadata,
    ModelReady,
    NumbersInput,
    NumbersRequest,
    ReadyAnswer,
    RequestInput,
    ResponseOutput,
    ServerMetadata,
    TensorMetadata,
)
from tidemill.serving.predict import Answered, Endpoint
from tidemill.serving.problems import RouteNotFound, headers_of, status_of
from tidemill.serving.rows import Rows, RowsRefused
from tidemill.serving.world import World

_DATATYPES: dict[ColumnKind, str] = {"double": "FP64", "long": "INT64", "string": "BYTES", "boolean": "BOOL"}
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_WHOLE = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
_NUMBER_TYPES = frozenset({float, int, type(None)})
_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
_KNOWN = _FLOATS | _WHOLE | {"BYTES", "BOOL"}


class Target(NamedTuple):
    """What a path asks: of which model, of which version, and what."""

    model: str
    version: str | None
    verb: str  # "metadata", "ready" or "infer"


class Inference(NamedTuple):
    """A decoded request."""

    request: InferenceRequest | NumbersRequest
    rows: Rows


class Tensor(NamedTuple):
    """A tensor of a request, checked: the columns that it fills, in order, and its values, flat, row by row."""

    name: str
    datatype: str
    columns: tuple[str, ...]
    values: list[Any]


class OipRoutes:
    """Answers the protocol's requests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._numbers = Attempt(NumbersRequest)

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
        numbers = self._numbers.read(body)
        if numbers is not None and (block := _whole(endpoint, numbers)) is not None:
            return Inference(numbers, endpoint.schema.take_block(block, ids=None, at=None))
        request: InferenceRequest | NumbersRequest | None = numbers
        if request is None or not endpoint.schema.takes_block(_columns(endpoint, request)):
            request = decode(body, InferenceRequest, what="inference request")
        if not request.inputs:
            raise Invalid("inference request has no inputs; expected one tensor a column")
        count, tensors = _tensors(endpoint, request)
        for output in request.outputs or ():
            if output.name not in (_score_name(endpoint), "label"):
                raise Invalid(f"model {endpoint.config.key!r} has no output {output.name!r} (it has: {_score_name(endpoint)}, label)")
        ids, at = _parameters(request.parameters or {})
        return Inference(request, _rows(endpoint, count, tensors, ids, at, plain=isinstance(request, NumbersRequest)))

    def encode(self, endpoint: Endpoint, inference: Inference, answered: Answered) -> bytes:
        """Return the answer as tensors; the prediction ids are among the parameters."""
        count, labels, one = len(answered.ids), endpoint.labels(answered), endpoint.sole(answered)
        outputs = [ResponseOutput(name=_score_name(endpoint), shape=[count], datatype="FP64", data=answered.scores)]
        if None not in labels:
            outputs.append(ResponseOutput(name="label", shape=[count], datatype="BOOL", data=labels))
        if inference.request.outputs:
            wanted = {output.name for output in inference.request.outputs}
            outputs = [output for output in outputs if output.name in wanted]
        response = InferenceResponse(
            model_name=endpoint.config.key,
            model_version=str(one.version) if one is not None else None,
            id=inference.request.id,
            parameters={"prediction_ids": answered.ids},
            outputs=outputs,
        )
        return encode(response)


def _score_name(endpoint: Endpoint) -> str:
    outputs = endpoint.main.spec.signature.outputs
    return outputs[0].name if outputs else "score"


def _check_version(endpoint: Endpoint, target: Target) -> None:
    if target.version is None:
        return
    versions = sorted({str(variant.config.version) for variant in endpoint.variants.values()})
    if target.version not in versions:
        raise NotFound(f"model {target.model!r} has no version {target.version!r} here (it has: {', '.join(versions)})")


def _parameters(parameters: dict[str, Any]) -> tuple[list[str] | None, datetime | None]:
    ids, at = parameters.get("prediction_ids"), parameters.get("at")
    if ids is not None and not (isinstance(ids, list) and all(isinstance(each, str) and 0 < len(each) <= 200 for each in ids)):
        raise Invalid("parameter 'prediction_ids' was not understood; expected a list of texts, one a row")
    if at is not None and not isinstance(at, str):
        raise Invalid("parameter 'at' was not understood; expected a moment such as 2013-06-01T12:00:00Z")
    return ids, parse_moment(at) if at is not None else None


@lru_cache(maxsize=1024)  # callers ask the same again and again
def target_of(path: bytes) -> Target:
    """Read `/v2/models/[PROJECT/]MODEL[/versions/V][/ready|/infer]`. Raises RouteNotFound."""
    text = path.decode("utf-8", "replace")
    parts = text.strip("/").split("/")[1:]
    if len(parts) < 2 or parts[0] != "models" or "" in parts:
        raise RouteNotFound(text[:200])
    parts = parts[1:]
    verb = parts.pop() if len(parts) > 1 and parts[-1] in ("ready", "infer") else "metadata"
    wanted = None
    if len(parts) > 2 and parts[-2] == "versions":
        wanted = parts[-1]
        parts = parts[:-2]
    if len(parts) > 2:
        raise RouteNotFound(text[:200])
    return Target("/".join(parts), wanted, verb)


def _tensors(endpoint: Endpoint, request: InferenceRequest | NumbersRequest) -> tuple[int, list[Tensor]]:
    """Return how many rows the tensors have, and what they hold. Raises Invalid when they do not go together."""
    found, count = [], -1
    for tensor in request.inputs:
        names = _columns_of(endpoint, tensor.name)
        rows, flat = _checked(tensor, len(names))
        if count not in (-1, rows):
            raise Invalid(f"tensor {tensor.name!r} has {rows} rows, the others {count}; expected as many in each")
        count = rows
        found.append(Tensor(tensor.name, tensor.datatype, names, flat))
    if len(found) > 1:
        seen: set[str] = set()
        for name in (name for each in found for name in each.columns):
            if name in seen:
                raise Invalid(f"column {name!r} comes twice")
            seen.add(name)
    return count, found


def _whole(endpoint: Endpoint, request: NumbersRequest) -> Block | None:
    """Return what nearly every request is, one tensor that fills every column and nothing else; None for any other, right or wrong."""
    if len(request.inputs) != 1 or request.parameters is not None or request.outputs is not None:
        return None
    tensor = request.inputs[0]
    names = _columns_of(endpoint, tensor.name)
    if tensor.shape != [len(tensor.data) // len(names), len(names)] or not tensor.data or not endpoint.schema.takes_block(names):
        return None
    return Block(names, np.array(tensor.data, dtype=_SINGLE if tensor.datatype == "FP32" else _DOUBLE).reshape(tensor.shape))


def _columns(endpoint: Endpoint, request: InferenceRequest | NumbersRequest) -> tuple[str, ...]:
    """Return all columns that a request's tensors fill, in order."""
    if len(request.inputs) == 1:
        return _columns_of(endpoint, request.inputs[0].name)
    return tuple(name for tensor in request.inputs for name in _columns_of(endpoint, tensor.name))


def _columns_of(endpoint: Endpoint, tensor: str) -> tuple[str, ...]:
    return (tensor,) if tensor in endpoint.schema.types else endpoint.main.spec.tensors.get(tensor, (tensor,))


def _rows(endpoint: Endpoint, count: int, tensors: list[Tensor], ids: list[str] | None, at: datetime | None, *, plain: bool) -> Rows:
    """Return what tensors hold as rows: numbers as one block, if that is all there is. plain: it is known to be. Raises RowsRefused."""
    schema = endpoint.schema
    names = tensors[0].columns if len(tensors) == 1 else tuple(name for tensor in tensors for name in tensor.columns)
    numbers = plain or all(tensor.datatype in _FLOATS and _NUMBER_TYPES.issuperset(map(type, tensor.values)) for tensor in tensors)
    if numbers and schema.takes_block(names):
        parts = [_matrix(tensor, count) for tensor in tensors]
        return schema.take_block(Block(names, parts[0] if len(parts) == 1 else np.column_stack(parts)), ids=ids, at=at)
    columns = {name: tensor.values[place :: len(tensor.columns)] for tensor in tensors for place, name in enumerate(tensor.columns)}
    return schema.take(columns, count, ids=ids, at=at)


def _matrix(tensor: Tensor, count: int) -> NDArray[Any]:
    found = np.array(tensor.values, dtype=_SINGLE if tensor.datatype == "FP32" else _DOUBLE)
    return found.reshape(count, len(tensor.columns))


def _checked(tensor: RequestInput | NumbersInput, width: int) -> tuple[int, list[Any]]:
    """Return a tensor's rows and its data, flat. Raises Invalid when datatype, shape and data do not agree."""
    if tensor.datatype not in _KNOWN:
        raise Invalid(f"tensor {tensor.name!r} has the datatype {tensor.datatype!r}; expected one of {', '.join(sorted(_KNOWN))}")
    fits = (len(tensor.shape) == 2 and tensor.shape[1] == width) or (width == 1 and len(tensor.shape) == 1)
    if not fits or tensor.shape[0] < 0:
        wanted = "[n] or [n, 1]" if width == 1 else f"[n, {width}]"
        raise Invalid(f"tensor {tensor.name!r} has the shape {tensor.shape}; expected {wanted}")
    flat: list[Any] = tensor.data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(each, list) for each in flat):
            raise Invalid(f"tensor {tensor.name!r} is nested unevenly")
        flat = [value for each in flat for value in each]
    if len(flat) != tensor.shape[0] * width:
        raise Invalid(f"tensor {tensor.name!r} holds {len(flat)} values; its shape {tensor.shape} says {tensor.shape[0] * width}")
    return tensor.shape[0], flat
