"""How requests are read: nearly all at once, the others forgivingly, and what is wrong is named."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.codec import encode
from tidemill.core.errors import Invalid
from tidemill.core.values import Wire
from tidemill.server.mlflow.endpoint import Endpoint, read_body, read_query
from tidemill.server.mlflow.errors import BodyNotUnderstood, ParameterMissing, ParameterWrong
from tidemill.server.mlflow.wire import Filled, Int64


class Item(Wire, frozen=True, kw_only=True):
    """Something in a list."""

    key: Filled
    value: float = 0.0


class Request(Wire, frozen=True, kw_only=True):
    """One field of each kind."""

    run_id: Filled
    count: Int64 = 0
    on: bool = False
    names: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    max_results: int | None = None


ENDPOINT = Endpoint("POST", "/x", Request, lambda ws, request: None)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"run_id":"a"}', Request(run_id="a")),
        (b'{"run_uuid":"a"}', Request(run_id="a")),
        (b'{"runId":"a","maxResults":"5"}', Request(run_id="a", max_results=5)),
        (b'{"run_id":"a","count":"12","on":"true","unknown":{"x":[1]}}', Request(run_id="a", count=12, on=True)),
        (b'{"run_id":"a","count":null,"items":[{"key":"k","value":null}]}', Request(run_id="a", items=(Item(key="k"),))),
        (b'{"run_id":"a","items":[{"key":"k","value":"-Infinity"}]}', Request(run_id="a", items=(Item(key="k", value=float("-inf")),))),
        (b'{"run_id":"a","items":[{"key":"k","value":1e400}]}', Request(run_id="a", items=(Item(key="k", value=float("inf")),))),
        (b'{"run_id":"a","items":[{"key":"k","value":-Infinity}]}', Request(run_id="a", items=(Item(key="k", value=float("-inf")),))),
        (b'"{\\"run_id\\": \\"a\\"}"', Request(run_id="a")),
        ('{"run_id":"é\\ud83d\\ude00"}'.encode(), Request(run_id="é😀")),
        (b'{"run_id":"a\\\\u0000"}', Request(run_id="a\\u0000")),
    ],
)
def test_bodies_are_read_as_protobuf_reads_them(body: bytes, found: Request) -> None:
    assert read_body(ENDPOINT, body, {}) == found


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (b"", ParameterMissing, "Missing value for required parameter 'run_id'"),
        (b"{}", ParameterMissing, "Missing value for required parameter 'run_id'"),
        (b'{"run_id":""}', ParameterMissing, "Missing value for required parameter 'run_id'"),
        (b'{"run_id":"a","items":[{"value":1}]}', ParameterMissing, r"required parameter 'items\[0\].key'"),
        (b'{"run_id":5}', ParameterWrong, "Invalid value '5' for parameter 'run_id' supplied: expected `str`, got `int`"),
        (b'{"run_id":"a","count":1.5}', ParameterWrong, "Invalid value '1.5' for parameter 'count'"),
        (b'{"run_id":"a","count":9223372036854775808}', ParameterWrong, "parameter 'count' supplied"),
        (b'{"run_id":"a","items":{}}', ParameterWrong, "parameter 'items' supplied: expected `array`"),
        (b'{"run_id":"a","items":[{"key":"k","value":"high"}]}', ParameterWrong, r"Invalid value 'high' for parameter 'items\[0\].value'"),
        (b"[]", BodyNotUnderstood, "it is a JSON array; expected an object"),
        (b"5", BodyNotUnderstood, "it is a JSON scalar; expected an object"),
        (b"{", BodyNotUnderstood, "it is not valid JSON"),
        (b'{"run_id":"a"} x', BodyNotUnderstood, "it is not valid JSON"),
        (b"\xff\xfe", BodyNotUnderstood, "it is not valid JSON"),
        (b"[" * 100_000, BodyNotUnderstood, "it is not valid JSON"),
        (b'{"run_id":"a\\u0000"}', BodyNotUnderstood, "NUL"),
        (b'{"run_id":"a","\\u0000":1}', BodyNotUnderstood, "NUL"),
        (b'{"run_id":"a","names":["\\u0000"]}', BodyNotUnderstood, "NUL"),
        (b'{"run_id":"a\\ud800"}', BodyNotUnderstood, "half a character"),
    ],
)
def test_what_is_wrong_with_a_body_is_named(body: bytes, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        read_body(ENDPOINT, body, {})


def test_the_path_has_the_last_word() -> None:
    assert read_body(ENDPOINT, b'{"run_id":"a","count":1}', {"run_id": "b"}) == Request(run_id="b", count=1)
    assert read_query(ENDPOINT, [("run_id", "a")], {"run_id": "b"}).run_id == "b"
    with pytest.raises(BodyNotUnderstood, match="NUL"):
        read_body(ENDPOINT, b"{}", {"run_id": "\0"})


def test_a_query_repeats_lists_and_takes_the_first_of_others() -> None:
    pairs = [("run_id", "a"), ("run_id", "b"), ("names", "x"), ("count", "3"), ("names", "y"), ("on", "true"), ("other", "z")]
    assert read_query(ENDPOINT, pairs, {}) == Request(run_id="a", names=("x", "y"), count=3, on=True)
    with pytest.raises(ParameterWrong, match="Invalid value 'many' for parameter 'count'"):
        read_query(ENDPOINT, [("run_id", "a"), ("count", "many")], {})
    with pytest.raises(BodyNotUnderstood, match="NUL"):
        read_query(ENDPOINT, [("run_id", "\0")], {})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["run_id", "items", "key", "value", "names", "x"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Request.__struct_fields__, "runId", "run_uuid", "x"]), _JSON))
def test_whatever_comes_is_read_or_refused(data: dict[str, Any]) -> None:
    with suppress(Invalid):
        assert isinstance(read_body(ENDPOINT, encode(data), {}), Request)


@given(st.builds(Request, run_id=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
                 count=st.integers(-(2**63), 2**63 - 1), on=st.booleans(), max_results=st.none() | st.integers(-5, 5)))  # fmt: skip
def test_what_is_right_is_read_as_it_was_meant(request_: Request) -> None:
    assert read_body(ENDPOINT, encode(request_), {}) == request_
