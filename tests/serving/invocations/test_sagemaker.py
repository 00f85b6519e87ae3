"""SageMaker's contract for containers, by plain HTTP. Source: AWS, "Custom Inference Code with Hosting Services"."""

import http.client
import json
from typing import Any

import pytest

from tests.serving.plant import Caller, Plant
from tidemill.core.clock import elapsed
from tidemill.serving.history import read_predictions

pytestmark = pytest.mark.slow

ATTRIBUTES, VARIANT, MODEL, UNIT = (
    f"X-Amzn-SageMaker-{name}" for name in ("Custom-Attributes", "Target-Variant", "Target-Model", "Inference-Id")
)
LINES = "application/jsonlines"


def invoke(caller: Caller, body: bytes, kind: str, path: str = "/invocations", **headers: str) -> Any:
    return caller.post(path, body, **{"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}})


def test_ping_is_answered_within_two_seconds(alone: Caller) -> None:
    began = elapsed()
    connection = http.client.HTTPConnection("127.0.0.1", alone.port, timeout=2)
    connection.request("GET", "/ping")
    assert connection.getresponse().status == 200
    assert elapsed() - began < 2
    connection.close()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"instances": [{"features": [1.0, 1]}, {"features": [9.0, 3]}]}'),
        ("text/csv", b"1.0,1\n9.0,3\n"),
        ("text/csv", b"1.0,1\n9.0,3"),
        (LINES, b'{"features": [1.0, 1]}\n{"features": [9.0, 3]}\n'),
        (LINES, b'{"a": 1.0, "b": 1}\r\n{"b": 3, "a": 9.0}\r\n'),
        ("application/x-jsonlines", b"[1.0, 1]\n\n[9.0, 3]"),
    ],
)
def test_json_csv_and_lines_are_taken_and_answered_as_asked(alone: Caller, kind: str, body: bytes) -> None:
    scores = pytest.approx([0.11, 0.93], abs=1e-6)
    for accept in ({}, {"accept": "*/*"}, {"accept": "text/html, application/json;q=0.5"}):
        answer = invoke(alone, body, kind, **accept)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer.body
        assert answer.json() == {"predictions": scores}
    answer = invoke(alone, body, kind, accept="text/csv")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/csv")
    assert [float(line) for line in answer.body.splitlines()] == scores
    answer = invoke(alone, body, kind, accept=LINES)
    assert (answer.status, answer.headers["content-type"]) == (200, LINES)
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [line["prediction"] for line in lines] == scores
    assert ",".join(line["id"] for line in lines) == answer.headers["tidemill-prediction-ids"]


def test_custom_attributes_come_back_as_they_were(alone: Caller) -> None:
    answer = alone.post("/invocations", b"1.0,1", **{"content-type": "text/csv", ATTRIBUTES: "trace=c000b4f9; tier = gold"})
    assert answer.headers[ATTRIBUTES.lower()] == "trace=c000b4f9; tier = gold"
    assert ATTRIBUTES.lower() not in alone.post("/invocations", b"1.0,1", **{"content-type": "text/csv"}).headers
    for wrong in ("x" * 1025, "caf\xe9"):
        answer = alone.post("/invocations", b"1.0,1", **{"content-type": "text/csv", ATTRIBUTES: wrong})
        assert (answer.status, answer.json()["error_code"]) == (400, "BAD_REQUEST")
        assert "at most 1024 visible ASCII characters" in answer.json()["message"]


def test_an_inference_id_is_the_prediction_id(alone: Caller, container: Plant) -> None:
    for body, name in ((b"1.0,1", "order-7"), (b"1.0,1\n2.0,1", "order-8")):
        assert alone.post("/invocations", body, **{"content-type": "text/csv", UNIT: name}).status == 200
    assert {"order-7", "order-8-0", "order-8-1"} <= set(read_predictions(container.state, "delay")["id"].to_pylist())
    answer = alone.post("/invocations", b"1.0,1", **{"content-type": "text/csv", UNIT: "x" * 129})
    assert (answer.status, "at most 128" in answer.json()["message"]) == (400, True)


def test_a_target_variant_is_honoured_when_it_answers_alone_and_else_refused(caller: Caller) -> None:
    def ask(endpoint: str, variant: str) -> Any:
        return caller.post(f"/endpoints/{endpoint}/invocations", b"1.0,1", **{"content-type": "text/csv", VARIANT: variant})

    assert ask("delay", "champion").status == 200
    for endpoint, variant in (("delay", "AllTraffic"), ("split", "one"), ("split", "three")):
        answer = ask(endpoint, variant)
        assert (answer.status, answer.json()["error_code"]) == (400, "BAD_REQUEST")
        assert "shares out its rows by its own policy" in answer.json()["message"]


def test_a_target_model_names_the_endpoint(caller: Caller) -> None:
    def ask(model: str) -> Any:
        return caller.post("/invocations", b"1.0,1", **{"content-type": "text/csv", MODEL: model})

    assert ask("delay").json() == {"predictions": pytest.approx([0.11], abs=1e-6)}
    assert ask("lab/other").status == 200
    answer = ask("nobody")
    assert (answer.status, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


def test_other_headers_of_the_platform_harm_nobody(alone: Caller) -> None:
    headers = {
        "X-Amzn-SageMaker-Target-Container-Hostname": "one",
        "X-Amzn-SageMaker-Session-Id": "NEW_SESSION",
        "content-type": "text/csv",
    }
    assert alone.post("/invocations", b"1.0,1", **headers).status == 200


def test_a_container_ends_when_it_is_told_to(tmp_path: Any) -> None:
    plant = Plant(tmp_path / "home")
    plant.publish(plant.endpoint())
    with plant.worker() as caller:
        assert caller.get("/ping").status == 200
        assert caller.terminate() == 0
