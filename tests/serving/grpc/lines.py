"""Calls to a worker over gRPC by grpc's own generic stubs, with messages of our own table."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from tests.serving.plant import Plant
from tidemill.serving.config import read_states
from tidemill.serving.grpc.wire import HEALTH, INFERENCE, MESSAGES

TIMEOUT_S = 20.0


class Line:
    """A channel to one worker."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def call(self, method: str, request: Any, *, service: str = INFERENCE, answer: str | None = None, **more: Any) -> Any:
        """Call a method with a message, or with bytes as they are."""
        stub = self.channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=None if isinstance(request, bytes) else lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES[answer or f"{method}Response"].FromString,
        )
        return stub(request, **{"timeout": TIMEOUT_S, **more})

    def infer(self, request: Any, **more: Any) -> Any:
        return self.call("ModelInfer", request, **more)

    def refusal(self, request: Any, **more: Any) -> tuple[grpc.StatusCode, str]:
        """Make a call that is to be refused; return how."""
        with pytest.raises(grpc.RpcError) as caught:
            self.infer(request, **more)
        return caught.value.code(), caught.value.details()

    def stream(self, requests: Iterable[Any], **more: Any) -> Iterator[Any]:
        stub = self.channel.stream_stream(
            f"/{INFERENCE}/ModelStreamInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES["ModelStreamInferResponse"].FromString,
        )
        return stub(iter(requests), **{"timeout": TIMEOUT_S, **more})

    def health(self, service: str = "") -> int:
        request = MESSAGES["HealthCheckRequest"](service=service)
        return self.call("Check", request, service=HEALTH, answer="HealthCheckResponse").status

    def watch(self, service: str = "") -> Iterator[int]:
        stub = self.channel.unary_stream(
            f"/{HEALTH}/Watch",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES["HealthCheckResponse"].FromString,
        )
        for told in stub(MESSAGES["HealthCheckRequest"](service=service), timeout=TIMEOUT_S):
            yield told.status


@contextmanager
def line(plant: Plant, *, index: int = 0, **options: int) -> Iterator[Line]:
    """Connect to a worker. Each line has a connection of its own."""
    port = read_states(plant.state)[index].grpc_port
    assert port is not None
    told = [("grpc.use_local_subchannel_pool", 1), *((f"grpc.{name}", value) for name, value in options.items())]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=told) as channel:
        yield Line(channel)


def tensor(name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    """Return an input; contents by the names of their fields."""
    made = MESSAGES["InferInputTensor"](name=name, datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(made.contents, field).extend(values)
    return made


def request(*inputs: Any, raw: Iterable[bytes] = (), model: str = "delay", **more: Any) -> Any:
    """Return a ModelInferRequest."""
    parameters = more.pop("parameters", {})
    made = MESSAGES["ModelInferRequest"](model_name=model, inputs=inputs, raw_input_contents=raw, **more)
    for key, value in parameters.items():
        made.parameters.add(key=key).value.string_param = value
    return made


def rows(a: list[float], b: list[int], **more: Any) -> Any:
    """Return a typed request for the example model."""
    return request(tensor("a", "FP64", [len(a)], fp64_contents=a), tensor("b", "INT64", [len(b), 1], int64_contents=b), **more)
