"""The Open Inference Protocol v2 over HTTP, with its extension for binary tensors: requests to rows, answers to tensors.

A model is an endpoint; each column is a tensor of shape [n] or [n, 1]. A tensor of the model file, [n, k], is taken too,
in place of the columns that fill it. A version in the path is checked against those that are served; routing stays the endpoint's.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from struct import pack
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill.core.codec import Attempt, decode, encode
from tidemill.core.errors import Invalid, TidemillError
from tidemill.core.values import Passed
from tidemill.serving.block import Block
from tidemill.serving.config import VariantConfig
from tidemill.serving.http import Reply, Request
from tidemill.serving.oip.models import check_outputs, check_version, metadata, outputs_of, score_only
from tidemill.serving.oip.tensors import DATATYPES, Tensor, columns_of, read_raw, rows_of, take, write_raw
from tidemill.serving.oip.wire import (
    ErrorAnswer,
    InferenceRequest,
    InferenceResponse,
    LiveAnswer,
    ModelReady,
    NumbersInput,
    NumbersRequest,
    ReadyAnswer,
    RequestInput,
    ResponseOutput,
    ServerMetadata,
)
from tidemill.serving.parameters import read_parameters
from tidemill.serving.predict import Answered, Endpoint
from tidemill.serving.problems import RouteNotFound, headers_of, status_of
from tidemill.serving.rows import Rows, RowsRefused
from tidemill.serving.world import World

HEADER_LENGTH = b"inference-header-content-length"
BINARY = b"application/octet-stream"
EXTENSIONS = ["binary_tensor_data"]
FRAMES_KEPT = 1000
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_NUMBER_TYPES = frozenset({float, int, type(None)})
_SINGLE, _DOUBLE = np.dtype("<f4"), np.dtype("<f8")


class Target(NamedTuple):
    """What a path asks: of which model, of which version, and what."""

    model: str
    version: str | None
    verb: str  # "metadata", "ready" or "infer"


class Inference(Passed):
    """A decoded request. binary: says whether an output is wanted as raw bytes; None: none is.

    variants: whether the answer is to say who answered.
    """

    rows: Rows
    id: str | None
    wanted: Sequence[str] = ()
    binary: Callable[[str], bool] | None = None
    variants: bool = False


class OipRoutes:
    """Answers the protocol's requests."""

    def __init__(self) -> None:
        self._numbers = Attempt(NumbersRequest)
        self._frames: dict[tuple[str, str, int], tuple[bytes, bytes, bytes]] = {}

    def error_reply(self, error: TidemillError) -> Reply:
        """Return an error in the protocol's shape."""
        status = status_of(error)
        # The protocol knows no 422; its clients look for 400.
        return Reply(400 if isinstance(error, RowsRefused) else status, encode(ErrorAnswer(error=str(error))), extra=headers_of(error))

    def health(self, world: World | None, *, ready: bool) -> Reply:
        if ready:
            well = world is not None and world.ready
            return Reply(200 if well else 503, encode(ReadyAnswer(ready=well)))
        return Reply(200, encode(LiveAnswer(live=True)))

    def server(self) -> Reply:
        return Reply(200, encode(ServerMetadata(name="tidemill", version=version("tidemill"), extensions=EXTENSIONS)))

    def model_ready(self, name: str, *, ready: bool) -> Reply:
        return Reply(200 if ready else 503, encode(ModelReady(name=name, ready=ready)))

    def describe(self, endpoint: Endpoint, target: Target) -> Reply:
        """Answer metadata and readiness of a model."""
        _check(endpoint, target)
        if target.verb == "ready":
            return self.model_ready(endpoint.config.key, ready=True)
        return Reply(200, encode(metadata(endpoint)))

    def decode(self, endpoint: Endpoint, target: Target, asked: Request) -> Inference:
        """Read an inference request as rows. Raises Invalid, RowsRefused."""
        _check(endpoint, target)
        length = asked.headers.get(HEADER_LENGTH)
        numbers = self._numbers.read(asked.body) if length is None else None
        if numbers is not None and (block := _whole(endpoint, numbers)) is not None:
            return Inference(endpoint.schema.take_block(block, ids=None, at=None), numbers.id)
        head, raw = (asked.body, memoryview(b"")) if length is None else _parted(asked.body, length)
        request = decode(head, InferenceRequest, what="inference request")
        tensors, place = [], 0
        for tensor in request.inputs:
            size = _binary_bytes(tensor)
            tensors.append(_tensor(endpoint, tensor, raw[place : place + size] if size is not None else None))
            place += size or 0
        if place != len(raw):
            raise Invalid(f"{len(raw)} bytes follow the inference request's JSON; its inputs say that {place} do")
        wanted = [output.name for output in request.outputs or ()]
        check_outputs(endpoint, wanted)
        told = request.parameters or {}
        ids, at = read_parameters(told)
        rows = take(endpoint.schema, tensors, ids=ids, at=at)
        rows.score_only = score_only(endpoint, wanted)
        return Inference(rows, request.id, wanted, _binary_outputs(request), told.get("variants") is True)

    def answer(self, endpoint: Endpoint, inference: Inference, answered: Answered) -> Reply:
        """Return the answer as tensors. The prediction ids are among the parameters; so is, where asked for, who answered."""
        one, binary = endpoint.sole(answered), inference.binary
        bare = not endpoint.labelled and not answered.others
        if bare and one is not None and binary is None and inference.id is None and inference.rows.ids is None:
            return Reply(200, self._framed(endpoint, one, answered))
        outputs, raw = [], []
        for told in outputs_of(endpoint, answered, inference.wanted):
            name, datatype, shape, values = told
            if binary is not None and binary(name):
                raw.append(write_raw(datatype, values))
                outputs.append(ResponseOutput(name=name, shape=shape, datatype=datatype, parameters={"binary_data_size": len(raw[-1])}))
            else:
                outputs.append(ResponseOutput(name=name, shape=shape, datatype=datatype, data=told.listed()))
        parameters: dict[str, Any] = {"prediction_ids": answered.ids}
        if inference.variants:
            chosen = answered.chosen if one is None else [one.name]
            parameters["variants"] = {name: endpoint.variants[name].config.version for name in dict.fromkeys(chosen)}
            if one is None:
                parameters["chosen"] = chosen
            if answered.others:
                parameters["others"] = list(answered.others)
        body = encode(
            InferenceResponse(
                model_name=endpoint.config.key,
                model_version=str(one.version) if one is not None else None,
                id=inference.id,
                parameters=parameters,
                outputs=outputs,
            )
        )
        if not raw:
            return Reply(200, body)
        return Reply(200, b"".join((body, *raw)), media=BINARY, extra=b"%b: %d\r\n" % (HEADER_LENGTH, len(body)))

    def _framed(self, endpoint: Endpoint, one: VariantConfig, answered: Answered) -> bytes:
        """Return what nearly every answer is: scores and ids in a frame that is the same each time: a sixth of the cost."""
        key = (endpoint.config.key, endpoint.output, one.version)
        frame = self._frames.get(key)
        if frame is None:
            if len(self._frames) >= FRAMES_KEPT:
                self._frames.clear()
            frame = self._frames[key] = _frame(*key)
        head, middle, end = frame
        scores = answered.scores
        return b'%b["%b"]%b[%d],"datatype":"FP64","data":%b%b' % (
            head, '","'.join(answered.ids).encode(), middle, len(scores), encode(scores), end,
        )  # fmt: skip


