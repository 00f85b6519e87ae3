"""Features computed from the asking row and from other features: one truth in history, in files and online."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.features import worlds
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.datasets.versions import add
from tidemill.features.applied import apply, plan
from tidemill.features.computed import ExpressionRefused
from tidemill.features.definitions import PlansCollide, compile_plan, read_service
from tidemill.features.history import history, history_to
from tidemill.features.materialize import materialize
from tidemill.features.on_demand import on_demand
from tidemill.features.views import FeatureService
from tidemill.govern.workspace import Workspace

LAST = worlds.latest_view(keys=True, ttl=None)
SERVICE = FeatureService(
    name="delay",
    features=("last:*",),
    computed={
        "worse": "expected_delay > coalesce(last_delay, 0)",
        "gap": "expected_delay - last_delay",
        "gap_squared": "gap * gap",
        "kind": "CASE WHEN worse THEN plane || note ELSE 'calm' END",
    },
    request={"expected_delay": "double", "note": "string"},
)
COMPUTED = tuple(sorted(SERVICE.computed))


def asking(minute: int = 30) -> pa.Table:
    rows = worlds.entity_table([("EWR", 1, minute), ("EWR", 1, minute), ("JFK", 1, minute), (None, 1, minute)])
    return rows.append_column("expected_delay", pa.array([12, None, 5, 1])).append_column("note", pa.array(["!", "?", None, "."]))


def service(**changes: Any) -> FeatureService:
    return replace(SERVICE, **changes)


@pytest.mark.slow
def test_a_row_gets_the_same_wherever_it_asks(ws: Workspace, tmp_path: Path) -> None:
    add(ws, "flights", worlds.events_table([worlds.event("F1", delay=7.5)]))
    apply(ws, [LAST], [SERVICE])
    assert read_service(ws, "delay").feature_names == ("last_delay", "plane", *COMPUTED)
    found = history(ws, asking(), "delay", timestamp="at")
    assert found.column_names == [*asking().column_names, "last_delay", "plane", *COMPUTED]
    assert found["kind"].to_pylist() == ["A320!", "calm", None, None]
    np.testing.assert_equal(found["worse"].to_numpy(), [1, np.nan, 1, 1])
    np.testing.assert_equal(found["gap_squared"].to_numpy(), [4.5**2, np.nan, np.nan, np.nan])
    history_to(ws, asking(), "delay", tmp_path / "made.parquet", timestamp="at")
    assert repr(pq.read_table(tmp_path / "made.parquet").to_pylist()) == repr(found.to_pylist())
    materialize(ws, "last", until=worlds.START + worlds.MINUTE)
    keys = {name: asking()[name].to_pylist() for name in ("origin", "expected_delay", "note")}
    online = compile_plan(ws, "delay").read(ws.online, keys, worlds.START + 30 * worlds.MINUTE)
    assert list(online) == ["last_delay", "plane", *COMPUTED]
    assert repr({name: values.tolist() for name, values in online.items()}) == repr(found.select(list(online)).to_pydict())


@pytest.mark.slow
def test_a_changed_expression_is_a_new_version_that_is_not_read_beside_the_old(ws: Workspace) -> None:
    add(ws, "flights", worlds.events_table([]))
    apply(ws, [LAST], [SERVICE])
    other = service(computed={**SERVICE.computed, "gap": "last_delay - expected_delay"})
    assert plan(ws, [], [other]).changes[0].what == ("computed: gap",)
    apply(ws, [], [other])
    assert compile_plan(ws, "delay").features == compile_plan(ws, "delay@1").features
    with pytest.raises(PlansCollide, match="'gap' would come from expected_delay - last_delay and from last_delay - expected_delay"):
        compile_plan(ws, "delay@1", "delay@2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"computed": {"a": "last_dely + 1"}}, "'last_dely' is not a column .there are: expected_delay, last_delay, note, plane"),
        ({"computed": {"a": "plane - 1"}}, "computed column 'a' is 'plane - 1': (Binder|Conversion)"),
        ({"computed": {"plane": "note"}}, "there is a column of that name"),
        ({"computed": {"a": "b", "b": "a"}}, "reads itself"),
        ({"request": {"plane": "string"}, "computed": {}}, "looks plane up; a column of the request needs another name"),
    ],
)
def test_what_does_not_fit_the_views_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((Invalid, ExpressionRefused), match=message):
        on_demand(service(**changes), {"last": LAST})


def test_rows_that_do_not_bring_what_is_asked_for_are_refused() -> None:
    made = on_demand(SERVICE, {"last": LAST})
    row: dict[str, Any] = {"last_delay": [1.0], "plane": ["A320"], "expected_delay": [2.0], "note": ["!"]}
    assert made.values(row)["kind"].tolist() == ["A320!"]
    with pytest.raises(Invalid, match="no column note, of which worse, gap, gap_squared, kind are computed"):
        made.values({name: row[name] for name in row if name != "note"})
    with pytest.raises(Invalid, match="column 'expected_delay' of the rows holds what is not of kind double"):
        made.values({**row, "expected_delay": ["much"]})
