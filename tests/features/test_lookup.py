"""Features looked up by hand: what they are, how old, and what is missing."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.features import worlds
from tests.features.worlds import MINUTE, START
from tests.services import redis_server
from tests.world import init
from tidemill.core.clock import ManualClock
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.datasets.versions import add
from tidemill.features.applied import apply
from tidemill.features.lookup import features_get
from tidemill.features.materialize import materialize
from tidemill.features.missing import FeaturesMissing
from tidemill.features.views import FeatureService
from tidemill.govern.workspace import Workspace
from tidemill.store.online import OnlineUnavailable

pytestmark = pytest.mark.slow  # each makes a workspace


@pytest.fixture
def world(ws: Workspace) -> Workspace:
    events = [
        worlds.event("F1", delay=3.0),
        {**worlds.event("F2", delay=5.0), "written_at": START + 9 * MINUTE, "landed_at": START + 2 * MINUTE},
    ]
    add(ws, "flights", worlds.events_table(events))
    views = [
        replace(worlds.latest_view(keys=True, ttl=timedelta(hours=1), entity=("origin", "gate")), created_timestamp="written_at"),
        worlds.window_view(keys=True),
    ]
    apply(ws, views, [FeatureService(name="delay", features=("last:*", "delays:mean_delay_3", "delays:count_all_15"))])
    ws.clock = ManualClock(START + 5 * MINUTE)
    for view in views:
        materialize(ws, view.name)
    return ws


def test_values_come_with_their_age_and_with_what_is_missing(world: Workspace) -> None:
    found = features_get(world, [{"origin": "EWR", "gate": "1"}, {"origin": "JFK", "gate": 1}, {"origin": None, "gate": 1}], "delay")
    assert (found.service, found.at) == ("delay@1", START + 5 * MINUTE)
    known, strange, nobody = found.rows
    assert known.features == {"last_delay": 3.0, "plane": "A320", "mean_delay_3": None, "count_all_15": 2.0}
    assert known.newest == {"last@1": START + MINUTE, "delays@1": START + 2 * MINUTE}  # the second flight is not written down yet
    assert known.missing == ("mean_delay_3",)
    assert strange == nobody
    assert strange.newest == {"last@1": None, "delays@1": None}
    assert strange.missing == ("last_delay", "plane", "mean_delay_3")
    assert features_get(world, [], "delay").rows == ()


def test_features_are_computed_from_what_the_row_brings(world: Workspace) -> None:
    apply(
        world,
        [],
        [FeatureService(name="now", features=("last:last_delay",), computed={"sum": "last_delay + wind"}, request={"wind": "double"})],
    )
    asked = {"origin": "EWR", "gate": "1"}
    assert features_get(world, [{**asked, "wind": "2.5"}], "now").rows[0].features == {"last_delay": 3.0, "sum": 5.5}
    with pytest.raises(Invalid, match="row 1 has no wind"):
        features_get(world, [asked], "now")
    with pytest.raises(Invalid, match="row 1 has the wind 'much'; expected a number"):
        features_get(world, [{**asked, "wind": "much"}], "now")


def test_the_caller_may_want_all_or_nothing(world: Workspace) -> None:
    asked = [{"origin": "EWR", "gate": 1}]
    assert features_get(world, asked, "delay", at=START + 2 * MINUTE, missing="fail").rows[0].missing == ()
    with pytest.raises(FeaturesMissing, match="row 1 has no mean_delay_3; push or materialize"):
        features_get(world, asked, "delay", missing="fail")


def test_what_does_not_fit_is_named(world: Workspace) -> None:
    with pytest.raises(Invalid, match=r"row 2 has no gate, which the service needs \(it has: origin\)"):
        features_get(world, [{"origin": "EWR", "gate": 1}, {"origin": "EWR"}], "delay")
    with pytest.raises(Invalid, match="expected a whole number"):
        features_get(world, [{"origin": "EWR", "gate": "one"}], "delay")


def test_a_redis_that_went_away_is_named(tmp_path: Path) -> None:
    with redis_server() as url:
        ws = init(tmp_path, online=url)
        add(ws, "flights", worlds.events_table([worlds.event("F1", delay=3.0)]))
        apply(ws, [worlds.latest_view(keys=True, ttl=None)], [FeatureService(name="delay", features=("last:*",))])
        materialize(ws, "last", START + MINUTE)
        found = features_get(ws, [{"origin": "EWR"}], "delay", at=START + MINUTE)
        assert found.rows[0].features["last_delay"] == 3.0
    with pytest.raises(OnlineUnavailable, match=rf"^online store {url} cannot be used: .*; check that it runs and the URL$"):
        features_get(ws, [{"origin": "EWR"}], "delay")
    ws.online.close()
    ws.close()
