"""The same API when records lie in PostgreSQL and bytes in a bucket."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import world
from tidemill.client.transport import Response
from tidemill.server.app import create_app
from tidemill.server.inprocess import InProcessTransport

pytestmark = pytest.mark.slow
MIB = 1 << 20
HERE = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
SEARCHES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("runs/search", {"experiment_ids": ["0"]}), ("experiments/search", {}), ("logged-models/search", {"experiment_ids": ["0"]}),
    ("traces/search", {"locations": [HERE]}),
)  # fmt: skip
TRACE_FILTERS = ("timestamp_ms > 1e300", "execution_time_ms > 1e300", "end_time_ms < -1e300", "feedback.a > 1e300",
    "span.attributes.a = '\\'",
                 "span.attributes.`é%` LIKE '%\\%'", "tags.a != '😀'", "request_id LIKE '_'", "run_id != 'x'")  # fmt: skip
TRACES: tuple[dict[str, Any], ...] = (
    {"request_time": "0001-01-01T00:00:00Z"}, {"request_time": "9999-12-31T23:59:59.999Z"}, {"request_time": "10000-01-01T00:00:00Z"},
    {"execution_duration": "9223372036854775.807s"}, {"execution_duration": "99999999999999999999s"},
    {"execution_duration": "-99999999999999999999s"},
    {"state": "OK", "request_preview": "é" * 20_000, "tags": {"k" * 250: "v" * 8000}, "trace_metadata": {"k": "v" * 9000}},
)  # fmt: skip


@pytest.fixture
def elsewhere(tmp_path: Path, s3_url: str, postgres_catalog: str) -> Iterator[InProcessTransport]:
    with world.workspace(tmp_path / "home", objects=s3_url, catalog=postgres_catalog) as ws:
        transport = InProcessTransport(create_app(ws))
        yield transport
        transport.close()


def ask(transport: InProcessTransport, method: str, path: str, body: Any = None) -> Response:
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    return transport.request(method, path, body=data, headers={"content-type": "application/json"})


def told(transport: InProcessTransport, method: str, path: str, body: Any = None) -> Any:
    answer = ask(transport, method, path, body)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def test_a_run_is_logged_searched_and_read_back(elsewhere: InProcessTransport) -> None:
    run = told(elsewhere, "POST", "/api/2.0/mlflow/runs/create", {"experiment_id": "0", "run_name": "é"})["run"]["info"]["run_id"]
    metrics = [{"key": "auc", "value": value, "timestamp": 1, "step": step} for step, value in enumerate((0.5, "NaN", "Infinity", 0.75))]
    told(elsewhere, "POST", "/api/2.0/mlflow/runs/log-batch", {"run_id": run, "metrics": metrics, "params": [{"key": "p", "value": "1"}]})
    told(elsewhere, "POST", "/api/2.0/mlflow/runs/log-inputs", {"run_id": run, "datasets": [
        {"dataset": {"name": "flights", "digest": "d", "source_type": "local", "source": "{}"}, "tags": []}]})  # fmt: skip
    text = "metrics.auc > 0.7 and params.p = '1' and dataset.name = 'flights' and run_name = 'é'"
    found = told(elsewhere, "POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"], "filter": text})
    assert [item["info"]["run_id"] for item in found["runs"]] == [run]
    history = told(elsewhere, "GET", f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=auc")
    assert sorted(str(point["value"]) for point in history["metrics"]) == ["0.5", "0.75", "1.7976931348623157e+308", "NaN"]


@pytest.mark.parametrize("size", [10, 5 * MIB])
def test_files_lie_in_the_bucket(elsewhere: InProcessTransport, size: int) -> None:
    data = os.urandom(size)
    place = "/api/2.0/mlflow-artifacts/artifacts/0/a/artifacts/x"
    assert ask(elsewhere, "PUT", place, data).status == 200
    assert ask(elsewhere, "GET", place).body == data
    part = elsewhere.request("GET", place, headers={"range": "bytes=3-6"})
    assert (part.status, part.body) == (206, data[3:7])
    upload = told(elsewhere, "POST", "/api/2.0/mlflow-artifacts/mpu/create/0/a/artifacts", {"path": "y", "num_parts": 2})
    parts = []
    for item, piece in zip(upload["credentials"], (data, b"end"), strict=True):
        answer = ask(elsewhere, "PUT", item["url"].removeprefix("http://localhost"), piece)
        parts.append({"part_number": item["part_number"], "etag": answer.headers["etag"]})
    body = {"path": "y", "upload_id": upload["upload_id"], "parts": parts}
    told(elsewhere, "POST", "/api/2.0/mlflow-artifacts/mpu/complete/0/a/artifacts", body)
    assert ask(elsewhere, "GET", place[:-1] + "y").body == data + b"end"


def test_nothing_that_fails_is_foreseen_by_sqlite_alone(elsewhere: InProcessTransport) -> None:
    """Texts and numbers at their limits: what one database takes, the other takes."""
    create = "/api/2.0/mlflow/runs/create"
    run = told(elsewhere, "POST", create, {"experiment_id": "0"})["run"]["info"]["run_id"]
    given: list[tuple[str, Any]] = [
        ("runs/set-tag", {"run_id": run, "key": "k", "value": "a\0b"}),
        ("runs/set-tag", {"run_id": run, "key": "k" * 250, "value": "v" * 9000}),
        ("runs/log-parameter", {"run_id": run, "key": "é" * 250, "value": "v" * 6001}),
        ("runs/log-metric", {"run_id": run, "key": "m", "value": 1e308, "timestamp": 253_402_300_799_999, "step": 2**63 - 1}),
        ("runs/log-metric", {"run_id": run, "key": "m", "value": 5e-324, "timestamp": 0, "step": -(2**63)}),
        ("runs/create", {"experiment_id": str(2**63)}), ("runs/create", {"experiment_id": "-1"}),
        ("runs/create", {"experiment_id": "9" * 30}),
        ("experiments/create", {"name": "n" * 500}), ("experiments/create", {"name": "\U0001f600" * 100}),
        ("experiments/delete", {"experiment_id": "9223372036854775808"}), ("runs/search", {"experiment_ids": ["99999999999999999999"]}),
        ("runs/search", {"experiment_ids": ["0"], "filter": "metrics.m > 1e400"}),
        ("runs/search", {"experiment_ids": ["0"], "filter": "attributes.start_time > 99999999999999999999999"}),
        ("runs/search", {"experiment_ids": ["0"], "filter": "tags.k = '\U0001f600'"}),
        *(("traces/search", {"locations": [HERE], "filter": text}) for text in TRACE_FILTERS),
        *(("traces",
            {"trace": {"trace_info": {"trace_id": f"tr-{number}", "trace_location": HERE, "request_time": "2020-01-01T00:00:00Z", **more}}})
          for number, more in enumerate(TRACES)),
        ("logged-models/search", {"experiment_ids": ["0"], "filter": "creation_timestamp_ms < -1e300"}),
        *((path, {**body, "max_results": most}) for most in (-1, 0, 2**63 - 1) for path, body in SEARCHES),
        *(("traces/delete-traces", {"experiment_id": "987654", **more})
          for more in ({"max_timestamp_millis": 2**63 - 1}, {"max_timestamp_millis": -1}, {"max_timestamp_millis": 5, "max_traces": -1},
                       {"max_timestamp_millis": -(2**63)}, {"max_timestamp_millis": 5, "max_traces": 2**63 - 1}, {"request_ids": ["é"]})),
        ("experiments/search", {"max_results": 5, "filter": "name ILIKE '%\\\\%'"}),
        ("experiments/search", {"max_results": 5, "filter": "creation_time > 1e30"}),
    ]  # fmt: skip
    for path, body in given:
        answer = ask(elsewhere, "POST", f"/api/{3 if path.startswith('traces') else 2}.0/mlflow/{path}", body)
        assert answer.status in (200, 400, 404), (path, body, answer.body)
    assert len(told(elsewhere, "POST", "/api/3.0/mlflow/traces/search", {"locations": [HERE]})["traces"]) >= 3
    assert len(told(elsewhere, "GET", "/api/2.0/mlflow/traces?experiment_ids=0")["traces"]) >= 3
    assert told(elsewhere, "GET", f"/api/2.0/mlflow/runs/get?run_id={run}")["run"]["data"]["metrics"][0]["step"] == 2**63 - 1