def _frame(model: str, output: str, version: int) -> tuple[bytes, bytes, bytes]:
    """Return what stands in an answer before the ids, between them and the shape, and behind the data."""
    response = InferenceResponse(
        model_name=model, model_version=str(version), parameters={"prediction_ids": []},
        outputs=[ResponseOutput(name=output, shape=[], datatype="FP64", data=[])],
    )  # fmt: skip
    head, _, rest = encode(response).rpartition(b'"prediction_ids":[]')
    middle, _, end = rest.rpartition(b'[],"datatype":"FP64","data":[]')
    return head + b'"prediction_ids":', middle, end


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


def _check(endpoint: Endpoint, target: Target) -> None:
    if target.version is not None:
        check_version(endpoint, target.version)


def _whole(endpoint: Endpoint, request: NumbersRequest) -> Block | None:
    """Return what nearly every request is, one tensor that fills every column and nothing else; None for any other, right or wrong."""
    if len(request.inputs) != 1 or request.parameters is not None or request.outputs is not None:
        return None
    tensor = request.inputs[0]
    names = columns_of(endpoint, tensor.name)
    if tensor.parameters or tensor.shape != [len(tensor.data) // len(names), len(names)] or not tensor.data:
        return None
    return Block(names, _numbers(tensor).reshape(tensor.shape)) if endpoint.schema.takes_block(names) else None


def _numbers(tensor: NumbersInput) -> NDArray[Any]:
    """Return the numbers of a tensor, flat. By `struct`, which takes a list apart in a third of NumPy's time."""
    data, single = tensor.data, tensor.datatype == "FP32"
    try:
        return np.frombuffer(pack(f"<{len(data)}{'f' if single else 'd'}", *data), _SINGLE if single else _DOUBLE)
    except OverflowError:  # too large for single precision: infinite, which is refused with its place
        return np.array(data, _SINGLE)


def _parted(body: bytes, told: bytes) -> tuple[memoryview, memoryview]:
    """Return the JSON of a request and the raw tensors behind it. Raises Invalid."""
    if not told.isdigit() or int(told) > len(body):
        raise Invalid(
            f"header Inference-Header-Content-Length reads {told[:20].decode('latin-1')!r}; "
            f"expected how many of the body's {len(body)} bytes are JSON"
        )
    view = memoryview(body)
    return view[: int(told)], view[int(told) :]


def _binary_bytes(tensor: RequestInput) -> int | None:
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0 or tensor.data is not None):
        raise Invalid(f"tensor {tensor.name!r} has the binary_data_size {size!r}; expected a number of bytes, and no data in the JSON")
    if size is None and tensor.data is None:
        raise Invalid(f"tensor {tensor.name!r} has no data; expected data, or binary_data_size with the bytes behind the JSON")
    return size


