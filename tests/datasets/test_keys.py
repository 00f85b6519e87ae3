"""Keys: a row that is there is known in every version that has it, however it came in."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from tests import world
from tidemill.core.errors import Invalid
from tidemill.datasets.intake import RowsRefused, append
from tidemill.datasets.keys import KEY_PARTS, KeySet, already_there, first_ones, hashes_of, list_keys, read_key, set_key
from tidemill.datasets.keys import _among as among
from tidemill.datasets.versions import add, open_table, paths, read_version
from tidemill.datasets.versions import append as append_whole
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace


def rows(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), "x": [f"x{id_}" for id_ in ids]})


def test_a_key_is_said_once_and_stays(any_ws: Workspace) -> None:
    add(any_ws, "flights", world.flights())
    assert read_key(any_ws, "flights") is None
    with pytest.raises(Invalid, match="has no column flight to tell rows apart by"):
        set_key(any_ws, "flights", ["flight"])
    with pytest.raises(Invalid, match="expected one column or several distinct ones"):
        set_key(any_ws, "flights", ["id", "id"])
    made = set_key(any_ws, "flights", ["id", "carrier"])
    assert set_key(any_ws, "flights", ["id", "carrier"]) == made == read_key(any_ws, "flights")
    with pytest.raises(KeySet, match="are told apart by id, carrier, and were since the first"):
        set_key(any_ws, "flights", ["id"])
    assert [key.dataset for key in list_keys(any_ws)] == ["flights"]
    with pytest.raises(ActionRefused, match=r"datasets\.write"):
        set_key(world.acting(any_ws, "vic", "viewer"), "flights", ["id"])


def test_a_row_that_is_there_is_not_added_again_whichever_way_it_came(any_ws: Workspace) -> None:
    set_key(any_ws, "events", ["id"])
    add(any_ws, "events", rows(1, 2))
    taken = append(any_ws, "events", rows(2, 3, 3, 4))
    assert (taken.new, taken.duplicates, taken.version and taken.version.rows) == (2, 2, 4)
    append_whole(any_ws, "events", rows(5))  # as those do who do not ask
    again = append(any_ws, "events", rows(5, 1))
    assert (again.new, again.duplicates, again.version and again.version.version) == (0, 2, 3)
    add(any_ws, "events", rows(1))  # a version of other content: what it has not may come again
    assert append(any_ws, "events", rows(1, 2)).new == 1


def test_a_row_without_its_key_is_nobody_s(ws: Workspace) -> None:
    set_key(ws, "events", ["at"])
    for nothing in (None, math.nan):
        with pytest.raises(RowsRefused, match="row 2: column 'at' is null"):
            append(ws, "events", pa.table({"at": pa.array([1.5, nothing], pa.float64())}))


def test_the_first_good_row_of_a_key_stays(ws: Workspace) -> None:
    set_key(ws, "events", ["id"])
    append(ws, "events", pa.table({"id": [1], "x": ["first"]}))
    append(ws, "events", pa.table({"id": [1, 2, 2], "x": ["late", "one", "other"]}))
    assert open_table(ws, "events").to_pylist() == [{"id": 1, "x": "first"}, {"id": 2, "x": "one"}]


def test_what_is_known_of_files_goes_with_them(ws: Workspace) -> None:
    set_key(ws, "events", ["id"])
    for number in range(40):
        append(ws, "events", rows(number, number + 1))
    assert open_table(ws, "events")["id"].to_pylist() == list(range(41))
    with ws.catalog.reading() as tx:
        known = tx.execute(select(KEY_PARTS.c.part)).scalars().all()
    assert len(known) <= len(paths(ws, "events")) + 8
    for row in (0, 20, 40):
        assert append(ws, "events", rows(row)).new == 0


def test_a_key_of_several_columns_and_kinds(ws: Workspace) -> None:
    table = pa.table(
        {
            "a": pa.array(["x", "x", None, "y"]).dictionary_encode(),
            "b": pa.array([0, 1, 2, 0], pa.timestamp("ns", tz="UTC")),
            "c": pa.array([1, 1, 1, 1], pa.date32()),
        }
    )
    hashes = hashes_of(table, ["a", "b", "c"])
    assert first_ones(hashes).all()
    add(ws, "events", table)
    assert already_there(ws, read_version(ws, "events"), ["a", "b", "c"], hashes).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4))))
def test_a_hash_is_found_where_it_stands_and_nowhere_else(there: list[tuple[int, int]], asked: list[tuple[int, int]]) -> None:
    words = np.array(sorted(there), dtype=np.uint64).reshape(-1, 2)
    found = among(np.array(asked, dtype=np.uint64).reshape(-1, 2), words)
    assert found.tolist() == [pair in set(there) for pair in asked]
