"""Open Inference over gRPC, spoken to real workers by Triton's client and by grpc's own stubs."""

import json
import os
import socket
import struct
import threading
import warnings
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.grpc.lines import Line, line, request, rows, tensor
from tests.serving.plant import NOW, Caller, Plant, python_spec, row
from tidemill.core.signature import Column
from tidemill.serving.config import read_states
from tidemill.serving.grpc.wire import HEALTH, INFERENCE, MESSAGES, SERVICE_UNKNOWN, SERVING, plain_parameters
from tidemill.serving.history import read_predictions

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # generated for an older protobuf
    from tritonclient import grpc as triton

pytestmark = pytest.mark.slow
NAMES = tuple(f"f{number}" for number in range(4))
TEXT = (Column(name="a", kind="double"), Column(name="s", kind="string"), Column(name="flag", kind="boolean"))
SAID = "import numpy as np; return np.array([0.1 * len(s) + f for s, f in zip(columns['s'], columns['flag'])])"


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    plant = Plant(tmp_path_factory.mktemp("home"), trusted_runtimes=["onnx", "python"], grpc_port=0, body_limit_bytes=1 << 20)
    wide = python_spec(inputs=tuple(Column(name=name, kind="double", required=False) for name in NAMES))
    first = "import numpy as np; return np.nan_to_num(np.asarray(columns['f0'], dtype=float), nan=0.5)"
    plant.publish(
        plant.endpoint(plant.variant(version=3)),
        plant.endpoint(plant.variant(spec=wide, body=first), name="wide"),
        plant.endpoint(plant.variant(spec=python_spec(inputs=TEXT), body=SAID), name="said"),
    )
    return plant


@pytest.fixture(scope="module")
def caller(plant: Plant) -> Iterator[Caller]:
    with plant.worker() as found:
        yield found


@pytest.fixture(scope="module")
def asked(plant: Plant, caller: Caller) -> Iterator[Line]:
    with line(plant) as found:
        yield found


@pytest.fixture
def client(plant: Plant, caller: Caller) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{read_states(plant.state)[0].grpc_port}") as found:
        yield found


