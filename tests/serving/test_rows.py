"""Decoding and checking the rows of a request."""

import json
import re
from datetime import UTC, datetime
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.plant import landed_view, python_spec
from tidemill.core.errors import Invalid
from tidemill.core.signature import Column
from tidemill.core.values import replace
from tidemill.features.online import ReadPlan
from tidemill.serving.block import Block
from tidemill.serving.rows import ORDERS_KEPT, RowSchema, RowsRefused, row_schema

COLUMNS = (
    Column(name="distance", kind="double", low=0, high=5000),
    Column(name="dep hour", kind="long", required=False),
    Column(name="origin", kind="string", categories=("EWR", "JFK", "LGA")),
    Column(name="night", kind="boolean"),
)
GOOD = {"distance": 500.5, "dep hour": 7, "origin": "EWR", "night": False}


@pytest.fixture(scope="module")
def schema() -> RowSchema:
    return row_schema("delay", [python_spec(inputs=COLUMNS)], [], None, None)


def refused(schema: RowSchema, *rows: object) -> RowsRefused:
    with pytest.raises(RowsRefused) as caught:
        schema.decode(json.dumps({"rows": rows}).encode())
    return caught.value


def test_a_label_key_may_come_and_may_be_left_out() -> None:
    schema = row_schema("delay", [python_spec()], [], None, None, "order")
    assert schema.decode(b'{"rows": [{"a": 1.0, "b": 1, "order": "x-1"}]}').columns["order"] == ["x-1"]
    assert schema.decode(b'{"rows": [{"a": 1.0, "b": 1}]}').columns["order"] == [None]
    assert schema.takes_block(("a", "b")) == row_schema("delay", [python_spec()], [], None, None).takes_block(("a", "b"))


def test_rows_become_columns(schema: RowSchema) -> None:
    rows = schema.decode(json.dumps({"rows": [GOOD, {**GOOD, "dep hour": None, "distance": 3}], "at": "2013-06-01T12:00:00Z"}).encode())
    assert rows.columns == {"distance": [500.5, 3.0], "dep hour": [7, None], "origin": ["EWR", "EWR"], "night": [False, False]}
    assert (rows.count, rows.ids, rows.at) == (2, None, datetime(2013, 6, 1, 12, tzinfo=UTC))
    assert schema.decode(json.dumps({"rows": [{k: v for k, v in GOOD.items() if k != "dep hour"}]}).encode()).columns["dep hour"] == [None]


def test_each_fault_is_named_with_its_row(schema: RowSchema) -> None:
    error = refused(schema, GOOD, {"distance": "far", "origin": "SFO", "night": 1, "color": "red"}, {**GOOD, "distance": -1})
    assert [(fault.row, fault.column) for fault in error.faults] == [
        (1, "color"),
        (1, "distance"),
        (1, "night"),
        (1, "origin"),
        (2, "distance"),
    ]
    told = {(fault.row, fault.column): fault.fault for fault in error.faults}
    assert told[1, "distance"] == "column 'distance': Expected `float`, got `str`"
    assert "known are: distance, dep hour, origin, night" in told[1, "color"]
    assert "Expected `float` >= 0.0" in told[2, "distance"]
    assert str(error).startswith("endpoint 'delay' cannot take these rows: row 1: column 'color' is not known")
    assert str(error).endswith("(and 2 more)")


@pytest.mark.parametrize(
    ("row", "column", "says"),
    [
        ({k: v for k, v in GOOD.items() if k != "origin"}, "origin", "is missing"),
        ({**GOOD, "distance": None}, "distance", "got `null`"),
        ({**GOOD, "dep hour": 2**70}, "dep hour", "out of range|<= 9223372036854775807|Expected"),
        ({**GOOD, "dep hour": 7.5}, "dep hour", "Expected `int"),
        ({**GOOD, "origin": ["EWR"]}, "origin", "array"),
        ([1, 2], None, "expected an object"),
        (None, None, "expected an object"),
    ],
)
def test_what_does_not_fit_is_refused(schema: RowSchema, row: object, column: str | None, says: str) -> None:
    (fault,) = refused(schema, row).faults
    assert fault.column == column
    assert re.search(says, fault.fault)


