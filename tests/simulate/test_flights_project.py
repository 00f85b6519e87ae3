"""The flights project on its real data: moments that fit, features that know no later flight, online what history says."""

import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tidemill.datasets.contracts import examine
from tidemill.features.online import FeatureReader, ReadPlan, ViewPlan, push
from tidemill.features.timeline import join
from tidemill.features.views import FeatureView, aggregation_of, check_source, expand
from tidemill.pipelines.project import load_object
from tidemill.store.table import open_online

pytestmark = pytest.mark.slow

FLIGHTS, LANDED = 336_776, 327_346


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("flights")
    for file in (Path(str(files("tidemill.simulate"))) / "projects" / "flights").glob("*.py"):
        shutil.copy(file, folder)
    yield folder
    for name in ("flights", "features", "training"):
        sys.modules.pop(name, None)
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def tables(home: Path) -> dict[str, pa.Table]:
    found: dict[str, pa.Table] = load_object(home, "flights:tables")()
    return found


@pytest.fixture(scope="module")
def landed(tables: dict[str, pa.Table]) -> pa.Table:
    return tables["flights"].filter(pc.equal(tables["flights"]["outcome"], "landed"))


@pytest.fixture(scope="module")
def views(home: Path) -> tuple[FeatureView, ...]:
    found: tuple[FeatureView, ...] = load_object(home, "features:VIEWS")
    return found


def micros(table: pa.Table, name: str) -> np.ndarray:
    return table[name].cast(pa.int64()).to_numpy()


def day(tables: dict[str, pa.Table], number: int) -> pa.Table:
    """Departures of one day of June, those that never landed too."""
    start = datetime(2013, 6, number, 4, tzinfo=UTC)
    times = tables["flights"]["scored_at"]
    return tables["flights"].filter(
        pc.and_(pc.greater_equal(times, pa.scalar(start, times.type)), pc.less(times, pa.scalar(start + timedelta(days=1), times.type)))
    )


def test_every_flight_is_there_once(tables: dict[str, pa.Table], landed: pa.Table) -> None:
    assert (tables["flights"].num_rows, landed.num_rows) == (FLIGHTS, LANDED)
    assert pc.count_distinct(tables["flights"]["flight_id"]).as_py() == FLIGHTS
    assert landed["late"].null_count == landed["landed_at"].null_count == 0
    assert pc.all(pc.equal(landed["late"], pc.greater(landed["arr_delay"], 15))).as_py()
    assert tables["weather"].num_rows == 26_115
    assert tables["planes"].num_rows == 3_322


def test_the_contract_sets_aside_what_never_landed(home: Path, tables: dict[str, pa.Table]) -> None:
    _, bad = examine(tables["flights"], load_object(home, "flights:CONTRACT"))
    assert len(bad) == FLIGHTS - LANDED
    assert set(tables["flights"]["outcome"].take(pa.array(bad)).to_pylist()) == {"cancelled", "diverted"}


def test_moments_fit_together(landed: pa.Table) -> None:
    """Landing lies behind departure, and about as late as the airline says: the day was guessed right, and the time zone."""
    left = micros(landed, "sched_dep") + (landed["dep_delay"].to_numpy() * 60e6).astype(np.int64)
    minutes = (micros(landed, "landed_at") - left) / 60e6
    assert minutes.min() >= 20
    assert minutes.max() <= 16 * 60
    speed = landed["distance"].to_numpy() / (minutes / 60)
    assert np.quantile(speed, 0.001) > 60
    assert speed.max() < 640  # miles an hour, over the ground: no flight is an hour or a day off
    early = micros(landed, "sched_dep") - micros(landed, "scored_at")
    assert early.min() >= 0
    assert early.max() < 15 * 60e6


def test_known_flights_land_when_they_did(landed: pa.Table) -> None:
    found = {row["flight_id"]: row["landed_at"] for row in landed.slice(0, 800).to_pylist()}
    assert found["20130101-UA1545-EWR-IAH"] == datetime(2013, 1, 1, 14, 30, tzinfo=UTC)  # 8:30 in Houston
    assert found["20130101-B6725-JFK-BQN"] == datetime(2013, 1, 1, 14, 4, tzinfo=UTC)  # 10:04 in Puerto Rico
    over_midnight = landed.filter(pc.equal(landed["flight_id"], "20130101-B6739-JFK-PSE")).to_pylist()
    assert over_midnight[0]["landed_at"] == datetime(2013, 1, 2, 8, 25, tzinfo=UTC)  # 4:25 the next day


