"""What comes over from a Feast project, and what is said of the rest. The dump is Feast's own (`feast_peer.py`)."""

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.core.codec import decode
from tidemill.core.errors import Invalid, NotFound, Unavailable
from tidemill.datasets.versions import list_datasets
from tidemill.features.definitions import read_service, read_view
from tidemill.features.feast import FeastImport, Remark, import_feast, translate
from tidemill.features.feast_registry import Registry, read_registry
from tidemill.features.history import history
from tidemill.features.views import Feature
from tidemill.govern.workspace import Workspace

HERE = Path(__file__).parent
DUMP = HERE / "feast" / "registry.json"
PEER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidemill-peers" / "feast_peer" / "bin" / "python"
MOMENT = pa.timestamp("us", tz="UTC")
KEPT = {
    "source": ["driver_push", "orders", "ratings"],
    "view": ["customer_orders", "driver_hourly_stats", "driver_ratings"],
    "service": ["driver_activity", "renamed"],
}


def at(hour: int) -> datetime:
    return datetime(2024, 1, 1, hour, tzinfo=UTC)


def write_files(folder: Path) -> None:
    """The files of `feast_peer.py`."""
    stats = {
        "driver_id": [1001, 1001, 1002, 1003],
        "event_timestamp": pa.array([at(8), at(10), at(9), at(9)], pa.timestamp("ns", tz="UTC")),
        "created": pa.array([at(8), at(10), at(9), at(9)], MOMENT),
        "conv_rate": [0.5, 0.75, 0.25, None],
        "acc_rate": [0.9, 0.95, 0.8, 0.7],
        "trips": [10, 12, 3, 4],
        "city": ["Oslo", "Oslo", None, "Rome"],
        "active": [True, True, False, False],
    }
    pq.write_table(pa.table(stats), folder / "driver_stats.parquet")
    orders = {"customer_id": ["a", "b"], "ts": pa.array([at(9), at(9)], MOMENT), "spent": [10.0, 20.5]}
    pq.write_table(pa.table(orders), folder / "orders.parquet")
    rated = pa.array([at(7).replace(tzinfo=None), at(8).replace(tzinfo=None)], pa.timestamp("us"))
    pq.write_table(pa.table({"who": [1001, 1002], "rated": rated, "s": [4.5, 3.0]}), folder / "ratings.parquet")


def by_kind(found: FeastImport) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for change in found.plan.changes:
        told.setdefault(change.kind, []).append(change.name)
    return {kind: sorted(names) for kind, names in told.items()}


@pytest.mark.slow
def test_a_project_comes_over_and_what_stays_behind_is_named(ws: Workspace, tmp_path: Path) -> None:
    write_files(tmp_path)
    planned = import_feast(ws, DUMP, files=tmp_path, dry_run=True)
    assert not list_datasets(ws)
    done = import_feast(ws, DUMP, files=tmp_path)
    assert planned == done
    assert by_kind(done) == KEPT
    assert not import_feast(ws, DUMP, files=tmp_path).plan.changed
    reasons = {(each.kind, each.name): each.reason for each in done.left_out}
    assert set(reasons) == {
        ("source", "gone"), ("view", "lost"), ("source", "cloud"), ("view", "far"), ("feature", "driver_ratings:photo (BYTES)"),
        ("on-demand view", "transformed"), ("service", "with_code"), ("service", "by_other_key"),
    }  # fmt: skip
    assert "there is no file" in reasons["source", "gone"]
    assert reasons["view", "lost"] == "its source 'gone' is left out"
    assert "of type BATCH_BIGQUERY; declare it with kind sql" in reasons["source", "cloud"]
    assert "computed={...} of the feature service" in reasons["on-demand view", "transformed"]
    assert reasons["service", "with_code"] == "it asks for features of 'transformed', which is left out"
    assert "by other join keys (driver_id as rider_id)" in reasons["service", "by_other_key"]
    assert [(each.kind, each.name) for each in done.different] == [
        ("view", "driver_hourly_stats"), ("view", "driver_hourly_stats"), ("service", "renamed"),
    ]  # fmt: skip

    view = read_view(ws, "driver_hourly_stats").definition
    assert (view.entity, view.source, view.event_timestamp, view.created_timestamp) == (
        ("driver_id",), "driver_push", "event_timestamp", "created",
    )  # fmt: skip
    assert (view.ttl, view.owner, view.description, view.tags) == (
        timedelta(days=1), "rides@example.com", "Hourly stats", ("team=rides", "tier=gold"),
    )  # fmt: skip
    assert view.features[2:4] == (
        Feature(name="trips", description="The trips"), Feature(name="city", kind="string", description="The city"),
    )  # fmt: skip
    assert read_view(ws, "customer_orders").definition.ttl is None
    service = read_service(ws, "driver_activity").definition
    assert (service.features, service.owner, service.tags) == (
        ("driver_hourly_stats:conv_rate", "driver_hourly_stats:city", "customer_orders:spent"), "ml@example.com", ("use=eta",),
    )  # fmt: skip
    rows = pa.table({"driver_id": [1001, 1002], "customer_id": ["a", "b"], "at": pa.array([at(9), at(8)], MOMENT)})
    found = history(ws, rows, "driver_activity", timestamp="at")
    assert found.select(["conv_rate", "city", "spent"]).to_pylist()[0] == {"conv_rate": 0.5, "city": "Oslo", "spent": 10.0}