def test_triton_reads_what_the_server_and_its_models_are(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("delay")
    assert client.is_model_ready("delay", "3")
    assert client.get_server_metadata(as_json=True)["name"] == "tidemill"
    told = client.get_model_metadata("delay", as_json=True)
    assert told == {
        "name": "delay", "versions": ["3"], "platform": "tidemill_onnx",
        "inputs": [{"name": "a", "datatype": "FP64", "shape": ["-1"]}, {"name": "b", "datatype": "INT64", "shape": ["-1"]}],
        "outputs": [{"name": "score", "datatype": "FP64", "shape": ["-1"]}, {"name": "label", "datatype": "BOOL", "shape": ["-1"]}],
    }  # fmt: skip
    with pytest.raises(triton.InferenceServerException, match="there is no endpoint 'nothing' here"):
        client.get_model_metadata("nothing")


def test_triton_infers_with_raw_tensors_as_rows_are_answered(client: triton.InferenceServerClient, caller: Caller, plant: Plant) -> None:
    inputs = [triton.InferInput("a", [2], "FP64"), triton.InferInput("b", [2, 1], "INT64")]
    inputs[0].set_data_from_numpy(np.array([1.0, 9.0]))
    inputs[1].set_data_from_numpy(np.array([[1], [3]], dtype=np.int64))
    answer = client.infer("delay", inputs, request_id="call-1", model_version="3", outputs=[triton.InferRequestedOutput("score")])
    short = caller.predict(row(1.0, 1), row(9.0, 3))["predictions"]
    assert answer.as_numpy("score").tolist() == [each["score"] for each in short]
    assert answer.as_numpy("label") is None
    told = answer.get_response()
    assert (told.model_name, told.model_version, told.id) == ("delay", "3", "call-1")
    assert client.infer("delay", inputs).as_numpy("label").tolist() == [False, True]
    ids = json.loads(told.parameters["prediction_ids"].string_param)
    assert set(ids) <= set(read_predictions(plant.state, "delay")["id"].to_pylist())


@pytest.mark.parametrize(("datatype", "kind"), [("FP16", np.float16), ("FP32", np.float32), ("FP64", np.float64), ("INT32", np.int32)])
def test_a_tensor_of_the_model_file_goes_through_as_one(client: triton.InferenceServerClient, datatype: str, kind: type) -> None:
    matrix = np.arange(12).reshape(3, 4).astype(kind)
    if datatype.startswith("FP"):
        matrix[2, 0] = np.nan  # missing
    tensor = triton.InferInput("x", [3, 4], datatype)
    tensor.set_data_from_numpy(matrix)
    assert client.infer("wide", [tensor]).as_numpy("score").tolist() == [0.0, 4.0, 0.5 if datatype.startswith("FP") else 8.0]


def test_texts_and_truths_come_raw_and_typed(client: triton.InferenceServerClient, asked: Line) -> None:
    inputs = [triton.InferInput(name, [2], datatype) for name, datatype in (("a", "FP64"), ("s", "BYTES"), ("flag", "BOOL"))]
    inputs[0].set_data_from_numpy(np.zeros(2))
    inputs[1].set_data_from_numpy(np.array(["Zürich", ""], dtype=np.object_))
    inputs[2].set_data_from_numpy(np.array([False, True]))
    assert client.infer("said", inputs).as_numpy("score").tolist() == pytest.approx([0.6, 1.0])
    typed = request(
        tensor("a", "FP64", [1], fp64_contents=[0.0]), tensor("s", "BYTES", [1], bytes_contents=["Zürich".encode()]),
        tensor("flag", "BOOL", [1], bool_contents=[True]), model="said",
    )  # fmt: skip
    assert list(asked.infer(typed).outputs[0].contents.fp64_contents) == pytest.approx([1.6])


def test_typed_tensors_are_answered_typed(asked: Line) -> None:
    answer = asked.infer(rows([1.0, 9.0], [1, 3], id="7", parameters={"prediction_ids": '["x","y"]', "at": NOW.isoformat()}))
    score, label = answer.outputs
    assert (answer.id, list(answer.raw_output_contents)) == ("7", [])
    assert list(score.contents.fp64_contents) == pytest.approx([0.11, 0.93], abs=1e-6)
    assert list(label.contents.bool_contents) == [False, True]
    assert [list(output.shape) for output in answer.outputs] == [[2], [2]]
    assert plain_parameters(answer.parameters) == {"prediction_ids": '["x","y"]'}


def test_the_moment_the_ids_and_the_trace_are_journaled(asked: Line, plant: Plant) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("traceparent", f"00-{trace}-b7ad6b7169203331-01"),)
    asked.infer(rows([1.0], [1], parameters={"prediction_ids": '["traced"]', "at": NOW.isoformat()}), metadata=metadata)
    table = read_predictions(plant.state, "delay").filter(
        [each == "traced" for each in read_predictions(plant.state, "delay")["id"].to_pylist()]
    )
    assert (table["at"].to_pylist(), table["trace_id"].to_pylist()) == ([NOW], [trace])


