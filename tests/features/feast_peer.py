"""A feature repository made by Feast itself, in an environment of its own. `python feast_peer.py FOLDER` writes its registry, and what its
server answers, to made.json in the folder; `python feast_peer.py FOLDER URL` what Feast's own client is answered by the server at URL.
"""

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import uvicorn
from feast import (
    BigQuerySource,
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RepoConfig,
    RequestSource,
)
from feast.feature_server import get_app
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Bytes, Float64, Int64, String

DAY = timedelta(days=1)
FEATURES = [f"driver_hourly_stats:{name}" for name in ("conv_rate", "city", "trips", "active")]
ASKED = [
    {"features": FEATURES, "entities": {"driver_id": [1001, 1002, 1003, 9]}},
    {
        "features": ["driver_hourly_stats:conv_rate", "customer_orders:spent"],
        "entities": {"driver_id": [1001, 9], "customer_id": ["a", "z"]},
        "full_feature_names": True,
    },
    {"feature_service": "driver_activity", "entities": {"driver_id": [1001], "customer_id": ["a"]}},
    {"features": FEATURES[:1], "entities": {"driver_id": [1001], "extra": [1]}},
]
REFUSED = [
    {"features": ["driver_hourly_stats:nope"], "entities": {"driver_id": [1001]}},
    {"features": ["nope:conv_rate"], "entities": {"driver_id": [1001]}},
    {"features": FEATURES[:1], "entities": {"driver_id": ["x"]}},
    {"features": FEATURES[:1], "entities": {}},
    {"features": [], "entities": {"driver_id": [1001]}},
    {"feature_service": "none", "entities": {"driver_id": [1001]}},
    {"features": FEATURES[:1] * 2, "entities": {"driver_id": [1001]}},
    {"features": FEATURES[:1], "entities": {"driver_id": [1001, 1002], "customer_id": ["a"]}},
]


def at(hour: int) -> datetime:
    return datetime(2024, 1, 1, hour, tzinfo=UTC)


def write_files(folder: Path) -> None:
    pd.DataFrame(
        {
            "driver_id": [1001, 1001, 1002, 1003],
            "event_timestamp": [at(8), at(10), at(9), at(9)],
            "created": [at(8), at(10), at(9), at(9)],
            "conv_rate": [0.5, 0.75, 0.25, float("nan")],
            "acc_rate": [0.9, 0.95, 0.8, 0.7],
            "trips": [10, 12, 3, 4],
            "city": ["Oslo", "Oslo", None, "Rome"],
            "active": [True, True, False, False],
        }
    ).to_parquet(folder / "driver_stats.parquet")
    pd.DataFrame({"customer_id": ["a", "b"], "ts": [at(9), at(9)], "spent": [10.0, 20.5]}).to_parquet(folder / "orders.parquet")
    rated = [each.replace(tzinfo=None) for each in (at(7), at(8))]  # Feast takes these for UTC
    pd.DataFrame({"who": [1001, 1002], "rated": rated, "s": [4.5, 3.0], "photo": [b"1", b"2"]}).to_parquet(folder / "ratings.parquet")