def test_what_cannot_be_said_here_is_left_out(tmp_path: Path) -> None:
    def told(**changes: Any) -> list[Remark]:
        source = {
            "name": "s",
            "type": "BATCH_FILE",
            "timestampField": "ts",
            "fileOptions": {"uri": "s.parquet"},
            **changes.pop("source", {}),
        }
        view = {"name": "v", "entities": ["e"], "features": [{"name": "x", "valueType": "DOUBLE"}], "batchSource": source, **changes}
        dump = {"project": "p", "entities": [{"spec": {"name": "e"}}], "featureViews": [{"spec": view}], "unheardOf": 1}
        return translate(decode(json.dumps(dump), Registry), tmp_path).left_out

    assert told() == []
    assert "it lies at hdfs://b/s.parquet; copy its files here" in told(source={"fileOptions": {"uri": "hdfs://b/s.parquet"}})[0].reason
    delta = {"uri": "s", "fileFormat": {"deltaFormat": {}}}
    assert told(source={"fileOptions": delta})[0].reason == "its files are of deltaFormat; only Parquet comes over"
    assert "names no timestamp field" in told(source={"timestampField": ""})[0].reason
    assert told(entities=["__dummy"])[0].reason == "it has no entity; views here have at least one join key"
    assert told(features=[{"name": "x", "valueType": "BYTES"}])[0].reason == "its features are neither numbers nor text: x (BYTES)"
    assert "Python code makes its values" in told(featureTransformation={"mode": "python"})[0].reason
    assert told(batchSource=None)[0].reason == "it has no batch source"
    assert "feature view name 'a b' is not usable" in told(name="a b")[0].reason


def test_what_is_no_dump_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match=r"there is no .*nothing.json; give what `feast registry-dump` printed"):
        read_registry(tmp_path / "nothing.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(Invalid, match="which should be what `feast registry-dump` prints, was not understood"):
        read_registry(tmp_path / "other.json")
    with pytest.raises(
        Invalid, match=r"is neither a .json file of `feast registry-dump` nor in a Feast repository \(no feature_store.yaml"
    ):
        read_registry(tmp_path)
    (tmp_path / "feature_store.yaml").write_text("project: ride\n")
    (tmp_path / "registry.db").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        Unavailable, match=r"Feast is not installed here; make a dump where it is: feast -c .* registry-dump > registry.json"
    ):
        read_registry(tmp_path / "registry.db")
    feast = tmp_path / "feast"
    feast.write_text(f"#!/bin/sh\necho warning\n/bin/cat {DUMP}\n")
    feast.chmod(0o755)
    assert read_registry(tmp_path) == read_registry(DUMP)
    feast.write_text("#!/bin/sh\necho no such registry >&2\nexit 1\n")
    with pytest.raises(Invalid, match=r"Feast could not dump .*: no such registry; try it by hand"):
        read_registry(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="Feast is not installed; benchmarks/features/bench_retrieval.py makes its environment")
def test_feast_itself_dumps_and_answers_what_the_fixtures_say(ws: Workspace, tmp_path: Path) -> None:
    done = subprocess.run([str(PEER), str(HERE / "feast_peer.py"), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads((tmp_path / "made.json").read_text())
    assert [(call["request"], call["status"]) for call in made["calls"]] == [
        (call["request"], call["status"]) for call in json.loads((HERE / "feast" / "calls.json").read_text())
    ]
    (tmp_path / "registry.json").write_text(json.dumps(made["registry"]))
    found = import_feast(ws, tmp_path / "registry.json")
    assert by_kind(found) == KEPT