A, B = tensor("a", "FP64", [1], fp64_contents=[1.0]), tensor("b", "INT64", [1], int64_contents=[1])
BARE_A, BARE_B = tensor("a", "FP64", [1]), tensor("b", "INT64", [1])
ONE, TWO = struct.pack("<d", 1.0), struct.pack("<q", 1)


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        (request(A, B, model="nothing"), "NOT_FOUND", "there is no endpoint 'nothing' here (there are: delay, said, wide)"),
        (request(A, B, model_version="9"), "NOT_FOUND", "model 'delay' has no version '9' here (it has: 3)"),
        (request(A, BARE_B, raw=[ONE, TWO]), "INVALID_ARGUMENT", "tensor 'a' has contents beside raw_input_contents; expected either"),
        (request(BARE_A, BARE_B, raw=[ONE]), "INVALID_ARGUMENT", "raw_input_contents has 1 entries for 2 inputs"),
        (request(BARE_A, BARE_B, raw=[ONE, b"1"]), "INVALID_ARGUMENT", "tensor 'b' has 1 bytes of data; its shape [1] of INT64 says 8"),
        (request(A, BARE_B), "INVALID_ARGUMENT", "tensor 'b' of INT64 holds 0 int64_contents; its shape [1] says 1"),
        (request(A, tensor("b", "FP16", [1])), "INVALID_ARGUMENT", "tensor 'b' of FP16 has no form but the raw one"),
        (request(A, tensor("b", "FP8", [1])), "INVALID_ARGUMENT", "datatype 'FP8'; expected one of"),
        (request(A, tensor("b", "INT64", [2], int64_contents=[1, 1])), "INVALID_ARGUMENT", "tensor 'b' has 2 rows, the others 1"),
        (request(A, tensor("b", "INT64", [1, 2], int64_contents=[1, 1])), "INVALID_ARGUMENT", "shape [1, 2]; expected [n] or [n, 1]"),
        (request(A, A, B), "INVALID_ARGUMENT", "column 'a' comes twice"),
        (request(), "INVALID_ARGUMENT", "inference request has no inputs"),
        (request(A), "INVALID_ARGUMENT", "endpoint 'delay' cannot take these rows: row 0: column 'b' is missing"),
        (request(A, tensor("b", "BYTES", [1], bytes_contents=[b"x"])), "INVALID_ARGUMENT", "row 0: column 'b': Expected `int`, got `str`"),
        (request(A, tensor("b", "INT64", [0])), "INVALID_ARGUMENT", "tensor 'b' has 0 rows"),
        (request(A, B, tensor("c", "FP32", [1], fp32_contents=[1])), "INVALID_ARGUMENT", "column 'c' is not known"),
        (request(A, B, outputs=[MESSAGES["InferRequestedOutputTensor"](name="z")]), "INVALID_ARGUMENT", "has no output 'z'"),
        (request(A, B, parameters={"prediction_ids": "x"}), "INVALID_ARGUMENT", "parameter 'prediction_ids' is not valid JSON"),
        (request(A, B, parameters={"prediction_ids": '["a", "b"]'}), "INVALID_ARGUMENT", "1 rows and 2 ids"),
        (request(A, B, parameters={"at": "yesterday"}), "INVALID_ARGUMENT", "yesterday"),
        (b"\xff\xff", "INVALID_ARGUMENT", "the request message was not understood; expected inference.ModelInferRequest"),
        (rows([1.0], [99]), "INTERNAL", "its score of row 0 is not a finite number; the request is fine"),
        (request(A, tensor("é" * 5000, "FP64", [1, 1, 1])), "INVALID_ARGUMENT", "éé"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(asked: Line, message, code: str, said: str) -> None:
    found, told = asked.refusal(message)
    assert found.name == code
    assert said in told
    assert "\n" not in told
    assert len(told) <= 1000


def test_a_message_beyond_the_limit_is_refused_and_the_connection_lives(asked: Line) -> None:
    code, told = asked.refusal(request(A, B, raw=[bytes(2 << 20)]))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in told
    assert asked.infer(rows([1.0], [1])).model_name == "delay"


def test_a_message_that_grows_beyond_the_limit_when_unpacked_is_refused(asked: Line) -> None:
    code, _ = asked.refusal(request(A, B, raw=[bytes(30 << 20)]), compression=grpc.Compression.Gzip)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    small = request(BARE_A, BARE_B, raw=[ONE, TWO])
    assert asked.infer(small, compression=grpc.Compression.Gzip).model_name == "delay"


def test_a_method_that_is_not_there_is_said_to_be_so(asked: Line) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        asked.call("ModelStatistics", b"", answer="ModelInferResponse")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_calls_are_counted_by_code(asked: Line, caller: Caller) -> None:
    asked.infer(rows([1.0], [1]))
    asked.refusal(request())
    asked.call("ServerLive", MESSAGES["ServerLiveRequest"]())
    text = caller.get("/metrics").body.decode()
    for labels in ('code="OK",route="grpc"', 'code="INVALID_ARGUMENT",route="grpc"', 'code="OK",route="probe"'):
        assert f"tidemill_requests_total{{{labels}" in text


def test_health_is_told_as_grpc_health_checking_wants(asked: Line) -> None:
    assert [asked.health(service) for service in ("", INFERENCE, HEALTH)] == [SERVING] * 3
    with pytest.raises(grpc.RpcError, match="there is no service 'x' here"):
        asked.health("x")
    assert next(asked.watch()) == SERVING
    assert next(asked.watch("x")) == SERVICE_UNKNOWN


def test_a_stream_answers_in_order_and_goes_on_after_a_refusal(asked: Line, plant: Plant) -> None:
    messages = [rows([float(number)], [1], id=str(number)) for number in range(20)]
    messages[7] = request(A, id="7")
    answers = list(asked.stream(messages))
    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(20)]
    assert [place for place, answer in enumerate(answers) if answer.error_message] == [7]
    assert "column 'b' is missing" in answers[7].error_message
    (identity,) = json.loads(plain_parameters(answers[3].infer_response.parameters)["prediction_ids"])
    assert identity in read_predictions(plant.state, "delay")["id"].to_pylist()


