"""Inference over gRPC: messages to rows and back.

Tensors come typed (`contents`) or raw (`raw_input_contents`), never both, and are answered as they came.
"""

from typing import Any, NamedTuple

import numpy as np

from tidemill.core.codec import decode, encode_text
from tidemill.core.errors import Invalid
from tidemill.serving.block import Block
from tidemill.serving.grpc.wire import MESSAGES, plain_parameters
from tidemill.serving.oip.models import check_outputs, check_version, outputs_of, score_only
from tidemill.serving.oip.tensors import DATATYPES, Tensor, columns_of, read_raw, rows_of, take, write_raw
from tidemill.serving.parameters import Parameters, read_parameters
from tidemill.serving.predict import Answered, Endpoint
from tidemill.serving.rows import Rows

_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_FLOATS: dict[str, np.dtype[Any]] = {"FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64)}


class Asked(NamedTuple):
    """A decoded request: its rows, its id, the outputs that it wants (all when empty), and whether its tensors were raw."""

    rows: Rows
    id: str
    wanted: tuple[str, ...]
    raw: bool


def read_request(endpoint: Endpoint, request: Any) -> Asked:
    """Read a ModelInferRequest as rows. Raises Invalid, NotFound, RowsRefused."""
    if request.model_version:
        check_version(endpoint, request.model_version)
    wanted = tuple(output.name for output in request.outputs)
    check_outputs(endpoint, wanted)
    bare = score_only(endpoint, wanted)
    if (block := _whole(endpoint, request)) is not None:
        rows = endpoint.schema.take_block(block, ids=None, at=None)
        rows.score_only = bare
        return Asked(rows, request.id, wanted, raw=True)
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise Invalid(f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; expected one for each, or none")
    tensors = [_tensor(endpoint, tensor, raw[place] if raw else None) for place, tensor in enumerate(request.inputs)]
    ids, at = _parameters(request) if request.parameters else Parameters()
    rows = take(endpoint.schema, tensors, ids=ids, at=at)
    rows.score_only = bare
    return Asked(rows, request.id, wanted, bool(raw))


def write_response(endpoint: Endpoint, asked: Asked, answered: Answered) -> Any:
    """Return the ModelInferResponse; the prediction ids are among its parameters, as the JSON of a list."""
    one = endpoint.sole(answered)
    response = MESSAGES["ModelInferResponse"](
        model_name=endpoint.config.key, model_version=str(one.version) if one is not None else "", id=asked.id
    )
    response.parameters.add(key="prediction_ids").value.string_param = encode_text(answered.ids)
    for told in outputs_of(endpoint, answered, asked.wanted):
        name, datatype, shape, values = told
        output = response.outputs.add(name=name, datatype=datatype, shape=shape)
        if asked.raw:
            response.raw_output_contents.append(write_raw(datatype, values))
        else:
            listed = told.listed()
            getattr(output.contents, _CONTENTS[datatype]).extend([text.encode() for text in listed] if datatype == "BYTES" else listed)
    return response


def _whole(endpoint: Endpoint, request: Any) -> Block | None:
    """Return what nearly every request is, one raw tensor that fills every column; None for any other, right or wrong."""
    if len(request.inputs) != 1 or len(request.raw_input_contents) != 1 or request.parameters:
        return None
    tensor, data = request.inputs[0], request.raw_input_contents[0]
    kind, names = _FLOATS.get(tensor.datatype), columns_of(endpoint, tensor.name)
    if kind is None or not data or tensor.HasField("contents") or not endpoint.schema.takes_block(names):
        return None
    rows, rest = divmod(len(data), kind.itemsize * len(names))
    if rest or tensor.shape != (shape := [rows, len(names)]):
        return None
    return Block(names, np.frombuffer(data, kind).reshape(shape))


def _parameters(request: Any) -> Parameters:
    found = plain_parameters(request.parameters)
    ids = found.get("prediction_ids")
    if isinstance(ids, str):  # no parameter can hold a list
        found["prediction_ids"] = decode(ids, list[str], what="parameter 'prediction_ids'")
    return read_parameters(found)


def _tensor(endpoint: Endpoint, tensor: Any, raw: bytes | None) -> Tensor:
    name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
    columns = columns_of(endpoint, name)
    rows = rows_of(name, shape, len(columns))
    if raw is None:
        return Tensor(name, columns, rows, _typed(tensor, rows * len(columns)))
    if tensor.HasField("contents"):
        raise Invalid(f"tensor {name!r} has contents beside raw_input_contents; expected either, not both")
    return Tensor(name, columns, rows, read_raw(name, datatype, shape, raw))


def _typed(tensor: Any, count: int) -> Any:
    """Return the values of a tensor that came typed."""
    name, datatype = tensor.name, tensor.datatype
    field = _CONTENTS.get(datatype)
    if field is None:
        if datatype in DATATYPES:
            raise Invalid(f"tensor {name!r} of {datatype} has no form but the raw one; send it in raw_input_contents")
        raise Invalid(f"tensor {name!r} has the datatype {datatype!r}; expected one of {', '.join(DATATYPES)}")
    values = getattr(tensor.contents, field)[:]
    if len(values) != count:
        raise Invalid(f"tensor {name!r} of {datatype} holds {len(values)} {field}; its shape {list(tensor.shape)} says {count}")
    if datatype in _FLOATS:
        return np.array(values, _FLOATS[datatype])
    if datatype == "BYTES":
        try:
            return [str(value, "utf-8") for value in values]
        except UnicodeDecodeError:
            raise Invalid(f"tensor {name!r} has a value that is not UTF-8; expected text") from None
    return values
