"""The messages of `inference.GRPCInferenceService` and of `grpc.health.v1.Health`, made from a table; no code is generated.

Sources: github.com/kserve/open-inference-protocol, specification/protocol/open_inference_grpc.proto; the streamed response:
github.com/triton-inference-server/common, protobuf/grpc_service.proto; health: github.com/grpc/grpc, doc/health-checking.md.
They live in a pool of their own, so that stubs that others generated can be loaded into the same process.
"""

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from tidemill.core.errors import Invalid

INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3  # of HealthCheckResponse

# Fields in the order of their numbers, which begin at 1; `*` is repeated, `|` stands between the choices of a oneof. Three spellings
# give the same bytes as the published ones: nested messages stand beside the others, a map is a repeated key and value, an enum an int32.
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready",
    "ModelReadyRequest": "string name, string version",
    "ModelReadyResponse": "bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name, string version, string* extensions",
    "ModelMetadataRequest": "string name, string version",
    "ModelMetadataResponse": "string name, string* versions, string platform, TensorMetadata* inputs, TensorMetadata* outputs",
    "TensorMetadata": "string name, string datatype, int64* shape",
    "ModelInferRequest": "string model_name, string model_version, string id, Parameter* parameters, InferInputTensor* inputs, "
    "InferRequestedOutputTensor* outputs, bytes* raw_input_contents",
    "InferInputTensor": "string name, string datatype, int64* shape, Parameter* parameters, InferTensorContents contents",
    "InferRequestedOutputTensor": "string name, Parameter* parameters",
    "ModelInferResponse": "string model_name, string model_version, string id, Parameter* parameters, InferOutputTensor* outputs, "
    "bytes* raw_output_contents",
    "InferOutputTensor": "string name, string datatype, int64* shape, Parameter* parameters, InferTensorContents contents",
    "ModelStreamInferResponse": "string error_message, ModelInferResponse infer_response",
    "Parameter": "string key, InferParameter value",
    "InferParameter": "bool bool_param | int64 int64_param | string string_param | double double_param | uint64 uint64_param",
    "InferTensorContents": "bool* bool_contents, int32* int_contents, int64* int64_contents, uint32* uint_contents, "
    "uint64* uint64_contents, float* fp32_contents, double* fp64_contents, bytes* bytes_contents",
    "HealthCheckRequest": "string service",
    "HealthCheckResponse": "int32 status",
}
_FIELD = re.compile(r"(\w+)(\*?) (\w+)")


def _described() -> FileDescriptorProto:
    file = FileDescriptorProto(name="tidemill_inference.proto", package="inference", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if " | " in fields:
            message.oneof_decl.add(name="choice")
        for number, (kind, repeated, field) in enumerate(_FIELD.findall(fields), 1):
            label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".inference.{kind}"
            else:
                added.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
            if message.oneof_decl:
                added.oneof_index = 0
    return file


def _classes() -> Mapping[str, Any]:
    pool = DescriptorPool()
    pool.AddSerializedFile(_described().SerializeToString())
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in _MESSAGES}


MESSAGES = _classes()


def read_message(name: str, data: bytes) -> Any:
    """Read a message. Raises Invalid."""
    try:
        return MESSAGES[name].FromString(data)
    except DecodeError as error:
        raise Invalid(f"the request message was not understood; expected inference.{name} ({error})") from error


def plain_parameters(found: Any) -> dict[str, Any]:
    """Return repeated parameters as plain values; the last of a name counts, one without a value is None."""
    return {each.key: getattr(each.value, choice) if (choice := each.value.WhichOneof("choice")) else None for each in found}
