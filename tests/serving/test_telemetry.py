"""Requests as spans: from the caller's trace to the model, sent in the background, at nobody's cost."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.mlflow.conftest import control_plane
from tests.serving.collector import Collector, collecting, told
from tests.serving.grpc.lines import line, rows
from tests.serving.plant import Caller, Plant, row
from tidemill.core.clock import elapsed, wait_until
from tidemill.core.errors import Invalid
from tidemill.govern.workspace import open_workspace
from tidemill.serving.history import read_predictions
from tidemill.serving.metrics import Metrics
from tidemill.serving.telemetry import WAITING_SPANS, Step, Telemetry, open_telemetry, receiver_of
from tidemill.tracking.experiments import create_experiment
from tidemill.tracking.runs import start_run
from tidemill.tracking.trace_search import search_traces
from tidemill.tracking.traces import read_spans

pytestmark = [pytest.mark.slow]
PARENT = "00f067aa0ba902b7"


def traceparent(number: int, *, sampled: bool = True) -> tuple[str, str]:
    """Return a trace id and the header that continues it."""
    trace = f"{number:032x}"
    return trace, f"00-{trace}-{PARENT}-{'01' if sampled else '00'}"


class Held:
    """An exporter that keeps or refuses what it is given, once it is released."""

    def __init__(self) -> None:
        self.spans: list = []
        self.fails = False
        self.release = threading.Event()
        self.release.set()

    def export(self, spans):
        from opentelemetry.sdk.trace.export import SpanExportResult

        self.release.wait(20)
        if self.fails:
            return SpanExportResult.FAILURE
        self.spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Plant:
    return Plant(tmp_path_factory.mktemp("home"), traces=f"otlp {collector.url}", traces_ratio=0.0, together_ms=1000, grpc_port=0)


@pytest.fixture(scope="module")
def caller(plant: Plant) -> Iterator[Caller]:
    plant.publish(plant.endpoint(plant.variant(version=3)))
    with plant.worker() as found:
        yield found


@pytest.mark.parametrize(
    ("traces", "url"),
    [("off", None), ("otlp http://h:4318", "http://h:4318/v1/traces"), ("otlp https://h/v1/traces", "https://h/v1/traces"),
     ("otlp http://h/prefix/", "http://h/prefix/v1/traces")],
)  # fmt: skip
def test_the_setting_names_a_receiver(traces: str, url: str | None) -> None:
    assert receiver_of(traces) == url


@pytest.mark.parametrize("traces", ["", "on", "otlp", "otlp h:4318", "zipkin http://h", "otlp grpc://h"])
def test_what_is_no_receiver_is_refused(traces: str) -> None:
    with pytest.raises(Invalid, match="setting traces was not understood"):
        receiver_of(traces)


def test_off_is_nothing_at_all(tmp_path: Path) -> None:
    assert open_telemetry("off", Metrics(tmp_path, 0), ratio=1.0, instance="serve-0") is None


def test_the_trace_of_a_caller_goes_on_to_the_model_and_the_journal(plant: Plant, caller: Caller, collector: Collector) -> None:
    trace, header = traceparent(0xA1)
    answer = caller.call("POST", "/predict/delay", {"rows": [row(), row()], "ids": ["one", "two"]}, {"traceparent": header})
    assert answer.status == 200
    collector.wait(1, named="POST /predict/{endpoint}")
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == trace}
    server, model, journal = spans["POST /predict/{endpoint}"], spans["model example"], spans["journal"]
    assert len(spans) == 3
    assert server.parent_span_id.hex() == PARENT
    assert {model.parent_span_id, journal.parent_span_id} == {server.span_id}
    about = told(server)
    assert about["http.route"] == "/predict/{endpoint}"
    assert (about["tidemill.endpoint"], about["http.response.status_code"], about["tidemill.prediction_ids"]) == (
        "delay",
        200,
        ["one", "two"],
    )
    assert (told(model)["tidemill.model_version"], told(model)["tidemill.variant"], told(model)["tidemill.rows"]) == (3, "champion", 2)
    assert server.start_time_unix_nano <= model.start_time_unix_nano <= model.end_time_unix_nano
    assert model.end_time_unix_nano <= journal.start_time_unix_nano <= journal.end_time_unix_nano <= server.end_time_unix_nano
    assert collector.resources[0]["service.name"] == "tidemill"
    assert wait_until(lambda: 'tidemill_trace_spans_total{outcome="exported"' in caller.get("/metrics").body.decode(), timeout_s=5)
    table = read_predictions(plant.state, "delay")
    journaled = dict(zip(table["id"].to_pylist(), table["trace_id"].to_pylist(), strict=True))
    assert journaled["one"] == journaled["two"] == trace


def test_what_is_not_sampled_is_not_traced_and_refusals_are(caller: Caller, collector: Collector) -> None:
    unsampled, header = traceparent(0xB1, sampled=False)
    assert caller.call("POST", "/predict/delay", {"rows": [row()]}, {"traceparent": header}).status == 200
    assert caller.predict(row())  # nobody's trace, and the ratio is 0
    refused, header = traceparent(0xB2)
    assert caller.call("POST", "/predict/delay", {"rows": [{"a": "x"}]}, {"traceparent": header}).status == 422
    collector.wait(1, named="POST")
    assert wait_until(lambda: any(span.trace_id.hex() == refused for span in collector.spans), timeout_s=10)
    (span,) = [span for span in collector.spans if span.trace_id.hex() == refused]
    assert told(span)["http.response.status_code"] == 422
    assert unsampled not in {span.trace_id.hex() for span in collector.spans}


def test_calls_over_grpc_are_traced_likewise(plant: Plant, caller: Caller, collector: Collector) -> None:
    trace, header = traceparent(0xE1)
    with line(plant) as asked:
        asked.infer(rows([1.0], [1]), metadata=(("traceparent", header),))
    collector.wait(1, named="inference.GRPCInferenceService/ModelInfer")
    names = {span.name for span in collector.spans if span.trace_id.hex() == trace}
    assert names == {"inference.GRPCInferenceService/ModelInfer", "model example", "journal"}


def test_requests_that_are_scored_together_name_each_other(caller: Caller, collector: Collector) -> None:
    count = 8
    body = json.dumps({"rows": [row()]}).encode()
    requests = b"".join(
        b"POST /predict/delay HTTP/1.1\r\nhost: t\r\ntraceparent: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (traceparent(0xC00 + place)[1].encode(), len(body), body)
        for place in range(count)
    )
    with socket.create_connection(("127.0.0.1", caller.port), timeout=10) as line:
        line.sendall(requests)  # in one piece: they arrive in one turn
        for _ in range(count):
            answer = http.client.HTTPResponse(line)
            answer.begin()
            assert answer.status == 200
            answer.read()
            break  # http.client buffers what follows: that it came is seen by the spans
        wanted = {traceparent(0xC00 + place)[0] for place in range(count)}

        def models() -> list:
            return [s for s in collector.spans if s.trace_id.hex() in wanted and s.name == "model example"]

        assert wait_until(lambda: len(models()) == count, timeout_s=15), len(models())
    together = [span for span in models() if told(span)["tidemill.requests_together"] > 1]
    assert together
    for span in together:
        assert {link.trace_id.hex() for link in span.links} <= wanted - {span.trace_id.hex()}
        assert len(span.links) == told(span)["tidemill.requests_together"] - 1


def test_a_receiver_that_hangs_delays_nobody(caller: Caller, collector: Collector) -> None:
    collector.release.clear()
    try:
        slowest = 0.0
        for place in range(300):
            before = elapsed()
            answer = caller.call("POST", "/predict/delay", {"rows": [row()]}, {"traceparent": traceparent(0xD00 + place)[1]})
            assert answer.status == 200
            slowest = max(slowest, elapsed() - before)
        assert slowest < 2
    finally:
        collector.release.set()


def test_beyond_the_limit_requests_are_not_traced_and_what_is_refused_is_counted(tmp_path: Path) -> None:
    metrics, exporter = Metrics(tmp_path, 0), Held()
    exporter.fails = True
    exporter.release.clear()  # the first batch hangs
    telemetry = Telemetry(exporter, metrics, ratio=1.0, instance="serve-0")
    try:
        made = 0
        while (traced := telemetry.begin("POST", {}, elapsed(), {})) is not None:
            telemetry.end(traced, {}, failed=False)
            made += 1
            assert made <= WAITING_SPANS
        assert (made, metrics.spans.of("dropped").count) == (WAITING_SPANS, 1)
        exporter.release.set()
        assert wait_until(lambda: metrics.spans.of("failed").count == WAITING_SPANS, timeout_s=20)
        exporter.fails = False
        again = telemetry.begin("POST", {}, elapsed(), {})
        assert again is not None
        telemetry.end(again, {}, failed=False)
    finally:
        exporter.release.set()
        telemetry.close(10)
    assert metrics.spans.of("exported").count == 1


def test_of_own_requests_a_share_is_traced_with_their_features(tmp_path: Path) -> None:
    exporter = Held()
    telemetry = Telemetry(exporter, Metrics(tmp_path, 0), ratio=0.25, instance="serve-0")
    traced = [found for _ in range(2000) if (found := telemetry.begin("POST", {}, elapsed(), {})) is not None]
    assert 400 < len(traced) < 600  # five standard deviations about 500
    now = elapsed()
    traced[0].steps = [Step("features", now, now + 0.001), Step("model", now, now + 0.002, ("champion", "m", 3))]
    telemetry.end(traced[0], {"http.response.status_code": 500}, failed=True)
    telemetry.close(5)
    assert [span.name for span in exporter.spans] == ["features", "model m", "POST"]
    assert exporter.spans[2].status.status_code.name == "ERROR"
    assert f"{exporter.spans[2].context.trace_id:032x}" == traced[0].trace_id


@pytest.mark.parametrize("worked", [True, False])
def test_a_worker_ends_in_time_whether_or_not_there_is_a_receiver(tmp_path: Path, worked: bool) -> None:
    with collecting() as collector:
        url = collector.url if worked else "http://127.0.0.1:1"
        plant = Plant(tmp_path / "home", traces=f"otlp {url}", traces_ratio=1.0, drain_s=3)
        plant.publish(plant.endpoint())
        with plant.worker() as caller:
            caller.predict(row())
            before = elapsed()
            assert caller.terminate() == 0
            assert elapsed() - before < 10
        assert len(collector.spans) == (3 if worked else 0)


def test_a_prediction_stands_beside_its_run_in_the_control_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "control").mkdir()
    with control_plane(tmp_path / "control") as server, open_workspace(server.home) as ws:
        experiment = create_experiment(ws, "late flights")
        run = start_run(ws, experiment.name, name="training")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-mlflow-experiment-id={experiment.id},x-mlflow-run-id={run.id}")
        plant = Plant(tmp_path / "home", traces=f"otlp {server.url}", traces_ratio=1.0)
        plant.publish(plant.endpoint())
        with plant.worker() as caller:
            (prediction,) = caller.predict(row())["predictions"]
            caller.terminate()
        (trace,) = search_traces(ws, [experiment.id], filter=f"run_id = '{run.id}'").items
        (spans,) = read_spans(ws, [trace.id]).values()
        assert len(spans) == 3
        assert prediction["id"] in "".join(spans)
