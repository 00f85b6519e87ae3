"""What is known of a flight before it leaves: the weather, the aircraft, and how flights that have landed by then have fared."""

from datetime import timedelta

import tidemill as tm

HOURS = (2, 6, 24)


def delays(name: str, *entity: str) -> tm.FeatureView:
    """Delays over the last hours of what shares an entity, counting only flights that had landed by then."""
    features = []
    for hours in HOURS:
        window = timedelta(hours=hours)
        features += [
            tm.Feature(name=f"{name}_delay_{hours}h", aggregation=tm.Aggregation(function="mean", column="arr_delay", window=window)),
            tm.Feature(name=f"{name}_late_{hours}h", aggregation=tm.Aggregation(function="share", column="late", window=window)),
            tm.Feature(name=f"{name}_landed_{hours}h", aggregation=tm.Aggregation(function="count", window=window)),
        ]
    return tm.FeatureView(
        name=f"{name}_delays", entity=entity, source="flights", event_timestamp="landed_at", event_key="flight_id", features=tuple(features)
    )


WEATHER = tm.FeatureView(
    name="weather",
    entity=("origin",),
    source="weather",
    event_timestamp="known_at",
    ttl=timedelta(hours=6),
    features=tuple(
        tm.Feature(name=name) for name in ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    ),
)
AIRCRAFT = tm.FeatureView(
    name="aircraft",
    entity=("tailnum",),
    source="planes",
    event_timestamp="known_at",
    features=tuple(tm.Feature(name=name) for name in ("built", "seats", "engines")),
)
LAST_FLIGHT = tm.FeatureView(
    name="last_flight",
    entity=("tailnum",),
    source="flights",
    event_timestamp="landed_at",
    event_key="flight_id",
    ttl=timedelta(hours=24),
    features=(tm.Feature(name="last_arr_delay", column="arr_delay"),),
)
VIEWS = (WEATHER, AIRCRAFT, LAST_FLIGHT, delays("origin", "origin"), delays("carrier", "carrier"), delays("route", "origin", "carrier"))
SERVICE = tm.FeatureService(name="delay", features=tuple(f"{view.name}:*" for view in VIEWS), description="will this flight arrive late?")
FEATURES = tuple(feature.name for view in VIEWS for feature in view.features)
