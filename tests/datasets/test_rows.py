"""Rows as they arrive: what fits is of the dataset's types, what does not is told with its reason, and nothing is changed in silence."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.errors import Invalid
from tidemill.datasets.rows import from_records, from_table, read_record, read_rows, schema_of

MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema([("id", pa.int64()), ("at", MOMENT), ("x", pa.float64()), ("late", pa.bool_()), ("who", pa.string())])
GOOD = {"id": 1, "at": "2013-06-01T12:00:00Z", "x": 1, "late": None, "who": "UA"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "it is list; expected an object"),
        ({**GOOD, "more": 1}, "it has more, which the dataset has not"),
        ({"id": 1}, "it lacks at, late, who, x"),
        ({**GOOD, "id": 1.5}, "column 'id' is 1.5; expected int64, or null"),
        ({**GOOD, "id": True}, "column 'id' is true"),
        ({**GOOD, "id": 2**64}, "column 'id' is 18446744073709551616"),
        ({**GOOD, "x": "3"}, "column 'x' is \"3\"; expected double"),
        ({**GOOD, "x": True}, "column 'x' is true"),
        ({**GOOD, "late": 1}, "column 'late' is 1"),
        ({**GOOD, "who": 7}, "column 'who' is 7"),
        ({**GOOD, "at": "2013-06-01T12:00:00"}, "expected a moment such as 2013-06-01T12:00:00Z"),
        ({**GOOD, "at": 0}, "column 'at' is 0"),
        (read_record(b"{"), "it is not valid JSON"),
        (read_record(b"\xff"), "it is not valid JSON"),
        ({}, "it lacks at"),
    ],
)
def test_what_does_not_fit_is_told_and_the_others_go_in(row: Any, reason: str) -> None:
    fitted = from_records([GOOD, row, {**GOOD, "id": 2.0, "at": "2013-06-01T14:00:00+02:00"}], SCHEMA)
    assert fitted.table.schema == SCHEMA
    assert fitted.table["id"].to_pylist() == [1, 2]
    assert fitted.table["at"].to_pylist() == [datetime(2013, 6, 1, 12, tzinfo=UTC)] * 2
    assert fitted.numbers == [0, 2]
    (misfit,) = fitted.misfits
    assert misfit.row == 1
    assert reason in misfit.reason


def test_the_first_rows_of_a_new_dataset_decide_its_types() -> None:
    rows = [
        read_record(b"?"),
        {"other": 1},
        {"id": 1, "at": GOOD["at"], "x": 1},
        {"id": 2, "at": None, "x": 2.5},
        {"id": "c", "at": None, "x": None},
    ]
    fitted = from_records(rows, None, needed=["id"])
    assert fitted.table.schema == pa.schema([("id", pa.int64()), ("at", MOMENT), ("x", pa.float64())])
    assert (fitted.numbers, [misfit.row for misfit in fitted.misfits]) == ([2, 3], [0, 1, 4])
    assert schema_of([{"a": None}]) == pa.schema([("a", pa.string())])
    assert [misfit.row for misfit in from_records([{}, {"a": 1}], None, needed=["id"]).misfits] == [0, 1]


def test_a_table_of_nearly_the_types_is_read_row_by_row_only_where_it_must() -> None:
    schema = pa.schema([("id", pa.int64()), ("x", pa.int64())])
    assert from_table(pa.table({"x": [1.0], "id": pa.array([1], pa.int32())}), schema).table.to_pylist() == [{"id": 1, "x": 1}]
    fitted = from_table(pa.table({"id": [1, 2], "x": [1.5, 2.0]}), schema)
    assert (fitted.table.to_pylist(), fitted.misfits[0].reason) == ([{"id": 2, "x": 2}], "column 'x' is 1.5; expected int64, or null")


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just(GOOD["at"]), st.lists(st.integers(), max_size=2)
)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(SCHEMA.names, VALUES)), max_size=12))
def test_each_row_is_in_the_table_or_told_and_none_is_changed(rows: list[dict[str, Any]]) -> None:
    fitted = from_records(rows, SCHEMA)
    assert sorted([*fitted.numbers, *(misfit.row for misfit in fitted.misfits)]) == list(range(len(rows)))
    for number, row in zip(fitted.numbers, fitted.table.to_pylist(), strict=True):
        for name in ("id", "x", "late", "who"):
            assert row[name] == rows[number][name] or row[name] != row[name]


def test_a_body_says_by_itself_what_it_is(tmp_path: Path) -> None:
    body, table = tmp_path / "body", pa.table({"a": [1, 2]})
    pq.write_table(table, body)
    assert read_rows(body).equals(table)
    with pa.OSFile(str(body), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    assert read_rows(body).equals(table)
    body.write_text("a\n1\n2\n")
    assert read_rows(body, "csv").equals(table)
    for text in (json.dumps(table.to_pylist()), '{"a": 1}\n\n{"a": 2}\n'):
        body.write_text(text)
        assert read_rows(body) == table.to_pylist()
    for text, says in (
        ("[", "the body is not valid JSON"),
        ('{"a": 1}\n{', "line 2 is not valid JSON"),
        ("[]", "there are no rows"),
        ("", "no rows"),
    ):
        body.write_text(text)
        with pytest.raises(Invalid, match=says):
            read_rows(body)
    body.write_bytes(b"PAR1 but not really")
    with pytest.raises(Invalid, match="could not be read as parquet"):
        read_rows(body)
