"""Calls about traces, their spans, and what is said of them."""

from typing import Any

from tests.server.mlflow.scenes_runs import made, started
from tests.server.mlflow.sides import API, API3, Side

_MOMENT = "2023-11-14T22:13:20.123Z"
_NS = 1_700_000_000_123_000_000


def traces(side: Side) -> None:
    """Traces told of by hand, found, tagged, removed."""
    experiment = made(side, "traces")
    run = started(side, experiment)
    for number in range(6):
        with side.labelled(f"trace/start {number}"):
            side.post(API3 + "/traces", {"trace": {"trace_info": _info(experiment, number, run)}})
    one = _id(0)
    calls: list[tuple[str, str, str, Any]] = [
        ("start/again", "POST", API3 + "/traces", {"trace": {"trace_info": {**_info(experiment, 0, run), "state": "ERROR"}}}),
        ("start/nowhere", "POST", API3 + "/traces", {"trace": {"trace_info": _info("987654", 9, run)}}),
        ("start/nothing", "POST", API3 + "/traces", {}),
        ("get", "GET", f"{API3}/traces/{one}", None),
        ("get/unknown", "GET", f"{API3}/traces/{_id(99)}", None),
        ("tag", "PATCH", f"{API3}/traces/{one}/tags", {"key": "a", "value": "b"}),
        ("tag/second version", "PATCH", f"{API}/traces/{one}/tags", {"key": "c", "value": "d"}),
        ("tag/keyless", "PATCH", f"{API3}/traces/{one}/tags", {"value": "b"}),
        ("tag/unknown", "PATCH", f"{API3}/traces/{_id(99)}/tags", {"key": "a", "value": "b"}),
        ("tag/kept", "PATCH", f"{API3}/traces/{one}/tags", {"key": "mlflow.trace.spansLocation", "value": "b"}),
        ("tag/name", "PATCH", f"{API3}/traces/{one}/tags", {"key": "mlflow.traceName", "value": "renamed"}),
        ("untag", "DELETE", f"{API3}/traces/{one}/tags", {"key": "c"}),
        ("untag/again", "DELETE", f"{API3}/traces/{one}/tags", {"key": "c"}),
        ("get/tagged", "GET", f"{API3}/traces/{one}", None),
        ("infos", "POST", f"{API3}/traces/batchGetInfos", {"trace_ids": [one, _id(99), _id(2)]}),
        ("infos/none", "POST", f"{API3}/traces/batchGetInfos", {"trace_ids": []}),
        ("link", "POST", f"{API}/traces/link-to-run", {"trace_ids": [_id(3)], "run_id": run}),
        ("second version/get", "GET", f"{API}/traces/{one}/info", None),
        ("second version/search", "GET", f"{API}/traces?experiment_ids={experiment}&max_results=3", None),
    ]
    for label, method, path, body in calls:
        with side.labelled(f"trace/{label}"):
            side.send(method, path, body)
    _searches(side, experiment, run)
    removed: tuple[dict[str, Any], ...] = (
        {"request_ids": [_id(1), _id(99)]}, {"max_timestamp_millis": 1_700_000_002_500, "max_traces": 1}, {},
        {"max_timestamp_millis": 1, "request_ids": [one]},
        {"max_timestamp_millis": 5, "max_traces": 0}, {"max_timestamp_millis": 1_900_000_000_000},
    )  # fmt: skip
    for given in removed:
        with side.labelled(f"trace/delete {given}"):
            side.post(API3 + "/traces/delete-traces", {"experiment_id": experiment, **given})


