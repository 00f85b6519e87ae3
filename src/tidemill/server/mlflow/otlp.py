"""Spans by OTLP over HTTP, as MLflow's clients and OpenTelemetry's exporters send them. Source: opentelemetry-proto 1.x, trace.proto."""

import re
import zlib
from base64 import b64decode, b64encode
from binascii import Error, unhexlify
from typing import Any

from tidemill.core.codec import decode_any, encode_text
from tidemill.core.errors import Invalid
from tidemill.server.errors import BodyTooLarge
from tidemill.server.mlflow.errors import ContentTypeRefused
from tidemill.server.mlflow.exchange import Exchange, Stream
from tidemill.server.mlflow.protobuf import Field, Schema, parse
from tidemill.server.mlflow.wire import experiment_number
from tidemill.tracking import traces
from tidemill.tracking.traces import PREVIEW_MAX, Span

PROTOBUF = b"application/x-protobuf"
_JSON = b"application/json"
_IDS = ("trace_id", "span_id", "parent_span_id")
_TIMES = ("start_time_unix_nano", "end_time_unix_nano", "time_unix_nano")
_TYPE, _INPUTS, _OUTPUTS = "mlflow.spanType", "mlflow.spanInputs", "mlflow.spanOutputs"
_LARGEST_NS = 2**63 - 1
SCHEMA = Schema(
    messages={
        "Export": {1: Field("resource_spans", "ResourceSpans", repeated=True)},
        "ResourceSpans": {2: Field("scope_spans", "ScopeSpans", repeated=True)},
        "ScopeSpans": {2: Field("spans", "Span", repeated=True)},
        "Span": {
            1: Field("trace_id", "bytes"), 2: Field("span_id", "bytes"), 3: Field("trace_state", "text"),
            4: Field("parent_span_id", "bytes"), 5: Field("name", "text"), 6: Field("kind", "Kind"),
            7: Field("start_time_unix_nano", "fixed64"),
            8: Field("end_time_unix_nano", "fixed64"), 9: Field("attributes", "KeyValue", repeated=True),
            10: Field("dropped_attributes_count", "uint64"), 11: Field("events", "Event", repeated=True),
            12: Field("dropped_events_count", "uint64"), 13: Field("links", "Link", repeated=True),
            14: Field("dropped_links_count", "uint64"), 15: Field("status", "Status"), 16: Field("flags", "fixed32"),
        },
        "Event": {
            1: Field("time_unix_nano", "fixed64"), 2: Field("name", "text"), 3: Field("attributes", "KeyValue", repeated=True),
            4: Field("dropped_attributes_count", "uint64"),
        },
        "Link": {
            1: Field("trace_id", "bytes"), 2: Field("span_id", "bytes"), 3: Field("trace_state", "text"),
            4: Field("attributes", "KeyValue", repeated=True), 5: Field("dropped_attributes_count", "uint64"), 6: Field("flags", "fixed32"),
        },
        "Status": {2: Field("message", "text"), 3: Field("code", "Code")},
        "KeyValue": {1: Field("key", "text"), 2: Field("value", "AnyValue")},
        "AnyValue": {
            1: Field("string_value", "text"), 2: Field("bool_value", "bool"), 3: Field("int_value", "int64"),
            4: Field("double_value", "double"), 5: Field("array_value", "ArrayValue"), 6: Field("kvlist_value", "KeyValueList"),
            7: Field("bytes_value", "bytes"),
        },
        "ArrayValue": {1: Field("values", "AnyValue", repeated=True)},
        "KeyValueList": {1: Field("values", "KeyValue", repeated=True)},
    },
    enums={
        "Kind": {1: "SPAN_KIND_INTERNAL", 2: "SPAN_KIND_SERVER", 3: "SPAN_KIND_CLIENT", 4: "SPAN_KIND_PRODUCER", 5: "SPAN_KIND_CONSUMER"},
        "Code": {0: "STATUS_CODE_UNSET", 1: "STATUS_CODE_OK", 2: "STATUS_CODE_ERROR"},
    },
)  # fmt: skip


async def export(exchange: Exchange) -> None:
    """Keep spans for the experiment that the header names."""
    body = await exchange.receive_body(exchange.access.settings.body_limit_bytes)

    def keep() -> None:
        ws = exchange.enter()
        named = exchange.header(b"x-mlflow-experiment-id").decode("latin-1")
        if not named:
            raise Invalid("spans need an experiment; name it in the header x-mlflow-experiment-id")
        unpacked = unpack(body, exchange.header(b"content-encoding"), limit_bytes=16 * exchange.access.settings.body_limit_bytes)
        kind = exchange.header(b"content-type").partition(b";")[0].strip().lower()
        found = read_spans(unpacked, kind)
        previews = {trace: (_preview(root, _INPUTS), _preview(root, _OUTPUTS)) for trace, root in _roots(found).items()}
        ids = traces.log_spans(ws, experiment_number(named), [to_span(item) for item in found], previews=previews)
        run = exchange.header(b"x-mlflow-run-id").decode("latin-1")
        if run:
            traces.link_traces(ws, ids, run)

    await exchange.run(keep)
    await exchange.answer(200, b"", PROTOBUF)


