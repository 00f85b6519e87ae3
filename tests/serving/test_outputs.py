"""What a model answers beside its score: by every protocol, in the journal, from memory; and what is not there is named."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.serving.plant import KINDS_TOLD, WEIGHTS, Caller, Plant, python_spec, row, several_spec
from tidemill.client.inference import InferenceClient
from tidemill.core.clock import wait_until
from tidemill.core.signature import Column, Output, Signature
from tidemill.core.values import replace
from tidemill.serving.archive import compact
from tidemill.serving.config import EndpointOptions, read_states
from tidemill.serving.history import find_prediction, read_predictions
from tidemill.serving.journal import predictions_folder, segments

pytestmark = pytest.mark.slow
ROWS = [row(1.0, 1), row(0.0, 6), row(-2.0, 0)]
TENSOR = {"name": "x", "shape": [3, 2], "datatype": "FP32", "data": [1.0, 1.0, 0.0, 6.0, -2.0, 0.0]}
BODY = "return {'score': columns['a'], 'text': ['of ' + str(v) for v in columns['a']], 'twice': [[v, v] for v in columns['a']]}"
PYTHON = (Output(name="text", kind="string"), Output(name="twice", kind="double", width=2))


def told() -> np.ndarray:
    """Return the probabilities of ROWS."""
    found = np.exp(np.array(TENSOR["data"]).reshape(3, 2) @ np.array(WEIGHTS))
    return found / found.sum(axis=1, keepdims=True)


LABELS = [KINDS_TOLD[place] for place in told().argmax(axis=1)]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    plant = Plant(tmp_path_factory.mktemp("outputs"), trusted_runtimes=["onnx", "python"], grpc_port=0)
    several = plant.variant(spec=several_spec())
    wide = plant.variant(spec=several_spec(Output(name="all", kind="double", width=3, source="probabilities")))
    alike = plant.variant("second", version=2, spec=several_spec(Output(name="label", kind="string")))
    frame = replace(
        python_spec(),
        others=PYTHON,
        signature=Signature(inputs=python_spec().signature.inputs, outputs=(Column(name="score", kind="double"),)),
    )
    plant.publish(
        plant.endpoint(several, name="weather"),
        plant.endpoint(plant.variant(spec=several_spec(threshold=0.5)), name="labelled"),
        plant.endpoint(wide, name="wide"),
        plant.endpoint(several, name="known", options=EndpointOptions(cached_rows=100)),
        plant.endpoint(several, name="hidden", options=EndpointOptions(journal_drop=("probabilities",), journal_hash=("label", "best"))),
        plant.endpoint(several, alike, name="split", shares={"champion": 0.5, "second": 0.5}),
        plant.endpoint(plant.variant(spec=frame, body=BODY), name="code"),
        plant.endpoint(),
    )
    return plant


@pytest.fixture(scope="module")
def caller(plant: Plant) -> Iterator[Caller]:
    with plant.worker() as found:
        yield found


def infer(caller: Caller, name: str, **more: Any) -> Any:
    answer = caller.post(f"/v2/models/{name}/infer", {"inputs": [TENSOR], **more})
    assert answer.status == 200, answer.body
    return answer.json()


def by_name(answer: Any) -> dict[str, Any]:
    return {output["name"]: output for output in answer["outputs"]}


def test_metadata_lists_every_output(caller: Caller) -> None:
    outputs = caller.get("/v2/models/weather").json()["outputs"]
    assert [(each["name"], each["datatype"], each["shape"]) for each in outputs] == [
        ("score", "FP64", [-1]), ("label", "BYTES", [-1]), ("probabilities", "FP32", [-1, 3]), ("best", "INT64", [-1]),
        ("sure", "BOOL", [-1, 1]),
    ]  # fmt: skip


def test_tensors_of_every_type_are_answered(caller: Caller) -> None:
    found = by_name(infer(caller, "weather"))
    assert list(found) == ["score", "label", "probabilities", "best", "sure"]
    np.testing.assert_allclose(found["score"]["data"], told()[:, 1], rtol=1e-6)
    assert found["label"] == {"name": "label", "shape": [3], "datatype": "BYTES", "data": LABELS}
    assert (found["probabilities"]["shape"], found["probabilities"]["datatype"]) == ([3, 3], "FP32")
    np.testing.assert_allclose(found["probabilities"]["data"], told().ravel(), rtol=1e-6)
    assert found["best"]["data"] == told().argmax(axis=1).tolist()
    assert (found["sure"]["shape"], found["sure"]["data"]) == ([3, 1], (told().max(axis=1) > 0.5).tolist())


def test_a_request_chooses_among_the_outputs(caller: Caller) -> None:
    assert list(by_name(infer(caller, "weather", outputs=[{"name": "best"}, {"name": "label"}]))) == ["label", "best"]
    assert list(by_name(infer(caller, "weather", outputs=[{"name": "score"}]))) == ["score"]
    answer = caller.post("/v2/models/weather/infer", {"inputs": [TENSOR], "outputs": [{"name": "winner"}]})
    assert answer.status == 400
    assert "model 'weather' has no output 'winner' (it has: score, score_label, label, probabilities, best, sure)" in answer.json()["error"]


def test_the_label_of_a_threshold_gives_way_to_the_model_s_own(caller: Caller) -> None:
    found = by_name(infer(caller, "labelled"))
    assert found["score_label"]["data"] == [score >= 0.5 for score in found["score"]["data"]]
    assert found["label"]["data"] == LABELS
    first = caller.predict(*ROWS, endpoint="labelled")["predictions"][0]
    assert (first["label"], first["outputs"]["label"]) == (False, LABELS[0])


def test_triton_s_client_reads_them_as_raw_bytes(caller: Caller, plant: Plant) -> None:
    import tritonclient.grpc
    import tritonclient.http

    address = read_states(plant.state)[0].grpc_port
    for kit, url in ((tritonclient.http, f"127.0.0.1:{caller.port}"), (tritonclient.grpc, f"127.0.0.1:{address}")):
        with kit.InferenceServerClient(url) as client:
            tensor = kit.InferInput("x", [3, 2], "FP32")
            tensor.set_data_from_numpy(np.array(TENSOR["data"], dtype=np.float32).reshape(3, 2))
            answer = client.infer("weather", [tensor])
            np.testing.assert_allclose(answer.as_numpy("probabilities"), told(), rtol=1e-6)
            np.testing.assert_allclose(answer.as_numpy("score"), told()[:, 1], rtol=1e-6)
            assert [text.decode() for text in answer.as_numpy("label")] == LABELS
            assert answer.as_numpy("best").tolist() == told().argmax(axis=1).tolist()
            assert answer.as_numpy("sure").shape == (3, 1)
            alone = client.infer("weather", [tensor], outputs=[kit.InferRequestedOutput("label")])
            assert alone.as_numpy("probabilities") is None
            assert [text.decode() for text in alone.as_numpy("label")] == LABELS
            if kit is tritonclient.grpc:
                described = client.get_model_metadata("weather", as_json=True)["outputs"]
                assert [each["name"] for each in described] == ["score", "label", "probabilities", "best", "sure"]


def test_typed_tensors_of_grpc_hold_them(caller: Caller, plant: Plant) -> None:
    from tests.serving.grpc.lines import line, rows

    with line(plant) as asked:
        message = rows([1.0, 0.0, -2.0], [1, 6, 0])
        message.model_name = "weather"
        found = {output.name: output for output in asked.infer(message).outputs}
        assert [text.decode() for text in found["label"].contents.bytes_contents] == LABELS
        assert list(found["probabilities"].shape) == [3, 3]
        np.testing.assert_allclose(list(found["probabilities"].contents.fp32_contents), told().ravel(), rtol=1e-6)
        assert list(found["best"].contents.int64_contents) == told().argmax(axis=1).tolist()


def test_mlflow_s_shape_is_a_list_or_an_object_a_row(caller: Caller) -> None:
    body = {"dataframe_records": ROWS}
    lists = caller.post("/endpoints/wide/invocations", body, **{"content-type": "application/json"}).json()["predictions"]
    np.testing.assert_allclose(lists, told(), rtol=1e-6)
    objects = caller.post("/endpoints/weather/invocations", body, **{"content-type": "application/json"}).json()["predictions"]
    assert [list(each) for each in objects] == [["label", "probabilities", "best", "sure"]] * 3  # the score is one of the probabilities
    assert [each["label"] for each in objects] == LABELS
    code = caller.post("/endpoints/code/invocations", body, **{"content-type": "application/json"}).json()["predictions"]
    assert code[0] == {"score": 1.0, "text": "of 1.0", "twice": [1.0, 1.0]}
    one = caller.post("/endpoints/delay/invocations", {"dataframe_records": [ROWS[0]]}, **{"content-type": "application/json"})
    assert one.json() == {"predictions": [pytest.approx(0.11)]}


def test_kserve_and_text_say_the_same(caller: Caller) -> None:
    np.testing.assert_allclose(caller.post("/v1/models/wide:predict", {"instances": ROWS}).json()["predictions"], told(), rtol=1e-6)
    body = {"dataframe_records": ROWS}
    headers = {"content-type": "application/json", "accept": "text/csv"}
    lines = caller.post("/endpoints/code/invocations", body, **headers).body.decode().splitlines()
    assert lines[0] == "1.0,of 1.0,1.0,1.0"
    headers["accept"] = "application/jsonlines"
    first = json.loads(caller.post("/endpoints/code/invocations", body, **headers).body.splitlines()[0])
    assert first["prediction"]["twice"] == [1.0, 1.0]


def test_the_short_form_and_the_client_name_them(caller: Caller) -> None:
    found = caller.predict(*ROWS, endpoint="weather")["predictions"]
    assert [each["outputs"]["label"] for each in found] == LABELS
    assert caller.predict(ROWS[0])["predictions"][0].keys() == {"id", "score", "variant", "version", "label"}
    with InferenceClient(f"http://127.0.0.1:{caller.port}") as client:
        few = client.predict("weather", ROWS)
        assert few[0].outputs == found[0]["outputs"]
        many = client.predict("weather", np.array([[each["a"], each["b"]] for each in ROWS] * 20))
        assert list(many.outputs) == ["label", "probabilities", "best", "sure"]
        np.testing.assert_allclose(many.outputs["probabilities"][:3], told(), rtol=1e-6)
        assert many.outputs["label"].tolist() == LABELS * 20
        assert many[1].outputs is not None
        assert many[1].outputs["sure"] == found[1]["outputs"]["sure"]
        assert client.predict("delay", ROWS[:1])[0].outputs is None


def test_what_was_answered_is_journaled(caller: Caller, plant: Plant) -> None:
    ids = [each["id"] for each in caller.predict(*ROWS, endpoint="weather")["predictions"]]
    bare = infer(caller, "weather", outputs=[{"name": "score"}])["parameters"]["prediction_ids"]
    table = read_predictions(plant.state, "weather")
    rows = {row["id"]: row for row in table.to_pylist()}
    assert [rows[each]["output.label"] for each in ids] == LABELS
    np.testing.assert_allclose([rows[each]["output.probabilities"] for each in ids], told(), rtol=1e-6)
    assert [rows[each]["output.label"] for each in bare] == [None] * 3  # nobody asked, and the model did not say it
    assert rows[bare[0]]["score"] == rows[ids[0]]["score"]
    found = find_prediction(plant.state, ids[0], endpoints=["delay", "weather"])
    assert (found.outputs["label"], found.outputs["best"]) == (LABELS[0], 0)
    assert find_prediction(plant.state, bare[0], endpoints=["weather"]).outputs == {}
    assert not [name for name in read_predictions(plant.state, "weather", with_inputs=False).column_names if name.startswith("output.")]


def test_the_policy_of_columns_holds_for_them(caller: Caller, plant: Plant) -> None:
    (first, *_) = caller.predict(*ROWS, endpoint="hidden")["predictions"]
    assert first["outputs"]["label"] == LABELS[0]
    found = find_prediction(plant.state, first["id"], endpoints=["hidden"])
    assert found.outputs.keys() == {"label", "best", "sure"}
    assert (len(found.outputs["label"]), len(found.outputs["best"])) == (32, 32)


def test_a_known_row_is_told_whole_again(caller: Caller) -> None:
    first = infer(caller, "known")
    assert infer(caller, "known")["outputs"] == first["outputs"]
    assert list(by_name(infer(caller, "known", outputs=[{"name": "score"}]))) == ["score"]
    half = [*ROWS[:2], row(5.0, 5)]
    assert [each["outputs"]["label"] for each in caller.predict(*half, endpoint="known")["predictions"]] == [*LABELS[:2], "calm"]


def test_variants_answer_what_all_of_them_say(caller: Caller) -> None:
    assert [each["name"] for each in caller.get("/v2/models/split").json()["outputs"]] == ["score", "label"]
    rows = [row(1.0, 1), row(0.0, 6)] * 20
    found = caller.predict(*rows, endpoint="split")["predictions"]
    assert {each["variant"] for each in found} == {"champion", "second"}
    assert [each["outputs"] for each in found] == [{"label": label} for label in LABELS[:2]] * 20


def test_compacted_predictions_still_have_them(plant: Plant) -> None:
    with plant.worker(index=1) as caller:
        ids = [each["id"] for each in caller.predict(*ROWS, endpoint="labelled")["predictions"]]
    folder = predictions_folder(plant.state, "labelled")
    assert wait_until(lambda: compact(plant.state, "labelled").segments > 0 or not segments(folder), timeout_s=10)
    assert [find_prediction(plant.state, each, endpoints=["labelled"]).outputs["label"] for each in ids] == LABELS
