"""Protobuf read by tables: the same as what its own library makes of the same bytes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.server.mlflow.otlp import SCHEMA
from tidemill.server.mlflow.protobuf import ProtobufRefused, parse

pytest.importorskip("opentelemetry.proto", reason="comes with mlflow")
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INT64 = st.integers(-(2**63), 2**63 - 1)
VALUES = st.recursive(
    st.one_of(
        TEXTS.map(lambda v: AnyValue(string_value=v)),
        st.booleans().map(lambda v: AnyValue(bool_value=v)),
        INT64.map(lambda v: AnyValue(int_value=v)),
        st.floats().map(lambda v: AnyValue(double_value=v)),
        st.binary(max_size=9).map(lambda v: AnyValue(bytes_value=v)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda v: AnyValue(array_value=ArrayValue(values=v))),
        st.dictionaries(TEXTS, inner, max_size=3).map(
            lambda v: AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=key, value=value) for key, value in v.items()]))
        ),
    ),
    max_leaves=5,
)
ATTRIBUTES = st.dictionaries(TEXTS, VALUES, max_size=3).map(lambda v: [KeyValue(key=key, value=value) for key, value in v.items()])
NANOS = st.integers(0, 2**64 - 1)
SPANS = st.builds(
    Span, trace_id=st.binary(max_size=16), span_id=st.binary(max_size=8), parent_span_id=st.binary(max_size=8), name=TEXTS,
    kind=st.integers(0, 5), start_time_unix_nano=NANOS, end_time_unix_nano=NANOS, attributes=ATTRIBUTES, trace_state=TEXTS,
    events=st.lists(st.builds(Span.Event, name=TEXTS, time_unix_nano=NANOS, attributes=ATTRIBUTES), max_size=2),
    links=st.lists(st.builds(Span.Link, trace_id=st.binary(max_size=16), span_id=st.binary(max_size=8), attributes=ATTRIBUTES), max_size=2),
    status=st.none() | st.builds(Status, message=TEXTS, code=st.integers(0, 2)), flags=st.integers(0, 2**32 - 1),
    dropped_attributes_count=st.integers(0, 2**32 - 1),
)  # fmt: skip


def request(*spans: Any) -> bytes:
    scope = ScopeSpans(spans=spans)
    return bytes(ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])]).SerializeToString())


def plain(value: Any) -> Any:
    """Numbers that protobuf's JSON writes as text are numbers here."""
    if isinstance(value, dict):
        wide = ("int_value", "start_time_unix_nano", "end_time_unix_nano", "time_unix_nano")
        return {key: int(item) if key in wide else plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@given(st.lists(SPANS, max_size=3))
def test_messages_are_read_as_their_own_library_reads_them(spans: list[Any]) -> None:
    data = request(*spans)
    theirs = MessageToDict(ExportTraceServiceRequest.FromString(data), preserving_proto_field_name=True)
    assert repr(parse(data, SCHEMA, "Export")) == repr(sort_like(plain(theirs), parse(data, SCHEMA, "Export")))


def sort_like(value: Any, model: Any) -> Any:
    """Return a value with the fields of its messages in the order of another's."""
    if isinstance(value, dict) and isinstance(model, dict):
        order = list(model)
        return {
            key: sort_like(value[key], model.get(key)) for key in sorted(value, key=lambda key: order.index(key) if key in order else 99)
        }
    if isinstance(value, list) and isinstance(model, list) and len(value) == len(model):
        return [sort_like(one, other) for one, other in zip(value, model, strict=True)]
    return value


@given(st.binary(max_size=200))
def test_other_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse(data, SCHEMA, "Export")
    except ProtobufRefused:
        return


@given(st.lists(SPANS, min_size=1, max_size=2), st.data())
def test_a_message_cut_short_or_changed_is_read_or_refused(spans: list[Any], data: Any) -> None:
    whole = bytearray(request(*spans))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    for changed in (bytes(whole), bytes(whole[:at])):
        try:
            parse(changed, SCHEMA, "Export")
        except ProtobufRefused:
            continue


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x0a\x05ab", "ends in the middle of a field"), (b"\x0a", "ends in the middle of a number"), (b"\xff" * 11, "middle of a number"),
        (b"\x0b", "wire type 3"), (b"\x08\x01", "resource_spans is of another kind"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(data: bytes, problem: str) -> None:
    with pytest.raises(ProtobufRefused, match=problem):
        parse(data, SCHEMA, "Export")


def test_a_message_nests_so_deep_and_no_deeper() -> None:
    def deep(levels: int) -> bytes:
        data = AnyValue(string_value="x").SerializeToString()
        for _ in range(levels):  # the library builds no message that it would not read
            data = b"\x2a" + _varint(len(data) + 1 + len(_varint(len(data)))) + b"\x0a" + _varint(len(data)) + data
        attribute = b"\x0a\x01k\x12" + _varint(len(data)) + data
        span = b"\x4a" + _varint(len(attribute)) + attribute
        for number in (2, 2, 1):
            span = bytes([number << 3 | 2]) + _varint(len(span)) + span
        return span

    assert parse(deep(20), SCHEMA, "Export")["resource_spans"]
    with pytest.raises(ProtobufRefused, match="nested more than 64 deep"):
        parse(deep(40), SCHEMA, "Export")


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