def unpack(body: bytes, encoding: bytes, *, limit_bytes: int) -> bytes:
    """Return a body as it was before it was compressed. Raises Invalid, BodyTooLarge."""
    if not encoding:
        return body
    if encoding.lower() not in (b"gzip", b"deflate"):
        raise Invalid(f"content encoding {encoding.decode('latin-1')!r} is not known; expected gzip, deflate or none")
    for window in (31, 15, -15) if encoding.lower() == b"deflate" else (31,):
        unpacker = zlib.decompressobj(window)
        try:
            data = unpacker.decompress(body, limit_bytes)
        except zlib.error:
            continue
        if unpacker.unconsumed_tail:
            raise BodyTooLarge(limit_bytes)
        return data
    raise Invalid(f"the body is not {encoding.decode('latin-1')} data; send it as announced")


def read_spans(body: bytes, kind: bytes) -> list[dict[str, Any]]:
    """Return the spans of a request in protobuf's JSON form. Raises Invalid."""
    if kind == PROTOBUF:
        request = parse(body, SCHEMA, "Export")
    elif kind == _JSON:
        request = _from_json(decode_any(body, what="the request's body"))
    else:
        raise ContentTypeRefused(kind.decode("latin-1"), "application/x-protobuf or application/json")
    try:
        resources = request["resource_spans"]
        found = [span for resource in resources for scope in resource.get("scope_spans", ()) for span in scope.get("spans", ())]
        for span in found:
            if not span.get("trace_id") or not span.get("span_id"):
                raise Invalid("a span has no trace_id or no span_id; send both")
    except (KeyError, TypeError, AttributeError):
        raise Invalid("the request holds no resource spans; expected an OTLP trace export") from None
    return found


def to_span(span: dict[str, Any]) -> Span:
    """Return a span in protobuf's JSON form as ours. Raises Invalid."""
    try:
        code = span.get("status", {}).get("code", "STATUS_CODE_UNSET")
        started, ended = int(span.get("start_time_unix_nano", 0)), int(span.get("end_time_unix_nano", 0))
        found = _attribute(span, _TYPE)
        return Span(
            trace=f"tr-{_hex(span['trace_id'])}",
            id=_hex(span["span_id"]),
            parent=_hex(span["parent_span_id"]) if span.get("parent_span_id") else None,
            name=_searchable(str(span.get("name", ""))),
            type=_searchable(found.get("string_value", "UNKNOWN")) if found else "UNKNOWN",
            status="ok" if code == "STATUS_CODE_OK" else "error" if code == "STATUS_CODE_ERROR" else "unset",
            started_ns=min(started, _LARGEST_NS),
            ended_ns=min(ended, _LARGEST_NS) or None,
            content=encode_text(span),
        )
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise Invalid(f"a span was not understood: {error}") from error


def _searchable(text: str) -> str:
    """Return a text that every database keeps. The span itself is kept as it came."""
    return text.replace("\0", "")


def plain(value: Any) -> Any:
    """Return an attribute's value as plain JSON data."""
    if "array_value" in value:
        return [plain(item) for item in value["array_value"].get("values", ())]
    if "kvlist_value" in value:
        return {item.get("key", ""): plain(item.get("value", {})) for item in value["kvlist_value"].get("values", ())}
    return next(iter(value.values()), None)


def _attribute(span: dict[str, Any], key: str) -> dict[str, Any] | None:
    return next((item.get("value", {}) for item in span.get("attributes", ()) if item.get("key") == key), None)


def _preview(span: dict[str, Any], key: str) -> str | None:
    found = _attribute(span, key)
    return None if found is None else encode_text(plain(found))[:PREVIEW_MAX]


def _roots(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"tr-{_hex(span['trace_id'])}": span for span in found if not span.get("parent_span_id")}


def _hex(identifier: str) -> str:
    return b64decode(identifier, validate=True).hex()


def _from_json(data: Any) -> Any:
    """Return OTLP's JSON, which has camelCase and ids in hexadecimal, as protobuf's."""
    if isinstance(data, list):
        return [_from_json(item) for item in data]
    if not isinstance(data, dict):
        return data
    found = {}
    for name, value in data.items():
        key = re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), name)
        if key in _IDS and isinstance(value, str):
            try:
                value = b64encode(unhexlify(value)).decode()
            except (Error, ValueError):
                raise Invalid(f"{name} {value[:80]!r} is not hexadecimal") from None
        elif key in _TIMES and isinstance(value, str) and value.isdecimal():
            value = int(value)
        elif key == "code" and isinstance(value, int):
            value = SCHEMA.enums["Code"].get(value, value)
        elif key == "kind" and isinstance(value, int):
            value = SCHEMA.enums["Kind"].get(value, value)
        elif key == "int_value" and isinstance(value, str):
            value = int(value) if value.lstrip("-").isdecimal() else value
        else:
            value = _from_json(value)
        found[key] = value
    return found


STREAMS = (Stream("POST", ("/v1/traces",), export),)
