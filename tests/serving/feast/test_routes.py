"""Feast's calls, by plain HTTP, spoken to a real worker; the answers are those of Feast's own server, recorded by `feast_peer.py`."""

import json
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.features.test_feast import PEER
from tests.serving.plant import Caller, Plant, landed_view
from tidemill.core.values import replace
from tidemill.features.on_demand import on_demand
from tidemill.features.online import ReadPlan, ViewPlan
from tidemill.features.views import Feature, FeatureService, FeatureView

pytestmark = pytest.mark.slow

FIXTURES = Path(__file__).parents[2] / "features"
CALLS = json.loads((FIXTURES / "feast" / "calls.json").read_text())
LOOK_UP = "/get-online-features"
AT = "2024-01-01T{:02}:00:00Z"
STATS = FeatureView(
    name="driver_hourly_stats", entity=("driver_id",), source="driver_push", event_timestamp="event_timestamp",
    features=(Feature(name="conv_rate"), Feature(name="trips"), Feature(name="city", kind="string"), Feature(name="active")),
)  # fmt: skip
ORDERS = FeatureView(
    name="customer_orders", entity=("customer_id",), source="orders", event_timestamp="ts", features=(Feature(name="spent", default=0.5),)
)  # fmt: skip
OLD = replace(STATS, name="old", ttl=timedelta(days=1), features=(Feature(name="conv_rate"),))
SERVICE = FeatureService(
    name="driver_activity", features=("driver_hourly_stats:conv_rate", "driver_hourly_stats:city", "customer_orders:spent")
)
WORTH = FeatureService(
    name="worth", features=("driver_hourly_stats:conv_rate",), computed={"worth": "conv_rate * fare"}, request={"fare": "double"}
)


def plan(view: FeatureView, *wanted: str, kind: Any = "long", version: int = 1) -> ViewPlan:
    names = wanted or tuple(feature.name for feature in view.features)
    told: Any = {"trips": "long", "active": "bool"} if "trips" in names else {}
    namespace = f"{view.name}/{version}"
    return ViewPlan(view=view, version=version, namespace=namespace, key_kinds=(kind,), told=told, wanted=names)


