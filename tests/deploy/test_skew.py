"""What was served is what history says: and where it is not, feature, row and both values are named."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from tests import world
from tests.deploy.worlds import Ledger, model_on
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.core.window import Window
from tidemill.datasets.versions import add, append
from tidemill.deploy.endpoints import EndpointNotFound, create_endpoint
from tidemill.deploy.skew import skew
from tidemill.features.applied import apply
from tidemill.features.definitions import compile_plan
from tidemill.features.online import push
from tidemill.features.views import Aggregation, Feature, FeatureService, FeatureView
from tidemill.govern.workspace import Workspace

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
LANDED = FeatureView(
    name="delays", entity=("carrier",), source="flights", event_timestamp="landed_at", event_key="flight",
    features=(
        Feature(name="mean_3h", aggregation=Aggregation(function="mean", column="delay", window=3 * HOUR)),
        Feature(name="flights_3h", aggregation=Aggregation(function="count", window=3 * HOUR)),
    ),
)  # fmt: skip
LAST = FeatureView(
    name="last", entity=("carrier",), source="flights", event_timestamp="landed_at", event_key="flight",
    features=(Feature(name="plane", kind="string"),),
)  # fmt: skip
SERVICE = FeatureService(
    name="delay",
    features=("delays:*", "last:*"),
    computed={"worse": "expected > coalesce(mean_3h, 0)", "route": "plane || '/' || carrier"},
    request={"expected": "double", "carrier": "string"},
)


def flight(ws: Workspace, number: int) -> dict[str, Any]:
    """A flight that lands now, and left two hours ago."""
    now = ws.clock.now()
    carrier = ("UA", "AA")[number % 2]
    return {
        "flight": f"F{number}",
        "carrier": carrier,
        "left_at": now - 2 * HOUR,
        "landed_at": now,
        "delay": number / 7,
        "plane": f"N{number % 3}",
    }


@contextmanager
def serving(ws: Workspace, *views: FeatureView) -> Iterator[Ledger]:
    """Ten hours of landings, each pushed as it comes, and three answers each half an hour by what the online store said then."""
    flights = [flight(ws, 0)]
    add(ws, "flights", pa.Table.from_pylist(flights))
    apply(ws, views, [SERVICE])
    plan = compile_plan(ws, "delay")
    model_on(ws, "delay@1")
    create_endpoint(ws, "delay", "delay@1")
    ledger = Ledger(ws)
    for number in range(1, 21):
        for view in plan.views:
            push(ws.online, view, {name: [value] for name, value in flights[-1].items()}, now=ws.clock.now())
        for carrier in ("UA", "AA", "ZZ"):
            brought = {"carrier": carrier, "expected": number / 14}
            told = plan.read(ws.online, {name: [value] for name, value in brought.items()}, ws.clock.now())
            ledger.predict({f"{carrier}{number}": 0.5}, **brought, **{name: values.tolist()[0] for name, values in told.items()})
        world.tick(ws, hours=0.5)
        flights.append(flight(ws, number))
    append(ws, "flights", pa.Table.from_pylist(flights[1:]))
    yield ledger
    ledger.close()


@pytest.fixture
def served(ws: Workspace) -> Iterator[Workspace]:
    with serving(ws, LANDED, LAST):
        yield ws


def test_what_was_served_is_what_history_says(served: Workspace) -> None:
    found = skew(served, "delay")
    assert (found.compared, found.mismatches, found.left_out) == (60, 0, {})
    assert [(each.view, each.feature, each.rows) for each in found.features] == [
        ("delays@1", "flights_3h", 60), ("delays@1", "mean_3h", 60), ("last@1", "plane", 60),
        ("delay@1", "route", 60), ("delay@1", "worse", 60),
    ]  # fmt: skip
    assert skew(served, "delay", last=7).compared == 7
    now = served.clock.now()
    assert skew(served, "delay", window=Window(start=now - HOUR, end=now)).compared == 6


def test_a_feature_that_looks_into_the_future_is_named_with_the_row_and_both_values(ws: Workspace) -> None:
    leaking = replace(LANDED, event_timestamp="left_at")  # counts flights that are still in the air
    with serving(ws, leaking, LAST):
        found = skew(ws, "delay")
    wrong = {each.feature: each for each in found.features if each.mismatches}
    assert set(wrong) == {"mean_3h", "flights_3h", "worse"}  # the last one is computed of the first
    assert wrong["worse"].examples[0].entity.keys() == {"carrier", "expected"}
    first = wrong["flights_3h"].examples[0]
    assert (first.entity, first.served, first.history) == ({"carrier": "UA"}, 1.0, 3.0)  # F2 and F4 had left, and had not landed
    assert found.features[0].mismatches >= found.features[1].mismatches > found.features[-1].mismatches == 0


def test_rows_of_which_the_truth_is_not_known_yet_are_counted_apart(ws: Workspace) -> None:
    with serving(ws, LANDED, LAST) as ledger:
        world.tick(ws, hours=1)
        ledger.predict({"later": 0.5}, carrier="UA", expected=0.5, mean_3h=1.0, flights_3h=1.0, plane="N1", worse=0.0, route="N1/UA")
        found = skew(ws, "delay")
        assert skew(ws, "delay", complete=True).compared == 61
    ((why, number),) = found.left_out.items()
    assert (found.compared, number, found.mismatches) == (60, 1, 0)
    assert why.startswith("the datasets end at 2013-")


def test_bad_questions_are_refused(served: Workspace) -> None:
    for more in ({"last": 0}, {"tolerance": -1.0}):
        with pytest.raises(Invalid, match="at least one prediction"):
            skew(served, "delay", **more)
    with pytest.raises(EndpointNotFound):
        skew(served, "nothing")
