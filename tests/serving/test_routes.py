"""What every route does with what it should not get; one real worker for all."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.plant import Caller, Plant, landed_view, row
from tidemill.serving.openapi import ROUTES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    plant = Plant(tmp_path_factory.mktemp("home"), trusted_runtimes=["onnx", "python"], body_limit_bytes=100_000)
    odd = plant.endpoint(
        plant.variant(body="return 1 / (columns['a'] != 13) / (columns['b'] != 13) if columns['a'][0] != 7 else {}"), name="odd"
    )
    other = plant.endpoint(name="other", project="lab")
    plant.publish(plant.endpoint(), odd, other, views=(landed_view(),))
    with plant.worker() as found:
        yield found


BODIES = {
    "nothing": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"rows": "\xff\xfe"}',
    "null": b"null",
    "a number": b"1e999",
    "a list": b"[[[]]]",
    "of a wrong type": b'{"rows": {}, "labels": 3, "inputs": "x"}',
    "with unknown fields": b'{"rows": [], "labels": [], "inputs": [], "surprise": 1}',
    "deep": b'{"rows":' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    "deep in a field that is not known": b'{"surprise":' + b'{"a":' * 15_000 + b"1" + b"}" * 15_000 + b"}",
}
POSTS = (
    "/predict/delay",
    "/predict/nothing",
    "/feedback",
    "/push/flights",
    "/push/nothing",
    "/push",
    "/get-online-features",
    "/v2/models/delay/infer",
    "/v2/models/nothing/infer",
)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("path", POSTS)
def test_a_malformed_body_is_a_clear_no(caller: Caller, path: str, body: bytes) -> None:
    answer = caller.call("POST", path, body)
    told = answer.json()
    assert answer.status == (404 if "nothing" in path else 400), told
    if path.startswith("/v2"):
        assert set(told) == {"error"}
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert (told["status"], told["type"]) == (answer.status, "/problems/not-found" if "nothing" in path else "/problems/invalid")
        assert len(told["detail"]) > 10
    assert caller.predict(row())["version"] == 1


@pytest.mark.parametrize("path", POSTS)
def test_a_body_that_is_too_large_is_refused(caller: Caller, path: str) -> None:
    answer = caller.call("POST", path, b"x" * 100_001)
    assert answer.status == 413
    told = answer.json()
    assert (
        "larger than 100000 bytes" in told["error" if path.startswith(("/v1", "/v2")) else "message" if "invocations" in path else "detail"]
    )


def test_every_route_refuses_other_methods_and_names_its_own(caller: Caller) -> None:
    for route in ROUTES:
        method, _, path = route.partition(" ")
        path = path.replace("{endpoint}", "delay").replace("{source}", "flights")
        answer = caller.call("DELETE", path)
        assert (answer.status, answer.headers["allow"]) == (405, method), route


@pytest.mark.parametrize(
    "path", ["/predict", "/predict/", "/nothing", "/v2/nothing", "/v2/models", "/v2/models/", "/%00", "/predict/a/b/c"]
)
def test_a_path_that_is_not_there_is_not_found(caller: Caller, path: str) -> None:
    answer = caller.call("POST" if path.startswith("/predict") else "GET", path)
    assert answer.status == 404
    assert set(answer.json()) == {"error"} if path.startswith("/v2") else "detail" in answer.json()


def test_faults_of_rows_are_listed(caller: Caller) -> None:
    answer = caller.post("/predict/delay", {"rows": [row(), {"a": "x", "c": 1}]})
    assert answer.status == 422
    told = answer.json()
    assert [(fault["row"], fault["column"]) for fault in told["faults"]] == [(1, "a"), (1, "b"), (1, "c")]
    assert "row 1: column 'a': Expected `float`, got `str`" in told["detail"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [([row(13.0)], "not a finite number"), ([row(7.0)], "model example@1 failed: TypeError"), ([row(), row(1.0, 13)], "score of row 1")],
)
def test_a_model_that_fails_is_a_500_that_says_so(caller: Caller, rows: list[dict[str, object]], says: str) -> None:
    answer = caller.post("/predict/odd", {"rows": rows})
    assert answer.status == 500
    assert says in answer.json()["detail"]
    answer = caller.post("/v2/models/odd/infer", {"inputs": [tensor("a", [13.0]), tensor("b", [1], "INT64")]})
    assert (answer.status, list(answer.json())) == (500, ["error"])


def tensor(name: str, data: list[object], datatype: str = "FP64") -> dict[str, object]:
    return {"name": name, "shape": [len(data)], "datatype": datatype, "data": data}


def test_an_endpoint_of_another_project_has_its_project_in_front(caller: Caller) -> None:
    assert caller.predict(row(), endpoint="lab/other")["version"] == 1
    assert caller.post("/predict/other", {"rows": [row()]}).status == 404
    assert caller.get("/v2/models/lab/other").json()["name"] == "lab/other"
    assert caller.get("/v2/models/lab/other/versions/1/ready").json() == {"name": "lab/other", "ready": True}


def test_a_web_page_may_not_call_a_server_without_keys(caller: Caller) -> None:
    answer = caller.post("/feedback", {"labels": [{"id": "a", "value": 1}]}, Origin="https://example.org")
    assert (answer.status, answer.json()["type"]) == (403, "/problems/not-permitted")
    assert caller.post("/v2/models/delay/infer", {}, Origin="null").status == 403


def test_a_trace_id_is_journaled(caller: Caller) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = caller.post("/predict/delay", {"rows": [row()]}, traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    assert answer.status == 200


def test_metrics_have_names_and_units_by_the_conventions(caller: Caller) -> None:
    caller.predict(row())
    text = caller.get("/metrics").body.decode()
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert all(name.startswith("tidemill_") for name in names)
    assert {
        "tidemill_requests_total",
        "tidemill_predictions_total",
        "tidemill_request_seconds_bucket",
        "tidemill_resident_memory_bytes",
    } <= names
    assert 'tidemill_requests_total{code="200",route="predict",worker="0"}' in text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["rows", "ids", "at", "a", "b", "name", "shape", "data"]), inner, max_size=3)
    ),
    max_leaves=12,
)
oip_value = st.floats(-5, 5) | st.integers(-3, 3) | st.text(max_size=2) | st.none() | st.lists(st.integers(0, 3), max_size=2)
oip_tensor = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", "x", "c"]),
        "shape": st.lists(st.integers(-1, 3), max_size=3),
        "datatype": st.sampled_from(["FP32", "FP64", "INT64", "BYTES", "BOOL", "odd"]),
        "data": st.lists(oip_value, max_size=4),
    }
)  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/predict/delay", "/feedback", "/push/flights", "/v2/models/delay/infer"]),
    body=json_values
    | st.fixed_dictionaries({"rows": st.lists(json_values, max_size=3)})
    | st.fixed_dictionaries({"inputs": st.lists(oip_tensor, max_size=3)}),
)
def test_no_json_whatever_is_a_failure_of_the_server(caller: Caller, path: str, body: object) -> None:
    answer = caller.call("POST", path, json.dumps(body).encode())
    assert answer.status in (200, 400, 422), answer.body
    json.loads(answer.body)
