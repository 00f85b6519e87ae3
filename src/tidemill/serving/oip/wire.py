"""The shapes that the Open Inference Protocol v2 dictates, lenient about unknown fields.

Source: github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from typing import Any, Literal

from tidemill.core.values import Wire


class ErrorAnswer(Wire, frozen=True, kw_only=True):
    """Every error."""

    error: str


class LiveAnswer(Wire, frozen=True, kw_only=True):
    """GET /v2/health/live."""

    live: bool


class ReadyAnswer(Wire, frozen=True, kw_only=True):
    """GET /v2/health/ready."""

    ready: bool


class ServerMetadata(Wire, frozen=True, kw_only=True):
    """GET /v2."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Wire, frozen=True, kw_only=True):
    """A tensor that a model takes or gives; -1 in the shape is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Wire, frozen=True, kw_only=True):
    """GET /v2/models/{model}."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(Wire, frozen=True, kw_only=True):
    """GET /v2/models/{model}/ready."""

    name: str
    ready: bool


class RequestInput(Wire, frozen=True, kw_only=True):
    """One tensor of a request; data is flat, or nested as its shape, and absent where raw bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class NumbersInput(Wire, frozen=True, kw_only=True):
    """A tensor of numbers, flat: what most requests consist of."""

    name: str
    shape: list[int]
    datatype: Literal["FP32", "FP64"]
    data: list[float]
    parameters: dict[str, Any] | None = None


class RequestOutput(Wire, frozen=True, kw_only=True):
    """One tensor that the caller wants."""

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(Wire, frozen=True, kw_only=True):
    """POST /v2/models/{model}/infer."""

    inputs: list[RequestInput]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[RequestOutput] | None = None


class NumbersRequest(Wire, frozen=True, kw_only=True):
    """POST /v2/models/{model}/infer with such tensors only."""

    inputs: list[NumbersInput]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[RequestOutput] | None = None


class ResponseOutput(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """One tensor of an answer; its data follows the JSON when parameters say how many bytes it has."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class InferenceResponse(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to an inference."""

    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[ResponseOutput]
