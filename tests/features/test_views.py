"""Definitions: what they refuse, and how a service names its features."""

from datetime import timedelta
from typing import Any

import pytest

from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid
from tidemill.features.views import Aggregation, Feature, FeatureService, FeatureView, check_source, expand

HOUR = timedelta(hours=1)
COLUMNS = {
    "origin": "string",
    "landed_at": "timestamp[us, tz=UTC]",
    "flight_id": "string",
    "delay": "double",
    "late": "bool",
    "seats": "int64",
    "local": "timestamp[us]",
}


def view(**changes: Any) -> FeatureView:
    mean = Feature(name="mean_delay", aggregation=Aggregation(function="mean", column="delay", window=HOUR))
    fields = {"name": "delays", "entity": ("origin",), "source": "flights", "event_timestamp": "landed_at", "features": (mean,)}
    return FeatureView(**{**fields, **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Aggregation(function="mean", window=HOUR), "names no column"),
        (lambda: Aggregation(function="count", window=timedelta(0)), "looks at nothing"),
        (lambda: Feature(name="a b"), "not usable"),
        (lambda: Feature(name="a", column="b", aggregation=Aggregation(function="count", window=HOUR)), "inside the aggregation"),
        (lambda: view(entity=()), "no entity"),
        (lambda: view(features=()), "no features"),
        (lambda: view(entity=("origin", "origin")), "join key origin more than once"),
        (lambda: view(features=(Feature(name="seats"), Feature(name="seats", column="delay"))), "feature seats more than once"),
        (lambda: view(features=(*view().features, Feature(name="seats"))), "mixes"),
        (lambda: view(ttl=HOUR), "leave its TTL out"),
        (lambda: view(features=(Feature(name="seats"),), ttl=timedelta(0)), "TTL"),
        (lambda: FeatureService(name="delay", features=()), "no features"),
        (lambda: FeatureService(name="delay", features=("delays",)), "expected view:feature"),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        make()


def test_a_definition_that_fits_its_source_passes() -> None:
    check_source(view(event_key="flight_id"), COLUMNS)
    check_source(view(features=(Feature(name="seats"), Feature(name="late"), Feature(name="who", column="origin", kind="string"))), COLUMNS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entity": ("airport",)}, "join key 'airport' is not a column of flights"),
        ({"entity": ("delay",)}, "join key 'delay' is of type double; expected text or whole numbers"),
        ({"event_timestamp": "local"}, "with a time zone"),
        ({"event_key": "late"}, "event key 'late' is of type bool"),
        ({"features": (Feature(name="origin"),)}, "double feature 'origin' is of type string; expected numbers"),
        ({"features": (Feature(name="seats", kind="string"),)}, "string feature 'seats' is of type int64; expected text"),
        (
            {"features": (Feature(name="s", aggregation=Aggregation(function="share", column="delay", window=HOUR)),)},
            "share feature 'delay' is of type double; expected booleans",
        ),
    ],
)
def test_a_wrong_column_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        check_source(view(**changes), COLUMNS)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(Invalid, match=r"'airport'.*'when'"):
        check_source(view(entity=("airport",), event_timestamp="when"), COLUMNS)


def test_a_service_names_features_one_by_one_or_a_view_whole() -> None:
    planes = view(name="planes", features=(Feature(name="seats"), Feature(name="late")))
    views = {"delays": view(), "planes": planes}
    service = FeatureService(name="delay", features=("planes:late", "delays:*"))
    assert [(each.name, feature.name) for each, feature in expand(service, views)] == [("planes", "late"), ("delays", "mean_delay")]
    assert service.views == ("planes", "delays")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (("trains:late",), "view 'trains', which is not defined"),
        (("delays:late",), "no feature 'late'"),
        (("delays:*", "delays:mean_delay"), "mean_delay more than once"),
    ],
)
def test_a_service_that_names_what_is_not_there_is_refused(features: tuple[str, ...], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        expand(FeatureService(name="delay", features=features), {"delays": view()})


def test_definitions_survive_the_catalog() -> None:
    assert decode(encode(view()), FeatureView) == view()
