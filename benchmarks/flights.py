"""A day of made-up flights in an online store: the demo's own six views, as a worker reads them."""

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tidemill.features.online import ReadPlan, ViewPlan, push
from tidemill.features.views import FeatureView
from tidemill.simulate.projects.flights.features import FEATURES, VIEWS
from tidemill.store.online import OnlineStore

NOW = datetime(2013, 6, 1, 12, tzinfo=UTC)
ORIGINS = ("EWR", "JFK", "LGA")
CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "UA", "US", "VX", "WN", "YV")
PLANES, FLIGHTS = 3000, 900
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")


def view_plan(view: FeatureView) -> ViewPlan:
    """Return a view as the data plane takes it."""
    return ViewPlan(
        view=view, version=1, namespace=f"bench/{view.name}/1", key_kinds=("string",) * len(view.entity),
        event_key_kind="string" if view.event_key else None, wanted=tuple(feature.name for feature in view.features),
    )  # fmt: skip


def read_plan() -> ReadPlan:
    """Return the plan of the demo's service: 40 features of 6 views."""
    return ReadPlan(project="default", services=("delay@1",), views=tuple(map(view_plan, VIEWS)), features=FEATURES)


def fill(online: OnlineStore) -> None:
    """Push a day's flights, weather and aircraft."""
    random = Random(1)
    hours = [NOW - timedelta(hours=hour) for hour in range(24)]
    weather: dict[str, list[Any]] = {"origin": [origin for origin in ORIGINS for _ in hours], "known_at": hours * len(ORIGINS)}
    weather |= {name: [random.uniform(0, 60) for _ in weather["origin"]] for name in WEATHER}
    planes: dict[str, list[Any]] = {"tailnum": [f"N{number:05}" for number in range(PLANES)]}
    planes |= {"known_at": [NOW - timedelta(days=1)] * PLANES, "built": [random.randint(1980, 2013) for _ in range(PLANES)]}
    planes |= {"seats": [random.randint(50, 300) for _ in range(PLANES)], "engines": [2] * PLANES}
    flights: dict[str, list[Any]] = {
        "flight_id": [f"f{number}" for number in range(FLIGHTS)],
        "landed_at": [NOW - timedelta(minutes=random.uniform(0, 24 * 60)) for _ in range(FLIGHTS)],
        "origin": [random.choice(ORIGINS) for _ in range(FLIGHTS)],
        "carrier": [random.choice(CARRIERS) for _ in range(FLIGHTS)],
        "tailnum": [f"N{random.randrange(PLANES):05}" for _ in range(FLIGHTS)],
        "arr_delay": [float(random.randint(-30, 120)) for _ in range(FLIGHTS)],
    }
    flights["late"] = [delay > 15 for delay in flights["arr_delay"]]
    sources = {"weather": weather, "planes": planes, "flights": flights}
    for view in VIEWS:
        push(online, view_plan(view), sources[view.source], now=NOW)


def rows(count: int) -> list[dict[str, str]]:
    """Return departures of one quarter of an hour, by their join keys."""
    random = Random(2)
    return [
        {"origin": random.choice(ORIGINS), "carrier": random.choice(CARRIERS), "tailnum": f"N{random.randrange(PLANES):05}"}
        for _ in range(count)
    ]
