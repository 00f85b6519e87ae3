"""Differences between versions: files, columns, rows and distributions, held against a comparison by hand."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import world
from tidemill.core.errors import Invalid
from tidemill.datasets.diff import diff_versions
from tidemill.datasets.versions import add
from tidemill.govern.workspace import Workspace
from tidemill.stats.drift import psi, quantile_edges


def test_a_diff_names_what_changed_by_key(ws: Workspace) -> None:
    add(ws, "t", pa.table({"id": [1, 2, 3, 4], "x": [1.0, 2.0, None, 4.0], "gone": ["a"] * 4, "kind": [1, 2, 3, 4]}))
    add(ws, "t", pa.table({"id": [2, 3, 4, 5], "x": [2.5, None, 4.0, 5.0], "new": [True] * 4, "kind": ["2", "3", "x", "5"]}))
    found = diff_versions(ws, "t@1", "t@2", key=["id"])
    assert [(change.column, change.before, change.after) for change in found.columns] == [
        ("gone", "string", None), ("kind", "int64", "string"), ("new", None, "bool"),
    ]  # fmt: skip
    rows = found.rows
    assert rows is not None
    assert (rows.added, rows.removed, rows.changed) == (1, 1, 2)
    assert {(each.change, (each.after or each.before or {})["id"]) for each in rows.examples} == {
        ("added", "5"), ("removed", "1"), ("changed", "2"), ("changed", "4"),
    }  # fmt: skip
    (two,) = (each for each in rows.examples if each.change == "changed" and (each.before or {})["id"] == "2")
    assert (two.before, two.after) == ({"id": "2", "x": "2.0"}, {"id": "2", "x": "2.5"})
    moves = {move.column: move for move in found.moves}
    assert (moves["x"].changed, moves["kind"].changed, moves["x"].missing_before) == (1, 1, 0.25)
    assert moves["id"].changed is None


def test_without_a_key_rows_are_what_they_say(ws: Workspace) -> None:
    add(ws, "t", pa.table({"x": [1, 1, 2], "y": ["a", "a", None]}))
    add(ws, "t", pa.table({"x": [1, 2, 3], "y": ["a", None, "c"]}))
    rows = diff_versions(ws, "t@1", "t@2").rows
    assert rows is not None
    assert (rows.added, rows.removed, rows.changed) == (1, 1, None)


def test_moments_with_a_zone_are_told_in_utc(ws: Workspace) -> None:
    at = [datetime(2013, 1, 1, 5, tzinfo=UTC), datetime(2013, 1, 2, tzinfo=UTC)]
    kind = pa.timestamp("us", tz="America/New_York")
    add(ws, "t", pa.table({"id": [1, 2], "at": pa.array(at, kind)}))
    add(ws, "t", pa.table({"id": [1, 3], "at": pa.array(at[::-1], kind)}))
    for key in (["id"], []):
        rows = diff_versions(ws, "t@1", "t@2", key=key).rows
        assert rows is not None
        assert "2013-01-01 05:00:00+00" in {(each.after or {}).get("at") for each in rows.examples}
    add(ws, "u", pa.table({"at": pa.array(at[:1] * 2, kind)}))
    with pytest.raises(Invalid, match=r"at = 2013-01-01 05:00:00\+00"):
        diff_versions(ws, "u@1", "u@1", key=["at"])


def test_distances_are_those_of_stats(ws: Workspace) -> None:
    draw = np.random.default_rng(0)
    old, new = draw.normal(size=500), draw.normal(1, 2, size=400)
    add(ws, "t", pa.table({"x": old, "c": ["a"] * 400 + ["b"] * 100, "l": [[1]] * 500}))
    add(ws, "t", pa.table({"x": new, "c": ["a"] * 400, "l": [[1]] * 400}))
    moves = {move.column: move.psi for move in diff_versions(ws, "t@1", "t@2").moves}
    assert moves["x"] == pytest.approx(psi(old, new, edges=quantile_edges(old)))
    assert moves["c"] is not None
    assert moves["c"] > 0.1
    assert moves["l"] is None


def test_files_are_told_by_name(ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
    add(ws, "files", folder)
    (folder / "a").write_text("other")
    (folder / "b").unlink()
    (folder / "d").write_text("d")
    add(ws, "files", folder)
    found = diff_versions(ws, "files@1", "files@2")
    assert (found.files_added, found.files_removed, found.files_changed, found.files_same) == (("d",), ("b",), ("a",), 1)
    assert (found.rows, found.same) == (None, False)
    assert diff_versions(ws, "files@1", "files@1").same


def test_a_key_that_does_not_tell_rows_apart_is_refused(ws: Workspace) -> None:
    add(ws, "t", pa.table({"id": [1, 1]}))
    add(ws, "t", pa.table({"id": [1, 2]}))
    with pytest.raises(Invalid, match=r"key id stands more than once in t@1 \(id = 1\)"):
        diff_versions(ws, "t@1", "t@2", key=["id"])
    with pytest.raises(Invalid, match=r"key 'no' is not a column of both versions \(they share: id\)"):
        diff_versions(ws, "t@1", "t@2", key=["no"])


ROWS = st.dictionaries(st.integers(0, 8), st.tuples(st.sampled_from([None, 0.0, 1.5]), st.sampled_from([None, "a", "'\""])), min_size=1)


@pytest.mark.slow
@given(ROWS, ROWS)
def test_counts_are_those_by_hand(tmp_path_factory: pytest.TempPathFactory, old: dict[int, Any], new: dict[int, Any]) -> None:
    with world.workspace(tmp_path_factory.mktemp("diff")) as ws:
        for rows in (old, new):
            columns = {"id": list(rows), "x": [x for x, _ in rows.values()], "y\"'": [y for _, y in rows.values()]}
            kinds = pa.schema({"id": pa.int64(), "x": pa.float64(), "y\"'": pa.string()})
            version = add(ws, "t", pa.table(columns, schema=kinds))
        last = f"t@{version.version}"
        by_key, by_content = diff_versions(ws, "t@1", last, key=["id"]).rows, diff_versions(ws, "t@1", last).rows
    assert by_key is not None
    assert by_content is not None
    assert (by_key.added, by_key.removed) == (len(new.keys() - old.keys()), len(old.keys() - new.keys()))
    assert by_key.changed == sum(old[key] != new[key] for key in old.keys() & new.keys())
    before, after = (Counter((key, *row) for key, row in rows.items()) for rows in (old, new))
    assert (by_content.added, by_content.removed) == ((after - before).total(), (before - after).total())
