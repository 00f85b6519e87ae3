"""The extension for binary tensors: Triton's own client, bytes that lie, and any bytes at all."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.plant import Answer, Caller, Plant, python_spec, row
from tidemill.core.signature import Column

pytestmark = pytest.mark.slow
LENGTH = "inference-header-content-length"
TEXTS = (Column(name="word", kind="string"), Column(name="n", kind="long"), Column(name="yes", kind="boolean"))


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    plant = Plant(tmp_path_factory.mktemp("home"), trusted_runtimes=["onnx", "python"])
    body = "return [len(str(word)) / 10 for word in columns['word']]"
    plant.publish(
        plant.endpoint(plant.variant(version=3)),
        plant.endpoint(plant.variant(body=body, spec=python_spec(inputs=TEXTS)), name="words"),
    )
    return plant


@pytest.fixture(scope="module")
def caller(plant: Plant) -> Iterator[Caller]:
    with plant.worker() as found:
        yield found


def numbers() -> tuple[dict[str, Any], bytes]:
    """Return a request for two rows, and its raw tensor."""
    data = np.array([[1, 1], [9, 3]], dtype="<f4").tobytes()
    return {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}]}, data


def post(caller: Caller, head: Any, raw: bytes, *, length: str | None = None) -> Answer:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return caller.post("/v2/models/delay/infer", text + raw, **{LENGTH: length if length is not None else str(len(text))})


def expected(caller: Caller) -> list[float]:
    return [each["score"] for each in caller.predict(row(1.0, 1), row(9.0, 3))["predictions"]]


def test_tritons_client_asks_and_is_answered_in_raw_bytes(caller: Caller) -> None:
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(f"127.0.0.1:{caller.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("delay")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("delay")["versions"] == ["3"]
    a, b = http.InferInput("a", [2], "FP64"), http.InferInput("b", [2, 1], "INT64")
    a.set_data_from_numpy(np.array([1.0, 9.0]))
    b.set_data_from_numpy(np.array([[1], [3]]))
    for binary in (True, False):
        a.set_data_from_numpy(np.array([1.0, 9.0]), binary_data=binary)
        wanted = [http.InferRequestedOutput("score", binary_data=binary), http.InferRequestedOutput("label", binary_data=not binary)]
        for outputs in (wanted, None):
            told = client.infer("delay", [a, b], request_id="7", outputs=outputs)
            assert told.as_numpy("score").tolist() == expected(caller)
            assert told.as_numpy("label").tolist() == [False, True]
            assert told.get_response()["id"] == "7"
    with pytest.raises(http.InferenceServerException if hasattr(http, "InferenceServerException") else Exception, match="no version '9'"):
        client.infer("delay", [a, b], model_version="9")


def test_texts_whole_numbers_and_truths_come_as_bytes(caller: Caller) -> None:
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(f"127.0.0.1:{caller.port}")
    inputs = [http.InferInput("word", [2], "BYTES"), http.InferInput("n", [2], "INT64"), http.InferInput("yes", [2], "BOOL")]
    for tensor, values in zip(
        inputs, (np.array(["früh", "spät!"], dtype=object), np.array([1, 2**62]), np.array([True, False])), strict=True
    ):
        tensor.set_data_from_numpy(values)
    assert client.infer("words", inputs).as_numpy("score").tolist() == [0.4, 0.5]


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_numbers_of_every_precision_are_taken(caller: Caller, datatype: str) -> None:
    data = np.array([[1, 1], [9, 3]]).astype({"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}[datatype]).tobytes()
    head = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": datatype, "parameters": {"binary_data_size": len(data)}}]}
    answer = post(caller, head, data)
    assert answer.json()["outputs"][0]["data"] == expected(caller)  # b is a whole number: 3.0 is one


def tampered(**changes: Any) -> dict[str, Any]:
    head, _ = numbers()
    return {"inputs": [head["inputs"][0] | changes]}


@pytest.mark.parametrize(
    ("head", "raw", "length", "says"),
    [
        (None, None, "99999", "expected how many of the body's"),
        (None, None, "-1", "expected how many of the body's"),
        (None, None, "many", "expected how many of the body's"),
        (None, b"", None, "has 0 bytes of data; its shape [2, 2] of FP32 says 16"),
        (None, b"x" * 17, None, "17 bytes follow the inference request's JSON; its inputs say that 16 do"),
        (tampered(parameters={"binary_data_size": 15}), b"x" * 15, None, "has 15 bytes of data"),
        (tampered(parameters={"binary_data_size": -4}), None, None, "expected a number of bytes"),
        (tampered(parameters={"binary_data_size": "16"}), None, None, "expected a number of bytes"),
        (tampered(parameters={"binary_data_size": True}), None, None, "expected a number of bytes"),
        (tampered(data=[1, 1, 9, 3]), None, None, "and no data in the JSON"),
        (tampered(parameters={}), b"", None, "has no data"),
        (tampered(shape=[2, 3]), None, None, "expected [n, 2]"),
        (tampered(shape=[2**62, 2]), None, None, "has 16 bytes of data"),
        (tampered(datatype="FP65"), None, None, "expected one of BF16"),
        (b'{"inputs": [', b"", None, "is not valid JSON"),
    ],
)
def test_bytes_that_lie_are_one_sentence(caller: Caller, head: Any, raw: bytes | None, length: str | None, says: str) -> None:
    right, data = numbers()
    answer = post(caller, right if head is None else head, data if raw is None else raw, length=length)
    assert (answer.status, list(answer.json())) == (400, ["error"])
    assert says in answer.json()["error"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), length=st.integers(-5, 300).map(str) | st.text("0123456789x", max_size=6))
def test_any_bytes_are_answered(caller: Caller, body: bytes, length: str) -> None:
    answer = caller.post("/v2/models/delay/infer", body, **{LENGTH: length})
    assert (answer.status, list(answer.json())) == (400, ["error"])