def test_not_more_faults_are_listed_than_a_reader_wants(schema: RowSchema) -> None:
    error = refused(schema, *[{}] * 100)
    assert (len(error.faults), error.total) == (20, 300)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "Expected `object`"),
        (b'{"rows": 1}', "Expected `array`"),
        (b'{"rows": []}', "no rows"),
        (b"{}", "missing required field `rows`"),
        (b'{"rows": [], "row": 1}', "unknown field `row`"),
        (b'{"rows": [%s], "ids": []}', "1 rows and 0 ids"),
        (b'{"rows": [%s, %s], "ids": ["x", "x"]}', "one id twice"),
        (b'{"rows": [%s], "ids": [""]}', "length >= 1"),
        (b'{"rows": [%s], "at": "2013-06-01T12:00:00"}', "no time zone"),
        (b'{"rows": [%s], "at": "noon"}', "RFC3339"),
        (b'{"rows": [{"distance": 1e999}]}', "out of range"),
        (b'{"rows": [{"distance": NaN}]}', "not valid JSON"),
        (b'{"rows": [{"origin": "\xff"}]}', "not valid JSON"),
    ],
)
def test_what_is_no_request_is_refused(schema: RowSchema, body: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        schema.decode(body.replace(b"%s", json.dumps(GOOD).encode()))


def test_columns_become_what_rows_become(schema: RowSchema) -> None:
    far = -(2**63) - 1  # beyond what the journal keeps of whole numbers
    taken = row_schema("delay", [python_spec()], [], None, None).take({"a": [3, far], "b": [7.0, 8]}, 2, ids=None, at=None).columns
    assert (taken, [type(value) for value in (*taken["a"], *taken["b"])]) == (
        {"a": [3.0, float(far)], "b": [7, 8]},
        [float, float, int, int],
    )
    for count in (0, 1):
        with pytest.raises(Invalid, match="column 'night' is missing" if count else "no rows"):
            schema.take({"distance": [1.0] * count}, count, ids=None, at=None)
    with pytest.raises(RowsRefused, match="row 1: column 'a': expected a finite number, got inf"):
        row_schema("delay", [python_spec()], [], None, None).take({"a": [1.0, float("inf")], "b": [1, 1]}, 2, ids=None, at=None)


def test_ever_new_names_and_orders_fill_no_memory() -> None:
    columns = tuple(Column(name=name, kind="double") for name in "abcdef")
    schema = row_schema("delay", [python_spec(inputs=columns)], [], None, None)
    for order in permutations("abcdef"):
        assert schema.takes_block(order)
        assert not schema.takes_block((*order, "a"))
        assert len(schema._checks) <= ORDERS_KEPT
    assert not schema.takes_block(tuple("abcdx"))
    assert schema.takes_block(tuple("fedcba"))
    assert schema.take_block(Block(tuple("fedcba"), np.ones((2, 6))), ids=None, at=None).count == 2


def test_a_column_of_any_kind_holds_what_the_journal_can_keep() -> None:
    schema = row_schema("delay", [python_spec()], [], None, "unit")
    row = {"a": 1.0, "b": 1}
    for unit in ("x", 3, 2.5, True, None, 2**63 - 1):
        assert schema.decode(json.dumps({"rows": [{**row, "unit": unit}]}).encode()).columns["unit"] == [unit]
    assert "Expected `int` <= 9223372036854775807" in str(refused(schema, {**row, "unit": 2**70}))


def test_join_keys_of_the_features_come_with_the_request() -> None:
    plan = ReadPlan(project="default", services=("delay@1",), views=(landed_view(),), features=("flights_2h", "delay_2h"))
    spec = python_spec(
        inputs=(Column(name="distance", kind="double"), Column(name="flights_2h", kind="double"), Column(name="delay_2h", kind="double"))
    )
    schema = row_schema("delay", [spec], [], plan, "tailnum")
    rows = schema.decode(b'{"rows": [{"distance": 1, "carrier": null, "tailnum": "N1"}]}')
    assert rows.columns == {"distance": [1.0], "carrier": [None], "tailnum": ["N1"]}
    assert refused(schema, {"distance": 1, "carrier": 7, "tailnum": "N1"}).faults[0].column == "carrier"
    assert [fault.column for fault in refused(schema, {"distance": 1, "delay_2h": 3}).faults] == ["carrier", "delay_2h", "tailnum"]


def test_what_only_a_shadow_takes_may_be_left_out() -> None:
    main = python_spec(inputs=(Column(name="a", kind="double"),))
    shadow = python_spec(inputs=(Column(name="a", kind="double"), Column(name="new", kind="string")))
    schema = row_schema("delay", [main], [shadow], None, None)
    assert schema.decode(b'{"rows": [{"a": 1}]}').columns == {"a": [1.0], "new": [None]}


def test_a_column_that_json_cannot_name_plainly_is_refused() -> None:
    with pytest.raises(Invalid, match="has a quote, a backslash or a control character"):
        row_schema("delay", [python_spec(inputs=(Column(name='the "a"', kind="double"),))], [], None, None)


def test_models_that_disagree_on_a_type_are_refused() -> None:
    one, two = (python_spec(inputs=(Column(name="a", kind=kind),)) for kind in ("double", "string"))
    with pytest.raises(Invalid, match="its models disagree on the type of column 'a'"):
        row_schema("delay", [one, two], [], None, None)


def test_a_model_that_needs_what_nobody_brings_is_refused() -> None:
    spec = python_spec(inputs=(Column(name="a", kind="double"), Column(name="b", kind="double")))
    with pytest.raises(Invalid, match="takes b, which neither the request nor its features bring"):
        row_schema("delay", [replace(spec, request_columns=("a",))], [], None, None)


NAMES = st.text(st.characters(exclude_characters='"\\', min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_any_names_of_columns_round_trip(values: dict[str, float]) -> None:
    schema = row_schema("any", [python_spec(inputs=tuple(Column(name=name, kind="double") for name in values))], [], None, None)
    rows = schema.decode(json.dumps({"rows": [values]}).encode())
    assert rows.columns == {name: [value] for name, value in values.items()}
    taken = schema.take({name: [value] for name, value in values.items()}, 1, ids=None, at=None)
    assert taken.columns == rows.columns
