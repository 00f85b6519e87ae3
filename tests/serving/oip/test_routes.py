"""The Open Inference Protocol v2, REST, spoken to a real worker."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.plant import Caller, Plant, row
from tidemill.serving.history import read_predictions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    plant = Plant(tmp_path_factory.mktemp("home"))
    plant.publish(plant.endpoint(plant.variant(version=3)))
    return plant


@pytest.fixture(scope="module")
def caller(plant: Plant) -> Iterator[Caller]:
    with plant.worker() as found:
        yield found


def tensor(name: str, data: list[Any], datatype: str, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data}


def infer(caller: Caller, *inputs: dict[str, Any], path: str = "/v2/models/delay/infer", **more: Any) -> Any:
    answer = caller.post(path, {"inputs": list(inputs), **more})
    return answer.status, answer.json()


def test_server_and_model_tell_of_themselves(caller: Caller) -> None:
    server = caller.get("/v2").json()
    assert (server["name"], server["extensions"]) == ("tidemill", ["binary_tensor_data"])
    assert caller.get("/v2/health/live").json() == {"live": True}
    assert caller.get("/v2/health/ready").json() == {"ready": True}
    assert caller.get("/v2/models/delay/ready").json() == {"name": "delay", "ready": True}
    assert caller.get("/v2/models/delay").json() == caller.get("/v2/models/delay/versions/3").json() == {
        "name": "delay", "versions": ["3"], "platform": "tidemill_onnx",
        "inputs": [{"name": "a", "datatype": "FP64", "shape": [-1]}, {"name": "b", "datatype": "INT64", "shape": [-1]}],
        "outputs": [{"name": "score", "datatype": "FP64", "shape": [-1]}, {"name": "label", "datatype": "BOOL", "shape": [-1]}],
    }  # fmt: skip


def test_tensors_of_columns_are_answered_as_rows_are(caller: Caller, plant: Plant) -> None:
    status, told = infer(caller, tensor("a", [1.0, 9.0], "FP64"), tensor("b", [1, 3], "INT64"), id="call-1")
    assert status == 200
    short = caller.predict(row(1.0, 1), row(9.0, 3))["predictions"]
    score, label = told["outputs"]
    assert score == {"name": "score", "shape": [2], "datatype": "FP64", "data": [each["score"] for each in short]}
    assert label == {"name": "label", "shape": [2], "datatype": "BOOL", "data": [False, True]}
    assert (told["model_name"], told["model_version"], told["id"]) == ("delay", "3", "call-1")
    ids = told["parameters"]["prediction_ids"]
    assert set(ids) <= set(read_predictions(plant.state, "delay")["id"].to_pylist())


@pytest.mark.parametrize(
    "inputs",
    [
        [tensor("a", [[1.0], [9.0]], "FP32", [2, 1]), tensor("b", [1, 3], "INT32", [2, 1])],
        [tensor("x", [1.0, 1, 9.0, 3], "FP32", [2, 2])],
        [tensor("x", [[1.0, 1], [9.0, 3]], "FP32", [2, 2])],
    ],
    ids=["columns", "model tensor, flat", "model tensor, nested"],
)
def test_shapes_may_vary(caller: Caller, inputs: list[dict[str, Any]]) -> None:
    status, told = infer(caller, *inputs)
    assert status == 200, told
    assert told["outputs"][0]["data"] == pytest.approx([0.11, 0.93], abs=1e-6)


def test_parameters_outputs_and_versions_are_honoured(caller: Caller, plant: Plant) -> None:
    inputs = (tensor("a", [1.0], "FP64"), tensor("b", [1], "INT64"))
    status, told = infer(
        caller, *inputs, parameters={"prediction_ids": ["mine"], "at": "2013-06-01T12:00:00Z", "other": 1},
        outputs=[{"name": "label"}], path="/v2/models/delay/versions/3/infer",
    )  # fmt: skip
    assert (status, [output["name"] for output in told["outputs"]]) == (200, ["label"])
    assert told["parameters"]["prediction_ids"] == ["mine"]
    assert "mine" in read_predictions(plant.state, "delay")["id"].to_pylist()


A, B = tensor("a", [1.0], "FP64"), tensor("b", [1], "INT64")


@pytest.mark.parametrize(
    ("inputs", "more", "says"),
    [
        ([], {}, "no inputs"),
        ([A], {}, "column 'b' is missing"),
        ([A, B, tensor("c", [1], "INT64")], {}, "column 'c' is not known"),
        ([A, tensor("b", [1, 2], "INT64")], {}, "has 2 rows, the others 1"),
        ([A, B, A], {}, "column 'a' comes twice"),
        ([A, tensor("b", ["x"], "BYTES")], {}, "column 'b': Expected `int"),
        ([tensor("a", [1.0], "FP65"), B], {}, "has the datatype 'FP65'; expected one of BF16, BOOL, BYTES"),
        ([tensor("a", [1.0], "FP64", [2]), B], {}, r"holds 1 values; its shape [2] says 2"),
        ([tensor("a", [1.0], "FP64", [1, 2]), B], {}, "expected [n] or [n, 1]"),
        ([tensor("x", [1.0], "FP32", [1, 3])], {}, "expected [n, 2]"),
        ([tensor("x", [[1.0, 2.0], 3.0], "FP32", [1, 2])], {}, "is nested unevenly"),
        ([tensor("a", [], "FP64"), tensor("b", [], "INT64")], {}, "no rows"),
        ([A, B], {"outputs": [{"name": "margin"}]}, "has no output 'margin'"),
        ([A, B], {"parameters": {"prediction_ids": "x"}}, "'prediction_ids' was not understood"),
        ([A, B], {"parameters": {"prediction_ids": ["x", "y"]}}, "1 rows and 2 ids"),
        ([A, B], {"parameters": {"at": 3}}, "'at' was not understood"),
        ([A, B], {"parameters": {"at": "noon"}}, "time 'noon' was not understood"),
        ([{"name": "a"}], {}, "missing required field"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_in_the_protocols_shape(
    caller: Caller, inputs: list[dict[str, Any]], more: dict[str, Any], says: str
) -> None:
    status, told = infer(caller, *inputs, **more)
    assert (status, list(told)) == (400, ["error"])
    assert says in told["error"]


def test_unknown_models_and_versions_are_not_found(caller: Caller) -> None:
    assert caller.get("/v2/models/nothing").status == 404
    assert "has no version '9' here (it has: 3)" in caller.get("/v2/models/delay/versions/9").json()["error"]
    assert infer(caller, A, B, path="/v2/models/delay/versions/9/infer")[0] == 404
