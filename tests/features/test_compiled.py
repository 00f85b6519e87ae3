"""Expressions as functions of Python say what DuckDB says of the same row, bit for bit, or leave it to DuckDB."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.features.computed import ExpressionRefused, _by_duckdb, _without_duckdb, computed_types

TYPES = {"a": "DOUBLE", "b": "DOUBLE", "n": "BIGINT", "f": "BOOLEAN", "p": "VARCHAR", "q": "VARCHAR"}
DOUBLES = st.one_of(
    st.none(),
    st.integers(-4, 4).map(float),
    st.floats(-100, 100).map(lambda value: round(value, 2)),
    st.floats(),
    st.sampled_from([0.0, -0.0, 0.5, 1.5, 2.5, -0.5, 0.49999999999999994, 2**53 + 2.0, 1e308, 5e-324, math.inf, math.nan]),
)
WHOLES = st.one_of(st.none(), st.integers(-4, 4), st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**53 + 1, 2**31, 2**63 - 1]))
TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "A320", "a3", " x ", "ß", "É", "\U0001f1e9\U0001f1ea", "%"]), st.text(max_size=4))
ROWS = st.fixed_dictionaries({"a": DOUBLES, "b": DOUBLES, "n": WHOLES, "f": st.sampled_from([None, True, False]), "p": TEXTS, "q": TEXTS})


def joined(*parts: Any) -> st.SearchStrategy[str]:
    return st.tuples(*(part if isinstance(part, st.SearchStrategy) else st.just(part) for part in parts)).map("".join)


def deeper(inner: dict[str, st.SearchStrategy[str]]) -> dict[str, st.SearchStrategy[str]]:
    """Return expressions by kind made of simpler ones."""
    number, truth, text = inner["number"], inner["truth"], inner["text"]
    alike = st.sampled_from(["number", "truth", "text"]).flatmap(lambda kind: st.tuples(inner[kind], inner[kind], inner[kind]))

    def choosing(each: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            joined("CASE WHEN ", truth, " THEN ", each, " WHEN ", truth, " THEN ", each, " ELSE ", each, " END"),
            joined("if(", truth, ", ", each, ", ", each, ")"), joined("coalesce(", each, ", ", each, ")"),
            joined("nullif(", each, ", ", each, ")"), joined("greatest(", each, ", ", each, ")"), joined("least(", each, ", ", each, ")"),
        )  # fmt: skip

    unary = st.sampled_from(["-", "abs", "sqrt", "exp", "ln", "log", "log10", "log2", "floor", "ceil", "trunc", "round"])
    return {
        "number": st.one_of(
            number, joined("(", number, st.sampled_from([" + ", " - ", " * ", " / "]), number, ")"),
            st.tuples(unary, number).map(lambda pair: f"{pair[0]}({pair[1]})"), joined("pow(", number, ", ", number, ")"),
            joined("round(", number, ", ", st.integers(0, 4).map(str), ")"), choosing(number), joined("length(", text, ")"),
            joined("CAST(", st.one_of(number, truth), " AS ", st.sampled_from(["DOUBLE", "INTEGER", "BIGINT"]), ")"),
        ),
        "truth": st.one_of(
            truth, joined("(", truth, st.sampled_from([" AND ", " OR "]), truth, ")"), joined("(NOT ", truth, ")"), choosing(truth),
            st.tuples(alike, st.sampled_from(["=", "<>", "<", ">", "<=", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"])).map(
                lambda pair: f"({pair[0][0]} {pair[1]} {pair[0][1]})"
            ),
            alike.map(lambda parts: f"({parts[0]} BETWEEN {parts[1]} AND {parts[2]})"),
            alike.map(lambda parts: f"({parts[0]} IN ({parts[1]}, {parts[2]}))"),
            alike.map(lambda parts: f"({parts[0]} IS NULL)"), alike.map(lambda parts: f"({parts[0]} NOT IN ({parts[1]}))"),
            joined(st.sampled_from(["starts_with", "suffix", "contains"]), "(", text, ", ", text, ")"),
        ),
        "text": st.one_of(
            text, joined("(", text, " || ", text, ")"), joined("concat(", text, ", ", text, ")"), choosing(text),
            joined(st.sampled_from(["lower", "upper"]), "(", text, ")"),
        ),
    }  # fmt: skip


LEAVES = {
    "number": st.sampled_from(["a", "b", "n", "0", "1", "-2", "15.0", "0.1", "1e3", "3000000000", "9007199254740993", "NULL"]),
    "truth": st.sampled_from(["f", "true", "NULL"]),
    "text": st.sampled_from(["p", "q", "'a'", "'A320'", "''", "'it''s'"]),
}
DEEPER = deeper(deeper(LEAVES))
EXPRESSIONS = st.one_of(*(kind for each in (deeper(LEAVES), DEEPER) for kind in each.values()))


def bits(values: list[Any]) -> list[Any]:
    return [value.hex() if isinstance(value, float) else value for value in values]


def compared(expression: str, rows: list[dict[str, Any]]) -> int:
    """Hold a function against DuckDB row by row; return of how many rows it knew the answer."""
    types = {name: kind for name, kind in TYPES.items() if name in expression}
    try:
        computed_types({"x": expression}, types)
    except ExpressionRefused:
        return 0
    columns = {name: [row[name] for row in rows] for name in TYPES}
    (expected,) = _by_duckdb(columns, len(rows), {"x": expression}, types).values()
    known = 0
    for place, said in enumerate(expected):
        found = _without_duckdb({name: [column[place]] for name, column in columns.items()}, 1, {"x": expression}, types)
        if found is not None:
            known += 1
            assert bits(found["x"]) == bits([said]), (expression, rows[place])
    return known


@pytest.mark.slow
@given(EXPRESSIONS, st.lists(ROWS, min_size=1, max_size=12))
def test_a_function_says_what_duckdb_says_or_leaves_it_to_it(expression: str, rows: list[dict[str, Any]]) -> None:
    compared(expression, rows)


KNOWN = {
    "expected_delay - a": [2.0, None],
    "round(a / nullif(b, 0), 2)": [-2.0, None],
    "f OR a > 10": [True, None],
    "CASE WHEN a > 3 AND NOT f THEN upper(p) || '!' ELSE 'calm' END": ["calm", "calm"],
    "coalesce(a, -1) BETWEEN 0 AND 10.5": [True, False],
    "greatest(length(p), n) + 1": [5.0, 2**40 + 1.0],
    "CAST(a > b AS INTEGER)": [1.0, None],
    "p IN ('A320', 'B737')": [True, False],
}


@pytest.mark.parametrize("expression", KNOWN)
def test_what_is_often_asked_needs_no_duckdb(expression: str) -> None:
    rows = {"a": [4.0, None], "b": [-2.0, 0.0], "n": [3, 2**40], "f": [True, None], "p": ["A320", "x"], "expected_delay": [6.0, 1.0]}
    types = {name: kind for name, kind in {**TYPES, "expected_delay": "DOUBLE"}.items() if name in rows}
    assert _without_duckdb(rows, 2, {"x": expression}, types) == {"x": KNOWN[expression]}
    assert _by_duckdb(rows, 2, {"x": expression}, types) == {"x": KNOWN[expression]}


@pytest.mark.parametrize(
    ("expression", "row"),
    [
        ("a / b", {"a": 1.0, "b": 0.0}),
        ("a * b", {"a": 1e200, "b": 1e200}),
        ("n + n", {"n": 2**62}),
        ("upper(p)", {"p": "ß"}),
        ("a + 1", {"a": True}),
        ("a + 1", {"a": "5"}),
        ("CAST(p AS INTEGER)", {"p": "5"}),
        ("a > '5'", {"a": 6.0}),
        ("a + 1", {"a": 1.0, "A": 2.0}),
    ],
)
def test_what_is_not_certain_is_left_to_duckdb(expression: str, row: dict[str, Any]) -> None:
    types = {name: TYPES[name.lower()] for name in row}
    assert _without_duckdb({name: [value] for name, value in row.items()}, 1, {"x": expression}, types) is None