def _searches(side: Side, experiment: str, run: str) -> None:
    asked: list[dict[str, Any]] = [
        {}, {"filter": "status = 'OK'"}, {"filter": "status != 'OK'"}, {"filter": "trace.status = 'ERROR'"},
        {"filter": "status IN ('OK', 'ERROR')"},
        {"filter": "timestamp_ms > 1700000002000"}, {"filter": "timestamp <= 1700000002123"}, {"filter": "execution_time_ms >= 200"},
        {"filter": "name = 'call 2'"},
        {"filter": "name LIKE 'call%'"}, {"filter": "name ILIKE 'CALL%'"}, {"filter": "tags.team = 'red'"},
        {"filter": "tag.team != 'red'"}, {"filter": "tags.`team` LIKE 'r%'"},
        {"filter": "metadata.origin = 'a'"}, {"filter": "request_metadata.origin = 'b'"}, {"filter": f"run_id = '{run}'"},
        {"filter": f"attributes.run_id = '{run}'"},
        {"filter": "client_request_id = 'c1'"}, {"filter": f"request_id = '{_id(2)}'"}, {"filter": "tags.team IS NULL"},
        {"filter": "tags.team IS NOT NULL"},
        {"filter": "tags.team = 'red' AND status = 'OK'"}, {"filter": "nothing = 'x'"}, {"filter": "status > 'OK'"},
        {"filter": "timestamp_ms LIKE '1'"}, {"filter": "status ="},
        {"order_by": ["timestamp_ms ASC"]}, {"order_by": ["execution_time_ms DESC"]}, {"order_by": ["status", "timestamp_ms"]},
        {"order_by": ["name DESC"]},
        {"order_by": ["nothing"]}, {"max_results": 0}, {"max_results": 501}, {"page_token": "bm9uc2Vuc2U="},
    ]  # fmt: skip
    where = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}]
    for number, given in enumerate(asked):
        with side.labelled(f"search traces/{number} {str(given).replace(run, 'RUN')}"):
            side.post(API3 + "/traces/search", {"locations": where, **given})
    for label, places in (("none", []), ("unknown", [{"mlflow_experiment": {"experiment_id": "987654"}}])):
        with side.labelled(f"search traces in {label}"):
            side.post(API3 + "/traces/search", {"locations": places})


def spans(side: Side) -> None:
    """Spans by OTLP, before and after their trace is told of."""
    experiment = made(side, "spans")
    headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": experiment}
    with side.labelled("spans/child first"):
        side.send("POST", "/v1/traces", data=_export(1, ("child",)), headers=headers)
        side.send("GET", f"{API3}/traces/{_id(1)}")
    with side.labelled("spans/root"):
        side.send("POST", "/v1/traces", data=_export(1, ("root",)), headers=headers)
        side.send("GET", f"{API3}/traces/get", params={"trace_id": _id(1)})
    with side.labelled("spans/again"):
        side.send("POST", "/v1/traces", data=_export(1, ("root", "child")), headers=headers)
        side.send("GET", f"{API3}/traces/batchGet", params={"trace_ids": [_id(1), _id(50)]})
    with side.labelled("spans/told"):
        info = _info(experiment, 1, "")
        side.post(API3 + "/traces", {"trace": {"trace_info": info}})
        side.send("GET", f"{API3}/traces/get", params={"trace_id": _id(1)})
    where = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}]
    for text in (
        "span.name = 'child'",
        "span.name = 'none'",
        "span.type = 'TOOL'",
        "span.status = 'ERROR'",
        "span.name LIKE 'ch%'",
        "trace.text LIKE '%needle%'",
        "span.nothing = 'x'",
    ):
        with side.labelled(f"spans/search {text}"):
            side.post(API3 + "/traces/search", {"locations": where, "filter": text})
    bad: tuple[tuple[str, dict[str, Any]], ...] = (
        ("malformed", {"data": b"\x0a\xff\xff", "headers": headers}), ("empty", {"data": b"", "headers": headers}),
        ("other type", {"data": b"x", "headers": {**headers, "Content-Type": "text/plain"}}),
        ("gzip that is none", {"data": _export(2, ("root",)), "headers": {**headers, "Content-Encoding": "gzip"}}),
        ("unknown experiment", {"data": _export(3, ("root",)), "headers": {**headers, "x-mlflow-experiment-id": "987654"}}),
    )  # fmt: skip
    for label, more in bad:
        with side.labelled(f"spans/{label}"):
            side.send("POST", "/v1/traces", **more)


