"""The messages of our table beside those that others generated from the published specification."""

import warnings
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.errors import Invalid
from tidemill.serving.grpc.wire import MESSAGES, plain_parameters, read_message

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # generated for an older protobuf
    from tritonclient.grpc import service_pb2

NESTED = {
    "TensorMetadata": "ModelMetadataResponse.TensorMetadata",
    "InferInputTensor": "ModelInferRequest.InferInputTensor",
    "InferRequestedOutputTensor": "ModelInferRequest.InferRequestedOutputTensor",
    "InferOutputTensor": "ModelInferResponse.InferOutputTensor",
    "Parameter": "ModelInferRequest.ParametersEntry",
}


def published(name: str) -> Any:
    found: Any = service_pb2.DESCRIPTOR
    for place, part in enumerate(NESTED.get(name, name).split(".")):
        found = found.message_types_by_name[part] if place == 0 else found.nested_types_by_name[part]
    return found


@pytest.mark.parametrize("name", [name for name in MESSAGES if not name.startswith("Health")])
def test_fields_have_the_published_numbers_and_types(name: str) -> None:
    ours, theirs = MESSAGES[name].DESCRIPTOR, published(name)
    for field in theirs.fields:
        own = ours.fields_by_number[field.number]
        assert (own.name, own.type, own.is_repeated) == (field.name, field.type, field.is_repeated)
    more = {field.name for field in ours.fields} - {field.name for field in theirs.fields}
    assert not more or more <= {"double_param", "uint64_param"}  # of the Open Inference Protocol, not of Triton


PARAMETERS = st.dictionaries(st.text(max_size=5), st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.text(max_size=5), max_size=3)


@given(st.text(max_size=9), PARAMETERS, st.lists(st.floats(width=32, allow_nan=False), max_size=4), st.lists(st.binary(max_size=9)))
def test_what_others_write_is_read(model: str, parameters: dict[str, Any], values: list[float], raw: list[bytes]) -> None:
    theirs = service_pb2.ModelInferRequest(model_name=model, id="7", raw_input_contents=raw)
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(theirs.parameters[name], kind, value)
    tensor = theirs.inputs.add(name="x", datatype="FP32", shape=[1, len(values)])
    tensor.contents.fp32_contents.extend(values)
    ours = read_message("ModelInferRequest", theirs.SerializeToString())
    assert plain_parameters(ours.parameters) == parameters
    assert (ours.model_name, ours.id, list(ours.raw_input_contents)) == (model, "7", raw)
    assert list(ours.inputs[0].contents.fp32_contents) == values
    again = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert MessageToDict(again) == MessageToDict(theirs)


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(Invalid, match=r"the request message was not understood; expected inference\.ModelInferRequest"):
        read_message("ModelInferRequest", b"\xff\xff")
