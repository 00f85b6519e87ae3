"""The grammar of searches: what it takes, and where it says that it was not understood."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.filters import Comparison, FilterRefused, Order, parse_filter, parse_order

ENTITIES = {"attributes": "attribute", "attribute": "attribute", "metrics": "metric", "params": "param", "tags": "tag", "tag": "tag"}


def parsed(text):
    return [(c.entity, c.key, c.op, c.value) for c in parse_filter(text, entities=ENTITIES, default="attribute")]


def ordered(*clauses):
    return parse_order(clauses, entities=ENTITIES, default="attribute")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("   ", []),
        ("metrics.auc > 0.7", [("metric", "auc", ">", 0.7)]),
        ("metrics.auc>=-1e-3", [("metric", "auc", ">=", -1e-3)]),
        ("params.depth = '3' and tags.mlflow.user != \"ada\"", [("param", "depth", "=", "3"), ("tag", "mlflow.user", "!=", "ada")]),
        ("status = 'FINISHED'", [("attribute", "status", "=", "FINISHED")]),
        ("metrics.`tree depth` <> 4", [("metric", "tree depth", "!=", 4.0)]),
        ('params."a.b c" LIKE "%x_"', [("param", "a.b c", "LIKE", "%x_")]),
        ("`name` ilike 'a%'", [("attribute", "name", "ILIKE", "a%")]),
        ("run_id IN ('a', 'b')", [("attribute", "run_id", "IN", ("a", "b"))]),
        ("run_id not in ('a')", [("attribute", "run_id", "NOT IN", ("a",))]),
        ("tag.owner IS NULL AND tag.x IS NOT NULL", [("tag", "owner", "IS NULL", None), ("tag", "x", "IS NOT NULL", None)]),
        ("tags.note = 'it''s'", [("tag", "note", "=", "it's")]),
        ("metrics.loss < inf", [("metric", "loss", "<", float("inf"))]),
    ],
)
def test_a_filter_is_read(text, expected):
    assert parsed(text) == expected


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("metrics.auc", 11, "ends where an operator"),
        ("metrics.auc >", 13, "ends where a value"),
        ("metrics.auc > 'x", 14, "the quote ' is never closed"),
        ("metrics.auc > high", 14, "expected a number or text in quotes, found 'high'"),
        ("metrics.auc > 1 OR metrics.auc < 0", 16, "only AND joins conditions"),
        ("metrics.auc > 1 AND", 19, "a condition is missing behind AND"),
        ("metrics.auc ~ 1", 12, "expected an operator"),
        ("colours.red = 'x'", 0, "'colours' is nothing that can be searched for; expected one of attributes"),
        ("run_id IN 'a'", 10, "expected a list"),
        ("run_id IN ('a'", 14, "ends where a closing bracket"),
        ("run_id IN ()", 11, "expected a number or text"),
        ("tags.x IS 5", 10, "expected NULL"),
        ("tags.x NOT LIKE 'a'", 11, "expected IN behind NOT"),
        ("params. 'a' = 'b'", 8, "expected a key right behind 'params.'"),
        ("> 5", 0, "expected a name"),
        ("a = 1 ! b", 6, "'!' does not belong there"),
    ],
)
def test_a_filter_that_is_wrong_is_refused_at_its_place(text, position, problem):
    with pytest.raises(FilterRefused, match="not understood at character") as caught:
        parsed(text)
    assert caught.value.position == position
    assert problem in str(caught.value)


def test_order_is_read():
    assert ordered("metrics.auc DESC", "start_time", 'params."a b" asc') == (
        Order(entity="metric", key="auc", ascending=False),
        Order(entity="attribute", key="start_time", ascending=True),
        Order(entity="param", key="a b", ascending=True),
    )


@pytest.mark.parametrize("clause", ["", "metrics.auc SIDEWAYS", "metrics.auc DESC, x", "colours.red"])
def test_an_order_that_is_wrong_is_refused(clause):
    with pytest.raises(FilterRefused, match="order was not understood"):
        ordered(clause)


@given(st.text(alphabet="am.e'\"` =<>!(),1ANDINO"))
def test_any_text_is_read_or_refused(text):
    with suppress(FilterRefused):
        assert all(isinstance(item, Comparison) for item in parse_filter(text, entities=ENTITIES, default="attribute"))


@given(st.text(min_size=1), st.text())
def test_any_key_and_text_can_be_quoted(key, value):
    name = '"' + key.replace('"', '""') + '"'
    text = "'" + value.replace("'", "''") + "'"
    assert parsed(f"tags.{name} = {text}") == [("tag", key, "=", value)]
