"""KServe's v1 protocol, by plain HTTP, spoken to a real worker."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.serving.plant import Caller, Plant
from tidemill.serving.history import read_predictions

pytestmark = pytest.mark.slow

PATH = "/v1/models/delay:predict"


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    plant = Plant(tmp_path_factory.mktemp("home"), trusted_runtimes=["onnx", "python"], body_limit_bytes=200_000)
    odd = plant.endpoint(plant.variant(body="return 1 / (columns['a'] != 13)"), name="odd")
    plant.publish(plant.endpoint(), odd, plant.endpoint(name="other", project="lab"))
    return plant


@pytest.fixture(scope="module")
def caller(plant: Plant) -> Iterator[Caller]:
    with plant.worker() as found:
        yield found


def test_server_and_models_tell_of_themselves(caller: Caller) -> None:
    assert caller.get("/").json() == {"status": "alive"}
    assert caller.get("/v1/models").json() == {"models": ["delay", "lab/other", "odd"]}
    assert caller.get("/v1/models/delay").json() == {"name": "delay", "ready": True}
    assert caller.get("/v1/models/lab/other").json() == {"name": "lab/other", "ready": True}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1.0, 1], [9.0, 3]]},
        {"instances": [{"a": 1.0, "b": 1}, {"b": 3.0, "a": 9}]},
        {"inputs": [[1.0, 1], [9.0, 3]]},
        {"instances": [[1.0, 1], [9.0, 3]], "signature_name": "serving_default"},
    ],
)
def test_instances_are_answered_with_predictions(caller: Caller, plant: Plant, body: Any) -> None:
    for path in (PATH, "/v1/models/lab/other:predict"):
        answer = caller.post(path, body)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer.body
        assert answer.json() == {"predictions": pytest.approx([0.11, 0.93], abs=1e-6)}
    ids = caller.post(PATH, body).headers["tidemill-prediction-ids"].split(",")
    assert set(ids) <= set(read_predictions(plant.state, "delay")["id"].to_pylist())


def test_prediction_ids_may_be_the_callers_own(caller: Caller, plant: Plant) -> None:
    answer = caller.post(PATH, {"instances": [[1.0, 1]], "parameters": {"prediction_ids": ["mine"]}})
    assert (answer.status, answer.json()) == (200, {"predictions": pytest.approx([0.11], abs=1e-6)})
    assert "mine" in read_predictions(plant.state, "delay")["id"].to_pylist()


def test_prediction_ids_that_are_too_many_for_a_header_are_in_the_answer(caller: Caller) -> None:
    answer = caller.post(PATH, {"instances": [[1.0, 1]] * 500})
    assert "tidemill-prediction-ids" not in answer.headers
    assert len(set(answer.json()["prediction_ids"])) == 500


REFUSED = {
    "nothing": (b"", "not valid JSON"),
    "not JSON": (b"a,b\n1.0,1", "not valid JSON"),
    "not UTF-8": (b'{"instances": [["\xff", 1]]}', "not valid JSON"),
    "a list": ([[1.0, 1]], "Expected `object`"),
    "no instances": ({}, "no list of instances"),
    "instances that are none": ({"instances": {"a": [1.0], "b": [1]}}, "no list of instances"),
    "no rows": ({"instances": []}, "no rows"),
    "uneven rows": ({"instances": [[1.0, 1], [1.0]]}, "row 1 has 1 values"),
    "rows that are too wide": ({"instances": [[1.0, 1, 1]]}, "takes 2: a, b"),
    "a missing column": ({"instances": [{"a": 1.0}]}, "'b' is missing"),
    "an unknown column": ({"instances": [{"a": 1.0, "b": 1, "c": 1}]}, "'c' is not known"),
    "a value of a wrong type": ({"instances": [["x", 1]]}, "column 'a': Expected `float`, got `str`"),
    "NaN where a value is required": (b'{"instances": [[NaN, 1]]}', "column 'a'"),
    "infinity": (b'{"instances": [[Infinity, 1]]}', "holds Infinity"),
    "parameters of a wrong type": ({"instances": [[1.0, 1]], "parameters": 3}, "parameters"),
    "deep JSON": (b'{"instances":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
}


@pytest.mark.parametrize(("body", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_a_400_in_the_protocols_shape(caller: Caller, body: Any, says: str) -> None:
    answer = caller.post(PATH, body)
    told = answer.json()
    assert (answer.status, set(told)) == (400, {"error"}), told
    assert says in told["error"]
    assert caller.post(PATH, {"instances": [[1.0, 1]]}).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/nobody", 404),
        ("POST", "/v1/models/nobody:predict", 404),
        ("POST", "/v1/models/delay:explain", 404),
        ("POST", "/v1/models/:predict", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/a/b/c", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", PATH, 405),
        ("POST", "/v1/models/delay", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/", 405),
    ],
)
def test_what_is_not_there_is_told_in_the_protocols_shape(caller: Caller, method: str, path: str, status: int) -> None:
    answer = caller.call(method, path, {"instances": [[1.0, 1]]} if method == "POST" else None)
    assert (answer.status, set(answer.json())) == (status, {"error"})


def test_a_model_that_fails_is_a_500_that_says_so(caller: Caller) -> None:
    answer = caller.post("/v1/models/odd:predict", {"instances": [[13.0, 1]]})
    assert (answer.status, "not a finite number" in answer.json()["error"]) == (500, True)


# 99 is the number on which the example model fails.
cells = st.none() | st.booleans() | (st.integers() | st.floats()).filter(lambda number: number != 99) | st.text(max_size=4)
values = st.recursive(cells, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list("ab")), inner, max_size=3))
bodies = (
    st.binary(max_size=60)
    | values.map(json.dumps).map(str.encode)
    | st.dictionaries(st.sampled_from(["instances", "inputs", "parameters"]), values, max_size=2).map(json.dumps).map(str.encode)
    | st.lists(st.tuples(cells, cells), max_size=3).map(lambda rows: json.dumps({"instances": rows}).encode())
    | st.lists(st.dictionaries(st.sampled_from(list("abc")), cells), max_size=3).map(lambda rows: json.dumps({"instances": rows}).encode())
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies)
@example(b'{"instances": [[-9223372036854775809, 0]]}')
def test_any_body_is_answered_or_refused_in_the_protocols_shape(caller: Caller, body: bytes) -> None:
    answer = caller.call("POST", PATH, body)
    assert (answer.status, set(answer.json())) in ((200, {"predictions"}), (400, {"error"})), answer.body
