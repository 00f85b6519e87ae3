"""Feast, in an environment of its own: `python feast_peer.py FOLDER file|duckdb`, or `FOLDER sqlite`, or `FOLDER redis HOST:PORT`.

The folder holds rows.parquet and view0.parquet to view2.parquet. Prints JSON: seconds of each task, and sums to compare the answers by.
"""

import json
import resource
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64, Int64

COLUMNS = 3


def store(folder: Path, offline: str, online: dict[str, str]) -> tuple[FeatureStore, list[str]]:
    """Return a feature store over the files of a folder, and its features."""
    place = tempfile.mkdtemp(dir=folder)
    config = RepoConfig(
        project="bench", registry=f"{place}/registry.db", provider="local", offline_store={"type": offline}, online_store=online,
        entity_key_serialization_version=3,
    )  # fmt: skip
    made = FeatureStore(config=config)
    driver = Entity(name="entity", join_keys=["entity"])
    views = []
    for number in range(3):
        source = FileSource(path=str(folder / f"view{number}.parquet"), timestamp_field="at")
        fields = [Field(name="entity", dtype=Int64), *(Field(name=f"v{number}_{column}", dtype=Float64) for column in range(COLUMNS))]
        views.append(
            FeatureView(name=f"view{number}", entities=[driver], ttl=timedelta(days=3650), schema=fields, source=source, online=True)
        )
    made.apply([driver, *views])
    return made, [f"view{number}:v{number}_{column}" for number in range(3) for column in range(COLUMNS)]


def historical(folder: Path, offline: str) -> dict[str, object]:
    """Join the rows with all features."""
    made, features = store(folder, offline, {"type": "sqlite", "path": str(folder / "online.db")})
    begin = perf_counter()
    rows = pd.read_parquet(folder / "rows.parquet")
    found = made.get_historical_features(entity_df=rows, features=features).to_df()
    took = perf_counter() - begin
    found = found.sort_values("row")
    sums = {name.split(":")[1]: float(found[name.split(":")[1]].sum()) for name in features}
    return {"seconds": took, "rows": len(found), "sums": sums}


def online(folder: Path, kind: str, url: str) -> dict[str, object]:
    """Fill the online store from one view, then read one entity and a hundred."""
    place = {"type": "sqlite", "path": str(folder / "feast-online.db")} if kind == "sqlite" else {"type": "redis", "connection_string": url}
    made, features = store(folder, "file", place)
    ends = pd.read_parquet(folder / "view0.parquet", columns=["at"])["at"].max().to_pydatetime()
    begin = perf_counter()
    made.materialize(start_date=ends - timedelta(days=3650), end_date=ends + timedelta(seconds=1), feature_views=["view0"])
    filled = perf_counter() - begin
    random = np.random.default_rng(5)
    entities = pd.read_parquet(folder / "view0.parquet", columns=["entity"])["entity"].unique()
    wanted = [name for name in features if name.startswith("view0:")]

    def reads(count: int, rounds: int) -> list[float]:
        times = []
        for _ in range(rounds):
            keys = [{"entity": int(each)} for each in random.choice(entities, count)]
            start = perf_counter()
            made.get_online_features(features=wanted, entity_rows=keys).to_dict()
            times.append(perf_counter() - start)
        return times

    reads(1, 50)
    return {"seconds": filled, "one": reads(1, 500), "hundred": reads(100, 100)}


if __name__ == "__main__":
    folder, task = Path(sys.argv[1]), sys.argv[2]
    told = historical(folder, task) if task in ("file", "duckdb") else online(folder, task, sys.argv[3] if len(sys.argv) > 3 else "")
    told["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    sys.stdout.write(json.dumps(told))