def assessments(side: Side) -> None:
    """What is said of a trace, changed, overridden, taken back."""
    experiment = made(side, "assessments")
    with side.labelled("assessments/trace"):
        side.post(API3 + "/traces", {"trace": {"trace_info": _info(experiment, 20, "")}})
    path = f"{API3}/traces/{_id(20)}/assessments"
    said = {
        "assessment_name": "good",
        "trace_id": _id(20),
        "source": {"source_type": "HUMAN", "source_id": "ann"},
        "create_time": _MOMENT,
        "last_update_time": _MOMENT,
    }
    with side.labelled("assessments/create"):
        first = side.post(
            path, {"assessment": {**said, "feedback": {"value": True}, "rationale": "why", "metadata": {"a": "b"}, "valid": True}}
        )["assessment"]["assessment_id"]
    calls: list[tuple[str, str, str, Any]] = [
        ("create/number", "POST", "", {"assessment": {**said, "assessment_name": "score", "feedback": {"value": 0.75}}}),
        ("create/expectation", "POST", "", {"assessment": {**said, "assessment_name": "exp", "expectation": {"value": "yes"}}}),
        ("create/override", "POST", "", {"assessment": {**said, "feedback": {"value": False}, "overrides": first}}),
        ("create/override nothing", "POST", "", {"assessment": {**said, "feedback": {"value": False}, "overrides": "a-" + "0" * 32}}),
        ("get", "GET", f"/{first}", None), ("get/unknown", "GET", "/a-" + "0" * 32, None),
        ("update", "PATCH", f"/{first}",
            {"assessment": {"feedback": {"value": False}, "rationale": "changed"}, "update_mask": "feedback,rationale"}),
        ("update/other kind", "PATCH", f"/{first}", {"assessment": {"expectation": {"value": 1}}, "update_mask": "expectation"}),
        ("update/unknown", "PATCH", "/a-" + "0" * 32, {"assessment": {"rationale": "x"}, "update_mask": "rationale"}),
        ("delete/unknown", "DELETE", "/a-" + "0" * 32, None),
    ]  # fmt: skip
    for label, method, rest, body in calls:
        with side.labelled(f"assessments/{label}"):
            side.send(method, path + rest, body)
    with side.labelled("assessments/of the trace"):
        side.send("GET", f"{API3}/traces/{_id(20)}")
    where = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}]
    for text in ("feedback.score = 0.75", "feedback.score > 0.5", "feedback.score < 0.5", "feedback.good = 'false'",
        "expectation.exp = 'yes'", "feedback.none = 'x'",
                 "feedback.score IS NOT NULL", "feedback.none IS NULL"):  # fmt: skip
        with side.labelled(f"assessments/search {text}"):
            side.post(API3 + "/traces/search", {"locations": where, "filter": text})
    told = [
        {**said, "trace_id": _id(21), "feedback": {"value": 3}},
        {**said, "trace_id": "", "assessment_name": "b", "expectation": {"value": "x"}},
    ]
    with side.labelled("assessments/told with the trace"):
        side.post(API3 + "/traces", {"trace": {"trace_info": {**_info(experiment, 21, ""), "assessments": told}}})
        side.send("GET", f"{API3}/traces/{_id(21)}")
    with side.labelled("assessments/delete"):
        side.send("DELETE", f"{path}/{first}")
        side.send("GET", f"{path}/{first}")


def _id(number: int) -> str:
    return f"tr-{number + 1:032x}"


def _info(experiment: str, number: int, run: str) -> dict[str, Any]:
    return {
        "trace_id": _id(number),
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}},
        "client_request_id": f"c{number}",
        "request_time": f"2023-11-14T22:13:{20 + number}.{'123' if number % 2 == 0 else '000'}Z",
        "execution_duration": f"{number * 0.1:.3f}s" if number % 3 else "2s",
        "state": ("OK", "ERROR", "IN_PROGRESS")[number % 3],
        "request_preview": f"in {number}",
        "response_preview": f"out {number}",
        "trace_metadata": {"origin": "ab"[number % 2], **({"mlflow.sourceRun": run} if run and number == 2 else {})},
        "tags": {"mlflow.traceName": f"call {number}", **({"team": "red"} if number % 2 else {})},
    }


def _export(trace: int, names: tuple[str, ...]) -> bytes:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for name in names:
        root = name == "root"
        span = scope.spans.add()
        span.CopyFrom(
            Span(
                trace_id=(trace + 1).to_bytes(16, "big"),
                span_id=(1 if root else 2).to_bytes(8, "big"),
                name=name,
                kind=Span.SPAN_KIND_INTERNAL,
                start_time_unix_nano=_NS + (0 if root else 5_000_000),
                end_time_unix_nano=_NS + (90_000_000 if root else 20_000_000),
                status=Status(code=Status.STATUS_CODE_OK if root else Status.STATUS_CODE_ERROR, message="" if root else "broke"),
            )
        )
        if not root:
            span.parent_span_id = (1).to_bytes(8, "big")
        kind = "CHAIN" if root else "TOOL"
        span.attributes.append(KeyValue(key="mlflow.spanType", value=AnyValue(string_value=kind)))
        span.attributes.append(KeyValue(key="mlflow.spanInputs", value=AnyValue(string_value="the needle")))
        span.attributes.append(KeyValue(key="n", value=AnyValue(int_value=-3)))
        event = span.events.add()
        event.name, event.time_unix_nano = "seen", _NS + 6_000_000
    return bytes(request.SerializeToString())


SCENES = (traces, spans, assessments)