def test_triton_streams(client: triton.InferenceServerClient) -> None:
    answers: list = []
    arrived = threading.Event()

    def take(result, error) -> None:
        answers.append(error or result.as_numpy("score").tolist())
        if len(answers) == 3:
            arrived.set()

    client.start_stream(callback=take)
    for value in (1.0, 2.0, 3.0):
        tensor = triton.InferInput("x", [1, 4], "FP64")
        tensor.set_data_from_numpy(np.full((1, 4), value))
        client.async_stream_infer("wide", [tensor])
    assert arrived.wait(20)
    client.stop_stream()
    assert answers == [[1.0], [2.0], [3.0]]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["ModelInfer", "ModelMetadata", "ModelReady", "ServerLive"]))
def test_any_bytes_get_a_status(asked: Line, data: bytes, method: str) -> None:
    try:
        asked.call(method, data)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)  # noqa: PT017 (or it is well)


INPUTS = st.builds(
    lambda name, datatype, shape, fp32, texts: tensor(name, datatype, shape, fp32_contents=fp32, bytes_contents=texts),
    st.sampled_from(["a", "b", "x", "c", ""]), st.sampled_from(["FP64", "FP32", "FP16", "BF16", "BYTES", "BOOL", "INT64", "UINT8", "x"]),
    st.lists(st.integers(-1, 3) | st.just(2**62), max_size=3), st.lists(st.floats(width=32), max_size=3),
    st.lists(st.binary(max_size=3), max_size=2),
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(INPUTS, max_size=3), st.lists(st.binary(max_size=24), max_size=3), st.sampled_from(["delay", "wide", "said"]))
def test_any_tensors_get_a_status(asked: Line, caller: Caller, inputs: list, raw: list[bytes], model: str) -> None:
    try:
        asked.infer(request(*inputs, raw=raw, model=model))
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017 (or it is well)
    assert caller.process.poll() is None


def test_what_is_no_http2_at_all_harms_nobody(asked: Line, plant: Plant) -> None:
    for data in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", os.urandom(5000), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(500)):
        with socket.create_connection(("127.0.0.1", read_states(plant.state)[0].grpc_port)) as stray:
            stray.sendall(data)
    assert asked.infer(rows([1.0], [1])).model_name == "delay"
