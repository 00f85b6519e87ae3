"""Computed columns: one expression, one value, over tables and over pushed rows; and what is not an expression over one row."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from tests.features import worlds
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.datasets.versions import add
from tidemill.features.applied import apply, plan
from tidemill.features.computed import ExpressionRefused, columns_read, computed_rows, computed_types, input_types, with_computed
from tidemill.features.definitions import compile_plan, read_view, view_plan
from tidemill.features.history import history
from tidemill.features.materialize import materialize
from tidemill.features.online import push
from tidemill.features.timeline import join
from tidemill.features.values import numbers_of
from tidemill.features.views import Aggregation, Feature, FeatureService, FeatureView
from tidemill.govern.workspace import Workspace

COLUMNS = {field.name: str(field.type) for field in worlds.EVENTS}
EXPRESSIONS = {
    "late_share": "lateness / (lateness + 15.0)",
    "lateness": "greatest(delay, 0)",
    "per_gate": "delay / nullif(gate, 1)",
    "bad": "late OR delay > 10",
    "kind": "CASE WHEN hour(landed_at) = 0 THEN upper(plane) || '?' ELSE flight END",
    "root": "sqrt(delay)",
    "number": "CAST(substr(flight, 2) AS INTEGER)",
    "one": "1",
    "known": "coalesce(delay, -1)",
}
KINDS = {
    "late_share": "double", "lateness": "double", "per_gate": "double", "bad": "bool", "kind": "string", "root": "double",
    "number": "double", "one": "double", "known": "double",
}  # fmt: skip


def same(found: list[Any], expected: list[Any]) -> bool:
    return [repr(each) for each in found] == [repr(each) for each in expected]


def test_types_are_told_in_the_order_in_which_columns_need_each_other() -> None:
    types = input_types(EXPRESSIONS, COLUMNS)
    assert computed_types(EXPRESSIONS, types) == KINDS
    assert types["landed_at"] == "TIMESTAMP"
    assert set(columns_read(EXPRESSIONS)) == {"delay", "gate", "late", "landed_at", "plane", "flight"}


@settings(max_examples=25, deadline=None)
@given(worlds.event_rows(keys=True))
def test_a_pushed_row_gets_the_value_that_the_table_gets(rows: list[dict[str, Any]]) -> None:
    table = worlds.events_table(rows)
    made = with_computed(table, EXPRESSIONS)
    pushed = computed_rows(
        {name: [row[name] for row in rows] for name in table.column_names}, EXPRESSIONS, input_types(EXPRESSIONS, COLUMNS)
    )
    for name in EXPRESSIONS:
        assert same(made[name].to_pylist(), pushed[name])
        assert str(made.schema.field(name).type) == KINDS[name]


def test_values_are_right_and_what_cannot_be_computed_is_missing() -> None:
    rows = [worlds.event("F1", delay=30.0), worlds.event("Fx", delay=-4.0), worlds.event("F3", delay=math.nan)]
    made = with_computed(worlds.events_table(rows), EXPRESSIONS)
    assert np.isnan(numbers_of(made["root"], "root")).tolist() == [False, True, True]
    expected = {
        "late_share": [30 / 45, 0.0, 0.0], "lateness": [30.0, 0.0, 0.0], "per_gate": [None] * 3, "bad": [True, False, None],
        "kind": ["A320?"] * 3, "number": [1.0, None, 3.0], "one": [1.0] * 3, "known": [30.0, -4.0, -1.0],
    }  # fmt: skip
    assert made.select(list(expected)).to_pydict() == expected
    assert with_computed(made.slice(0, 0).select(COLUMNS), {"one": "1"}).num_rows == 0
    assert with_computed(made.select(COLUMNS), {"one": "1"})["one"].to_pylist() == [1.0] * 3


def test_pushed_moments_may_be_text() -> None:
    asked = {"hour": "hour(landed_at)"}
    types = input_types(asked, COLUMNS)
    assert computed_rows({"landed_at": ["2013-06-01T12:30:00+02:00", None]}, asked, types) == {"hour": [10.0, None]}
    with pytest.raises(Invalid, match=r"hour cannot be computed|was not understood"):
        computed_rows({"landed_at": ["noon"]}, asked, types)
    with pytest.raises(Invalid, match=r"twice cannot be computed.*expected the columns as the source has them: delay DOUBLE"):
        computed_rows({"delay": ["much"]}, {"twice": "delay * 2"}, {"delay": "DOUBLE"})


@pytest.mark.parametrize(
    ("expressions", "message"),
    [
        ({"a": "delay +"}, "syntax error"),
        ({"a": "delay) , (late"}, "more than one expression"),
        ({"a": "delay FROM flights"}, "syntax error"),
        ({"a": "1); DROP TABLE x; SELECT (1"}, "Only SELECT|more than one expression"),
        ({"a": "(SELECT content FROM read_text('/etc/hostname'))"}, "subquery is nothing that one row says"),
        ({"a": "sum(delay)"}, "'sum' is no function of one row"),
        ({"a": "delay - lag(delay) OVER ()"}, "window is nothing that one row says"),
        ({"a": "delay + random()"}, "'random' is no function of one row"),
        ({"a": "landed_at < now()"}, "'now' is no function of one row"),
        ({"a": "landed_at < current_date"}, "'current_date' is not a column"),
        ({"a": "getvariable('x')"}, "'getvariable' is no function of one row"),
        ({"a": "speed_of(delay)"}, "'speed_of' is no function of one row"),
        ({"a": "dely * 2"}, r"'dely' is not a column \(there are: delay, flight"),
        ({"a": "plane * 2"}, "'a' is 'plane \\* 2': (Binder|Conversion)"),
        ({"a": "[delay]"}, "of type DOUBLE\\[\\], not a number"),
        ({"a": "landed_at"}, "of type TIMESTAMP, not a number"),
        ({"a": "nullif(CAST(3000000000 AS INTEGER), delay)"}, "3000000000 can't be cast"),
        ({"delay": "gate * 2"}, "there is a column of that name"),
        ({"a": "b + delay", "b": "a"}, r"reads itself \((a reads b reads a|b reads a reads b)\)"),
    ],
)
def test_what_is_not_an_expression_over_a_row_is_refused(expressions: dict[str, str], message: str) -> None:
    with pytest.raises(ExpressionRefused, match=message):
        computed_types(expressions, input_types(expressions, COLUMNS))


SHARE = Aggregation(function="share", column="bad", window=15 * worlds.MINUTE)
MEAN = Aggregation(function="mean", column="late_share", window=15 * worlds.MINUTE)
KIND_COUNT = Aggregation(function="distinct", column="kind", window=15 * worlds.MINUTE)
WINDOWS = FeatureView(
    name="delays",
    entity=("origin",),
    source="flights",
    event_timestamp="landed_at",
    event_key="flight",
    computed=EXPRESSIONS,
    features=tuple(Feature(name=f"{each.column}_15", aggregation=each) for each in (SHARE, MEAN, KIND_COUNT)),
)
LAST = replace(
    worlds.latest_view(keys=True, ttl=None),
    computed=EXPRESSIONS,
    features=(Feature(name="late_share"), Feature(name="kind", kind="string")),
)


@settings(max_examples=20, deadline=None)
@given(worlds.event_rows(keys=True))
def test_features_are_those_of_a_source_that_has_the_columns(rows: list[dict[str, Any]]) -> None:
    table = worlds.events_table(rows)
    asking = worlds.entity_table([(origin, 1, minute) for origin in ("EWR", "JFK") for minute in (5, 20, 40)])
    for view in (WINDOWS, LAST):
        made = with_computed(table, EXPRESSIONS)
        found = join(asking, [view], {"flights": table}, timestamp="at")
        assert repr(found.to_pylist()) == repr(join(asking, [replace(view, computed={})], {"flights": made}, timestamp="at").to_pylist())


def test_the_view_reads_of_the_source_only_what_it_needs() -> None:
    assert LAST.needs == ("origin", "landed_at", "flight", "delay", "gate", "late", "plane")


def test_join_keys_are_not_computed() -> None:
    with pytest.raises(Invalid, match="computes 'origin'; join keys"):
        replace(LAST, computed={"origin": "upper(plane)"})


@pytest.mark.slow
def test_history_and_the_online_store_agree_on_computed_columns(ws: Workspace) -> None:
    events = [worlds.event(f"F{number}", delay=delay) for number, delay in enumerate([30.0, -4.0, 7.5])]
    add(ws, "flights", worlds.events_table(events[:2]))
    service = FeatureService(name="delay", features=("delays:*", "last:*"))
    apply(ws, [WINDOWS, LAST], [service])
    for view in (WINDOWS, LAST):
        materialize(ws, view.name, until=worlds.START + 2 * worlds.MINUTE)
        push(ws.online, view_plan(ws.project, read_view(ws, view.name)), pa.Table.from_pylist(events[2:]).to_pydict(), now=worlds.START)
    add(ws, "flights", worlds.events_table(events))
    at = worlds.START + 3 * worlds.MINUTE
    asked = history(ws, worlds.entity_table([("EWR", 1, 3)]), "delay", timestamp="at")
    online = compile_plan(ws, "delay").read(ws.online, {"origin": ["EWR"]}, at)
    assert {name: values[0] for name, values in online.items()} == {name: asked[name][0].as_py() for name in online}
    assert asked["bad_15"][0].as_py() == 1 / 3


@pytest.mark.slow
def test_a_changed_expression_and_a_changed_type_are_new_versions(ws: Workspace) -> None:
    table = worlds.events_table([])
    add(ws, "flights", table)
    apply(ws, [LAST])
    other = replace(LAST, computed={**EXPRESSIONS, "late_share": "delay / 60"})
    assert plan(ws, [other]).changes[0].what == ("computed: late_share",)
    add(ws, "flights", table.set_column(4, "delay", table["delay"].cast(pa.int64())))
    assert plan(ws, [LAST]).changes[0].what == ("types of its columns",)
    with pytest.raises(Invalid, match="'kind' is of type string; expected numbers"):
        plan(ws, [replace(LAST, features=(Feature(name="kind"),))])
