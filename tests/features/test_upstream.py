"""Features whose source is empty, gone, or not what it was, and rows that lie ahead: one sentence, or a right answer."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from tests.features import worlds
from tests.features.test_history import SERVICE, flights
from tests.features.worlds import MINUTE, START
from tidemill.core.errors import Invalid, NotFound
from tidemill.datasets.trash import delete_versions
from tidemill.datasets.versions import add
from tidemill.features.applied import apply
from tidemill.features.history import history
from tidemill.features.lookup import features_get
from tidemill.features.materialize import materialize
from tidemill.features.views import Feature, FeatureView
from tidemill.govern.workspace import Workspace

pytestmark = pytest.mark.slow  # each makes a workspace

ROWS = worlds.entity_table([("JFK", 1, 30)])
KEYS = [{"origin": "JFK", "gate": 1}]


@pytest.fixture
def world(ws: Workspace) -> Workspace:
    add(ws, "flights", flights(0, 40))
    apply(ws, [worlds.window_view(keys=True), worlds.latest_view(keys=True, ttl=10 * MINUTE)], [SERVICE])
    return ws


def test_an_empty_source_has_no_values_and_loses_no_row(ws: Workspace) -> None:
    add(ws, "flights", flights(0, 40).slice(0, 0))
    apply(ws, [worlds.window_view(keys=True), worlds.latest_view(keys=True, ttl=10 * MINUTE)], [SERVICE])
    found = history(ws, ROWS, "delay", timestamp="at").to_pylist()
    assert [(row["plane"], row["count_all_15"]) for row in found] == [(None, 0)]
    assert materialize(ws, "last", START).stored == 0
    assert features_get(ws, KEYS, "delay").rows[0].features["plane"] is None


def test_a_source_that_vanished_is_named(world: Workspace) -> None:
    delete_versions(world, "flights", force=True)
    with pytest.raises(NotFound, match=r"there is no dataset 'flights'"):
        history(world, ROWS, "delay", timestamp="at")
    with pytest.raises(NotFound, match=r"there is no dataset 'flights'"):
        materialize(world, "last", START)


def test_a_source_whose_types_changed_is_refused_with_the_column(world: Workspace) -> None:
    rows = flights(0, 40)
    text = pa.array([f"about {value}" for value in rows["delay"].to_pylist()])
    add(world, "flights", rows.set_column(rows.schema.get_field_index("delay"), "delay", text))
    with pytest.raises(Invalid, match="delay"):
        history(world, ROWS, "delay", timestamp="at")
    with pytest.raises(Invalid, match="delay"):
        materialize(world, "delays", START + timedelta(hours=1))


def test_events_that_lie_ahead_do_not_count_and_rows_that_do_are_answered(world: Workspace) -> None:
    late = worlds.entity_table([("JFK", 1, 10), ("JFK", 1, 10_000_000)])
    found = history(world, late, "delay", timestamp="at").to_pylist()
    assert [row["count_all_15"] for row in found] == [4, 0]
    assert materialize(world, "delays", START + 10 * MINUTE).stored < 40
    answered = features_get(world, KEYS, "delay", at=START + 10 * MINUTE)
    assert answered.rows[0].features["count_all_15"] == 4.0


def test_keys_that_may_be_nan_are_refused_when_applied(ws: Workspace) -> None:
    rows = pa.table({"plane": [1.0, np.nan, None], "at": [START] * 3})
    add(ws, "planes", rows)
    view = FeatureView(name="by_plane", entity=("plane",), source="planes", event_timestamp="at", features=(Feature(name="plane"),))
    with pytest.raises(Invalid, match="join key 'plane' is of type double; expected text or whole numbers"):
        apply(ws, [view], [])