def define(store: FeatureStore, folder: Path) -> None:
    driver = Entity(name="driver", join_keys=["driver_id"], description="A driver", owner="rides@example.com", tags={"team": "rides"})
    customer = Entity(name="customer", join_keys=["customer_id"])
    stats = FileSource(
        name="driver_stats_source", path=str(folder / "driver_stats.parquet"), timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )  # fmt: skip
    pushed = PushSource(name="driver_push", batch_source=stats)
    orders = FileSource(name="orders", path=str(folder / "orders.parquet"), timestamp_field="ts", description="What was ordered")
    ratings = FileSource(
        name="ratings", path=str(folder / "ratings.parquet"), timestamp_field="rated", field_mapping={"s": "stars", "who": "driver_id"},
        tags={"source": "app"},
    )  # fmt: skip
    gone = FileSource(name="gone", path=str(folder / "gone.parquet"), timestamp_field="ts")
    fields = {"conv_rate": Float64, "acc_rate": Float64, "trips": Int64, "city": String, "active": Bool}
    told = [Field(name="driver_id", dtype=Int64), *(Field(name=n, dtype=kind, description=f"The {n}") for n, kind in fields.items())]
    hourly = FeatureView(
        name="driver_hourly_stats", entities=[driver], ttl=DAY, source=pushed, owner="rides@example.com", description="Hourly stats",
        schema=[*told],
        tags={"team": "rides", "tier": "gold"},
    )  # fmt: skip
    spent = FeatureView(name="customer_orders", entities=[customer], source=orders, schema=[Field(name="spent", dtype=Float64)])
    rated = FeatureView(
        name="driver_ratings", entities=[driver], ttl=7 * DAY, source=ratings,
        schema=[Field(name="driver_id", dtype=Int64), Field(name="stars", dtype=Float64), Field(name="photo", dtype=Bytes)],
    )  # fmt: skip
    lost = FeatureView(name="lost", entities=[driver], source=gone, schema=[Field(name="x", dtype=Float64)])
    cloud = BigQuerySource(name="cloud", table="a.b.c", timestamp_field="ts")
    far = FeatureView(name="far", entities=[driver], source=cloud, schema=[Field(name="x", dtype=Float64)])
    asked = RequestSource(name="vals", schema=[Field(name="val", dtype=Int64)])

    @on_demand_feature_view(sources=[hourly, asked], schema=[Field(name="conv_plus", dtype=Float64)], mode="pandas")
    def transformed(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"conv_plus": inputs["conv_rate"] + inputs["val"]})

    activity = FeatureService(
        name="driver_activity", features=[hourly[["conv_rate", "city"]], spent], description="For the model", owner="ml@example.com",
        tags={"use": "eta"},
    )  # fmt: skip
    services = [
        activity,
        FeatureService(name="with_code", features=[hourly, transformed]),
        FeatureService(name="renamed", features=[hourly.with_name("d")[["trips"]]]),
        FeatureService(name="by_other_key", features=[hourly.with_join_key_map({"driver_id": "rider_id"})[["trips"]]]),
    ]
    store.apply([driver, customer, stats, pushed, orders, ratings, hourly, spent, rated, transformed, *services])
    for source, view in ((gone, lost), (cloud, far)):  # past Feast's own look at files and clouds
        store.registry.apply_data_source(source, store.project)
        store.registry.apply_feature_view(view, store.project)


def answers(store: FeatureStore) -> list[dict[str, object]]:
    store.materialize(at(0) - DAY, at(23), feature_views=["driver_hourly_stats", "customer_orders"])
    server = uvicorn.Server(uvicorn.Config(get_app(store), port=0, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    told = []
    for body in ASKED + REFUSED:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/get-online-features", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as answer:
                told.append({"request": body, "status": answer.status, "answer": json.load(answer)})
        except urllib.error.HTTPError as error:
            told.append({"request": body, "status": error.code})
    server.should_exit = True
    return told


def store(place: Path, online: dict[str, object]) -> FeatureStore:
    write_files(place)
    config = RepoConfig(
        project="ride", registry=str(place / "registry.db"), provider="local", offline_store={"type": "file"}, online_store=online,
        entity_key_serialization_version=3,
    )  # fmt: skip
    made = FeatureStore(config=config)
    define(made, place)
    return made


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if sys.argv[2:]:
        asking = store(folder, {"type": "remote", "path": sys.argv[2]})
        told = asking.get_online_features(features=FEATURES, entity_rows=[{"driver_id": driver} for driver in (1001, 1002, 1003, 9)])
        (folder / "made.json").write_text(json.dumps(told.to_dict()))
    else:
        made = store(folder, {"type": "sqlite", "path": str(folder / "online.db")})
        out = {"registry": made.registry.to_dict(project="ride"), "calls": answers(made)}
        (folder / "made.json").write_text(json.dumps(out, indent=1, sort_keys=True))