PLANS = (plan(STATS), plan(ORDERS, kind="string"), plan(OLD), replace(landed_view(name="flown", project="lab"), version=3))
SERVICES = (
    ReadPlan(
        project="default", services=("driver_activity@1",), features=("conv_rate", "city", "spent"),
        views=(plan(STATS, "conv_rate", "city"), plan(ORDERS, kind="string")),
    ),
    ReadPlan(
        project="default", services=("worth@1",), features=("conv_rate", "worth"), views=(plan(STATS, "conv_rate"),),
        on_demand=(on_demand(WORTH, {STATS.name: STATS}),), required=("conv_rate",),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    plant = Plant(tmp_path_factory.mktemp("home"), trusted_runtimes=["onnx"])
    plant.publish(views=PLANS, services=SERVICES)
    stats = {
        "driver_id": [1001, 1001, 1002, 1003], "event_timestamp": [AT.format(hour) for hour in (8, 10, 9, 9)],
        "conv_rate": [0.5, 0.75, 0.25, None], "trips": [10, 12, 3, 4], "city": ["Oslo", "Oslo", None, "Rome"],
        "active": [True, True, False, False],
    }  # fmt: skip
    orders = {"customer_id": ["a", "b"], "ts": [AT.format(9)] * 2, "spent": [10.0, 20.5]}
    with plant.worker() as found:
        for name, df in (("driver_push", stats), ("orders", orders)):
            pushed = found.post("/push", {"push_source_name": name, "df": df, "to": "online", "allow_registry_cache": True})
            assert pushed.status == 200, pushed.body
        yield found


def by_name(answer: Any) -> dict[str, Any]:
    """What an answer says of each feature; Feast names them in no order, and says PRESENT of a value that is stored and null."""
    told = {}
    for name, vector in zip(answer["metadata"]["feature_names"], answer["results"], strict=True):
        empty = [
            value is None and status in ("PRESENT", "NULL_VALUE")
            for value, status in zip(vector["values"], vector["statuses"], strict=True)
        ]
        told[name] = {**vector, "statuses": ["NULL_VALUE" if no else status for no, status in zip(empty, vector["statuses"], strict=True)]}
    return told


@pytest.mark.parametrize("call", [call for call in CALLS if call["status"] == 200], ids=lambda call: str(call["request"])[:60])
def test_callers_are_answered_as_by_feast(caller: Caller, call: Any) -> None:
    answer = caller.post(LOOK_UP, call["request"])
    assert answer.status == 200, answer.body
    expected = by_name(call["answer"])
    if "customer_orders__spent" in expected:  # ours has a default, told as missing still
        expected["customer_orders__spent"]["values"][1] = 0.5
    assert by_name(answer.json()) == expected
    kinds = [[type(value) for value in vector["values"]] for vector in by_name(answer.json()).values()]
    assert kinds == [[type(value) for value in expected[name]["values"]] for name in by_name(answer.json())]


@pytest.mark.parametrize("call", [call for call in CALLS if call["status"] != 200], ids=lambda call: str(call["request"])[:60])
def test_what_feast_refuses_is_refused_in_a_sentence(caller: Caller, call: Any) -> None:
    answer = caller.post(LOOK_UP, call["request"])
    missing = call["status"] == 404
    assert (answer.status, answer.json()["type"]) == ((404, "/problems/not-found") if missing else (400, "/problems/invalid")), answer.body


def asked(caller: Caller, features: list[str], entities: Any, **more: Any) -> Any:
    answer = caller.post(LOOK_UP, {"features": features, "entities": entities, **more})
    assert answer.status == 200, answer.body
    return answer.json()


def test_every_status_is_told(caller: Caller) -> None:
    answer = asked(caller, ["driver_hourly_stats:conv_rate"], {"driver_id": [1001, "1003", 9, None]})
    assert answer["results"][1]["statuses"] == ["PRESENT", "NULL_VALUE", "NOT_FOUND", "NOT_FOUND"]
    assert answer["results"][0]["values"] == [1001, "1003", 9, None]
    old = asked(caller, ["old:conv_rate"], {"driver_id": [1001, 9]}, include_feature_view_version_metadata=True)
    epoch = "1970-01-01T00:00:00Z"
    assert old["results"][1] == {
        "values": [None, None], "statuses": ["OUTSIDE_MAX_AGE", "NOT_FOUND"], "event_timestamps": [AT.format(10), epoch],
    }  # fmt: skip
    assert old["metadata"]["feature_view_metadata"] == [{"name": "old", "version": 1}]
    none = asked(caller, ["driver_hourly_stats:conv_rate"], {"driver_id": []})
    assert [vector["values"] for vector in none["results"]] == [[], []]


def test_two_views_may_have_features_of_one_name(caller: Caller) -> None:
    both = ["driver_hourly_stats:conv_rate", "old:conv_rate"]
    answer = asked(caller, both, {"driver_id": [1001]}, full_feature_names=True)
    assert answer["metadata"]["feature_names"] == ["driver_id", "driver_hourly_stats__conv_rate", "old__conv_rate"]
    assert [vector["values"] for vector in answer["results"][1:]] == [[0.75], [None]]
    assert "asks for two features 'conv_rate'" in caller.post(LOOK_UP, {"features": both, "entities": {}}).json()["detail"]


def test_a_service_computes_and_refuses_as_it_says(caller: Caller) -> None:
    answer = caller.post(
        LOOK_UP, {"feature_service": "worth", "entities": {"driver_id": [1001], "fare": [8.0]}, "full_feature_names": True}
    )
    told = answer.json()
    assert told["metadata"]["feature_names"] == ["driver_id", "driver_hourly_stats__conv_rate", "worth__worth"]
    assert told["results"][2] == {"values": [6.0], "statuses": ["PRESENT"], "event_timestamps": ["1970-01-01T00:00:00Z"]}
    refused = caller.post(LOOK_UP, {"feature_service": "worth", "entities": {"driver_id": [1001, 9], "fare": [8.0, 8.0]}})
    assert (refused.status, "row 2 has no conv_rate" in refused.json()["detail"]) == (400, True)
    assert "no column fare" in caller.post(LOOK_UP, {"feature_service": "worth", "entities": {"driver_id": [1001]}}).json()["detail"]


def test_another_project_stands_in_front(caller: Caller) -> None:
    answer = asked(caller, ["lab/flown:flights_2h"], {"carrier": ["UA"]}, full_feature_names=True)
    assert answer["metadata"]["feature_names"] == ["carrier", "flown__flights_2h"]
    assert answer["results"][1]["values"] == [0.0]
    both = {"features": ["lab/flown:flights_2h", "old:conv_rate"], "entities": {}}
    assert "features of several projects (default, lab)" in caller.post(LOOK_UP, both).json()["detail"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"push_source_name": "nope", "df": {"a": [1]}}, "no feature view takes events of 'nope'"),
        ({"push_source_name": "orders", "df": {"a": [1]}, "to": "moon"}, "pushed to 'moon'; expected one of: online, offline"),
        ({"push_source_name": "orders", "df": {}}, "request has no rows"),
        ({"push_source_name": "orders", "df": {"a": [1], "b": []}}, "differ in length"),
        ({"push_source_name": "orders", "df": {"ts": [AT.format(9)]}}, "have no column customer_id, spent"),
        ({"df": {"a": [1]}}, "missing required field `push_source_name`"),
    ],
)
def test_a_push_that_does_not_fit_is_refused(caller: Caller, body: Any, says: str) -> None:
    answer = caller.post("/push", body)
    assert answer.status in (400, 404), answer.body
    assert says in answer.json()["detail"]


@pytest.mark.skipif(not PEER.exists(), reason="Feast is not installed; benchmarks/features/bench_retrieval.py makes its environment")
def test_feasts_own_client_understands_the_answers(caller: Caller, tmp_path: Path) -> None:
    command = [str(PEER), str(FIXTURES / "feast_peer.py"), str(tmp_path), f"http://127.0.0.1:{caller.port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "made.json").read_text()) == {
        "driver_id": [1001, 1002, 1003, 9], "conv_rate": [0.75, 0.25, None, None], "trips": [12, 3, 4, None],
        "city": ["Oslo", None, "Rome", None], "active": [True, False, False, None],
    }  # fmt: skip