def test_views_fit_their_sources(tables: dict[str, pa.Table], views: tuple[FeatureView, ...], home: Path) -> None:
    for view in views:
        check_source(view, {field.name: str(field.type) for field in tables[view.source].schema})
    pairs = expand(load_object(home, "features:SERVICE"), {view.name: view for view in views})
    assert tuple(feature.name for _, feature in pairs) == load_object(home, "features:FEATURES")


def test_only_flights_that_had_landed_are_counted(tables: dict[str, pa.Table], landed: pa.Table, views: tuple[FeatureView, ...]) -> None:
    """Against a count by hand; and a leak (flights still in the air counted) would be another number."""
    rows = day(tables, 13).take(pa.array(np.arange(0, 900, 30)))
    found = join(rows.select(["origin", "carrier", "tailnum", "scored_at"]), views, tables, timestamp="scored_at")
    times, left = micros(landed, "landed_at"), micros(landed, "sched_dep")
    leaked = 0
    for view in (view for view in views if view.windowed):
        columns = [landed[name].to_numpy(zero_copy_only=False) for name in view.entity]
        for place, row in enumerate(rows.to_pylist()):
            mine = np.logical_and.reduce([column == row[name] for column, name in zip(columns, view.entity, strict=True)])
            now = int(row["scored_at"].timestamp() * 1e6)
            for feature in view.features:
                aggregation = aggregation_of(feature)
                window = aggregation.window // timedelta(microseconds=1)
                known = mine & (times <= now) & (times > now - window)
                if aggregation.function == "count":
                    assert found[feature.name][place].as_py() == known.sum()
                    leaked += int((mine & (left <= now) & (left > now - window)).sum() != known.sum())
                elif aggregation.function == "mean" and known.any():
                    assert found[feature.name][place].as_py() == pytest.approx(landed["arr_delay"].to_numpy()[known].mean())
    assert leaked > 100


def test_a_day_online_is_the_day_in_history_to_the_bit(tmp_path: Path, tables: dict[str, pa.Table], views: tuple[FeatureView, ...]) -> None:
    """Pushed as it happens, quarter of an hour by quarter of an hour, and asked for every departure at its moment."""
    online = open_online("lmdb:online", base=tmp_path)
    plans = [
        ViewPlan(
            view=view,
            version=1,
            namespace=f"features/default/{view.name}@1",
            key_kinds=tuple("string" for _ in view.entity),
            event_key_kind="string" if view.event_key else None,
            wanted=tuple(feature.name for feature in view.features),
        )
        for view in views
    ]
    names = tuple(name for plan in plans for name in plan.wanted)
    reader = FeatureReader(ReadPlan(project="default", services=("delay@1",), views=tuple(plans), features=names), online)
    departures = day(tables, 14).sort_by("scored_at")
    began = departures["scored_at"][0].as_py()
    for plan in plans:
        push(online, plan, _columns(plan, _between(tables[plan.view.source], plan.view, None, began)), now=began)
    expected = join(departures.select(["origin", "carrier", "tailnum", "scored_at"]), views, tables, timestamp="scored_at")
    before, asked = began, 0
    for now in pc.unique(departures["scored_at"]).to_pylist():
        for plan in plans:
            fresh = _between(tables[plan.view.source], plan.view, before, now)
            if fresh.num_rows:
                push(online, plan, _columns(plan, fresh), now=now)
        chosen = np.flatnonzero(pc.equal(departures["scored_at"], pa.scalar(now)).to_numpy())
        keys = {name: departures[name].take(pa.array(chosen)).to_pylist() for name in ("origin", "carrier", "tailnum")}
        for name, values in reader.read(keys, now).items():
            np.testing.assert_array_equal(values, expected[name].to_numpy()[chosen], err_msg=f"{name} at {now}")
        before, asked = now, asked + chosen.size
    online.close()
    assert asked == departures.num_rows > 800


def _between(events: pa.Table, view: FeatureView, start: datetime | None, end: datetime) -> pa.Table:
    times = events[view.event_timestamp]
    chosen = pc.less_equal(times, pa.scalar(end, times.type))
    if start is not None:
        chosen = pc.and_(chosen, pc.greater(times, pa.scalar(start, times.type)))
    elif view.windowed or view.ttl is not None:
        chosen = pc.and_(chosen, pc.greater(times, pa.scalar(end - timedelta(days=1), times.type)))
    return events.filter(chosen)


def _columns(plan: ViewPlan, events: pa.Table) -> dict[str, Any]:
    view = plan.view
    names = dict.fromkeys([*view.entity, view.event_timestamp, *([view.event_key] if view.event_key else []), *view.columns])
    return {name: events[name].to_pylist() for name in names}