def _binary_outputs(request: InferenceRequest) -> Callable[[str], bool] | None:
    """Return what says whether an output is wanted as raw bytes: what was said of it, else of all. None: nothing was said."""
    if request.parameters is None and request.outputs is None:
        return None
    default = (request.parameters or {}).get("binary_data_output") is True
    told = {output.name: (output.parameters or {}).get("binary_data", default) is True for output in request.outputs or ()}
    return lambda name: told.get(name, default)


def _tensor(endpoint: Endpoint, tensor: RequestInput, raw: memoryview | None) -> Tensor:
    """Return a tensor of a request. Raises Invalid when datatype, shape and data do not agree."""
    names = columns_of(endpoint, tensor.name)
    if tensor.datatype not in DATATYPES:
        raise Invalid(f"tensor {tensor.name!r} has the datatype {tensor.datatype!r}; expected one of {', '.join(sorted(DATATYPES))}")
    rows = rows_of(tensor.name, tensor.shape, len(names))
    if raw is not None:
        return Tensor(tensor.name, names, rows, read_raw(tensor.name, tensor.datatype, tensor.shape, raw))
    flat = _flat(tensor)
    if len(flat) != rows * len(names):
        raise Invalid(f"tensor {tensor.name!r} holds {len(flat)} values; its shape {tensor.shape} says {rows * len(names)}")
    if tensor.datatype in _FLOATS and _NUMBER_TYPES.issuperset(map(type, flat)) and endpoint.schema.takes_block(names):
        return Tensor(tensor.name, names, rows, np.array(flat, dtype=_SINGLE if tensor.datatype == "FP32" else _DOUBLE))
    return Tensor(tensor.name, names, rows, flat)


def _flat(tensor: RequestInput) -> list[Any]:
    flat: list[Any] = tensor.data or []
    while flat and isinstance(flat[0], list):
        if not all(isinstance(each, list) for each in flat):
            raise Invalid(f"tensor {tensor.name!r} is nested unevenly")
        flat = [value for each in flat for value in each]
    return flat
