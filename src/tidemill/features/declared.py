"""What tidemill.toml declares: `[features.sources.NAME]`, `[features.views.NAME]`, `[features.services.NAME]`, and code that says more."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidemill.core.codec import convert
from tidemill.core.errors import Invalid
from tidemill.core.settings import FILE_NAME, nearest, read_file
from tidemill.core.values import Value, fields_of
from tidemill.features.sources import KINDS, Source
from tidemill.features.views import Aggregation, Feature, FeatureService, FeatureView


class FeaturesDeclared(Value, frozen=True, kw_only=True):
    """What the table `features` holds. targets: `module:name` of sources, views and services that the project's code defines."""

    targets: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    views: tuple[FeatureView, ...] = ()
    services: tuple[FeatureService, ...] = ()


def declared_features(home: Path) -> FeaturesDeclared:
    """Return the features of tidemill.toml. Spans of time are written as in ISO 8601: PT6H, P7D.

    Raises Invalid for an unknown key, with the nearest one, and for a definition that makes no sense, with the place.
    """
    declared = _table(read_file(home / FILE_NAME).get("features", {}), FeaturesDeclared, "[features]")
    sources = [_source(name, table) for name, table in _named(declared.get("sources", {}), "[features.sources]")]
    views = [_view(name, table) for name, table in _named(declared.get("views", {}), "[features.views]")]
    services = [_service(name, table) for name, table in _named(declared.get("services", {}), "[features.services]")]
    targets = convert(declared.get("targets", []), tuple[str, ...], what=f"targets in [features] of {FILE_NAME}")
    return FeaturesDeclared(targets=targets, sources=tuple(sources), views=tuple(views), services=tuple(services))


def _source(name: str, table: Any) -> Source:
    place = f"[features.sources.{name}]"
    fields = dict(_named(table, place))
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise Invalid(f"{place} of {FILE_NAME} is of kind {kind!r}; expected one of: {', '.join(KINDS)}")
    return convert({**_table(fields, KINDS[kind], place), "kind": kind, "name": name}, KINDS[kind], what=f"{place} of {FILE_NAME}")


def _view(name: str, table: Any) -> FeatureView:
    place = f"[features.views.{name}]"
    fields = _table(table, FeatureView, place)
    features = []
    for feature, told in _named(fields.get("features", {}), f"{place} features"):
        said = _table(told, Feature, f"{place} feature {feature!r}")
        if "aggregation" in said:
            _table(said["aggregation"], Aggregation, f"{place} aggregation of {feature!r}")
        features.append({**said, "name": feature})
    return convert({**fields, "name": name, "features": features}, FeatureView, what=f"{place} of {FILE_NAME}")


def _service(name: str, table: Any) -> FeatureService:
    place = f"[features.services.{name}]"
    return convert({**_table(table, FeatureService, place), "name": name}, FeatureService, what=f"{place} of {FILE_NAME}")


def _named(table: Any, place: str) -> list[tuple[str, Any]]:
    if not isinstance(table, Mapping):
        raise Invalid(f"{place} of {FILE_NAME} is a {type(table).__name__}; expected a table with a name for each")
    return list(table.items())


def _table(table: Any, kind: type[Value], place: str) -> dict[str, Any]:
    known = [name for name in fields_of(kind) if name != "name"]
    found = dict(_named(table, place))
    for key in found:
        if key not in known:
            raise Invalid(f"{place} of {FILE_NAME} has an unknown key {key!r}; {nearest(key, known)}")
    return found
