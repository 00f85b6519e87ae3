"""Feast's look-up of features: by `view:feature` or by feature service, answered column by column with the status of each value."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from tidemill.core.clock import from_micros, micros
from tidemill.core.codec import decode
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.values import UNSET, replace
from tidemill.features.missing import gone, refuse_missing
from tidemill.features.online import FeatureReader, ReadPlan, ViewPlan
from tidemill.serving.config import ServingConfig, endpoint_key, project_of
from tidemill.serving.feast.wire import (
    FeatureVector,
    Key,
    Metadata,
    OnlineFeatures,
    OnlineFeaturesRequest,
    PushFeaturesRequest,
    Status,
    ViewMetadata,
)
from tidemill.serving.world import World

PATHS = frozenset({b"/get-online-features", b"/push"})
PUSHED_TO = ("online", "offline", "online_and_offline")
ASKED_AT_MOST = 1000
EPOCH = "1970-01-01T00:00:00Z"


class FeaturesNotServed(NotFound):
    """There is no feature view or service of that name."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        has = ", ".join(sorted(known)[:20]) or "none"
        super().__init__(f"there is no feature {kind} {name!r} here (there are: {has}); define it with: tidemill features apply")


class _Part(NamedTuple):
    """Features that are read at once, by the names that they are answered under."""

    reader: FeatureReader
    names: dict[str, str]


class FeastRoutes:
    """Answers the look-up. Readers are kept while the config that they were made from is served."""

    def __init__(self) -> None:
        self._world: tuple[object, object] = (None, None)
        self._parts: dict[tuple[str | None, tuple[str, ...], bool], list[_Part]] = {}

    def decode(self, body: bytes) -> OnlineFeaturesRequest:
        """Read a request. Raises Invalid."""
        asked = decode(body, OnlineFeaturesRequest, what="request")
        if bool(asked.features) == (asked.feature_service is not None):
            raise Invalid('request names no features, or features and a service; expected "features" ("view:feature") or "feature_service"')
        if len({len(values) for values in asked.entities.values()}) > 1:
            raise Invalid("the entities of the request differ in length; expected one value a row for each join key")
        return asked

    def project(self, asked: OnlineFeaturesRequest) -> str:
        """Return the project that is asked. Raises Invalid for several."""
        projects = {project_of(name.rpartition(":")[0]) for name in asked.features}
        if len(projects) > 1:
            raise Invalid(f"request asks for features of several projects ({', '.join(sorted(projects))}); expected those of one")
        return projects.pop() if projects else project_of(asked.feature_service or "")

    def answer(self, world: World, asked: OnlineFeaturesRequest, now: datetime) -> OnlineFeatures:
        """Return the features of a request. Raises FeaturesNotServed, FeaturesMissing, SourceUnready, Invalid."""
        parts = self._read_from(world, asked)
        views = {plan.reference: plan for part in parts for plan in part.reader.plan.views}
        used = list(dict.fromkeys(name for plan in views.values() for name in plan.view.entity))
        kinds = {name: kind for plan in views.values() for name, kind in zip(plan.view.entity, plan.key_kinds, strict=True)}
        columns = {name: _keys(name, values, kinds.get(name)) for name, values in asked.entities.items()}
        told = {name: vector for part in parts for name, vector in _vectors(part, columns, now)}
        names = [name for part in parts for name in part.names.values()]
        if asked.feature_service is None:
            names = [_answered(reference, full=asked.full_feature_names) for reference in asked.features]
        versions = [ViewMetadata(name=plan.view.name, version=plan.version) for plan in views.values()]
        return OnlineFeatures(
            metadata=Metadata(
                feature_names=[*used, *names],
                feature_view_metadata=versions if asked.include_feature_view_version_metadata else UNSET,
            ),
            results=[*(_known(asked.entities[name]) for name in used), *(told[name] for name in names)],
        )

    def _read_from(self, world: World, asked: OnlineFeaturesRequest) -> list[_Part]:
        if self._world[0] is not world.config or self._world[1] is not world.sources:
            self._world, self._parts = (world.config, world.sources), {}
        key = (asked.feature_service, asked.features, asked.full_feature_names)
        parts = self._parts.get(key)
        if parts is None:
            parts = _of_service(world, asked) if asked.feature_service is not None else _of_views(world, asked)
            if len(self._parts) < ASKED_AT_MOST:
                self._parts[key] = parts
        return parts


def read_push(body: bytes) -> PushFeaturesRequest:
    """Read rows that a caller of Feast's pushes. Raises Invalid."""
    asked = decode(body, PushFeaturesRequest, what="request")
    if asked.to not in PUSHED_TO:
        raise Invalid(f"rows are to be pushed to {asked.to!r}; expected one of: {', '.join(PUSHED_TO)}")
    if not any(asked.df.values()):
        raise Invalid("request has no rows; expected at least one")
    if len({len(values) for values in asked.df.values()}) > 1:
        raise Invalid("the columns of the request differ in length; expected one value a row in each")
    return asked


def newest_views(config: ServingConfig) -> dict[str, ViewPlan]:
    """Return the newest version of each view that is served, as callers name it."""
    found: dict[str, ViewPlan] = {}
    for plan in sorted(config.views, key=lambda each: each.version):
        found[endpoint_key(plan.project, plan.view.name)] = plan
    return found


def _of_views(world: World, asked: OnlineFeaturesRequest) -> list[_Part]:
    """Return what reads features of views: one part, or more where two views call a feature by one name."""
    names = [_answered(reference, full=asked.full_feature_names) for reference in asked.features]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Invalid(f"request asks for two features {twice[0]!r}; ask for each once, with full_feature_names where two views have one")
    known, parts = newest_views(world.config), list[dict[str, tuple[ViewPlan, str]]]()
    for reference, name in zip(asked.features, names, strict=True):
        view, _, feature = reference.rpartition(":")
        plan = known.get(view)
        if plan is None:
            raise FeaturesNotServed("view", view[:200], list(known))
        plan.view.feature(feature)
        part = next((each for each in parts if feature not in each), None)
        if part is None:
            parts.append(part := {})
        part[feature] = (plan, name)
    return [_part(world, part) for part in parts]


def _part(world: World, wanted: Mapping[str, tuple[ViewPlan, str]]) -> _Part:
    views: dict[str, list[str]] = {}
    plans = {view.reference: view for view, _ in wanted.values()}
    for feature, (view, _) in wanted.items():
        views.setdefault(view.reference, []).append(feature)
    plan = ReadPlan(
        project=next(iter(plans.values())).project, services=(), features=tuple(wanted),
        views=tuple(replace(plans[reference], wanted=tuple(features)) for reference, features in views.items()),
    )  # fmt: skip
    return _Part(_reader(world, plan), {feature: name for feature, (_, name) in wanted.items()})


def _of_service(world: World, asked: OnlineFeaturesRequest) -> list[_Part]:
    known = {endpoint_key(plan.project, plan.services[0].partition("@")[0]): plan for plan in world.config.services}
    plan = known.get(asked.feature_service or "")
    if plan is None:
        raise FeaturesNotServed("service", (asked.feature_service or "")[:200], list(known))
    owners = {feature: each.view.name for each in plan.views for feature in each.wanted}
    service = plan.services[0].partition("@")[0]
    names = {name: f"{owners.get(name, service)}__{name}" if asked.full_feature_names else name for name in plan.features}
    return [_Part(_reader(world, plan), names)]


def _reader(world: World, plan: ReadPlan) -> FeatureReader:
    first = plan.views[0]
    return FeatureReader(plan, world.source(endpoint_key(first.project, first.view.source)).online)


def _answered(reference: str, *, full: bool) -> str:
    view, _, feature = reference.rpartition(":")
    return f"{view.rpartition('/')[2]}__{feature}" if full else feature


def _keys(name: str, values: Sequence[Key], kind: str | None) -> list[Any]:
    """Return join keys as they are stored: Feast reads whole numbers from text, too. Raises Invalid."""
    try:
        return [int(value) if kind == "long" and isinstance(value, str) else value for value in values]
    except ValueError as error:
        raise Invalid(f"join key {name!r} is not understood: {error}; expected whole numbers") from error


def _known(values: Sequence[Key]) -> FeatureVector:
    return FeatureVector(values=list(values), statuses=["PRESENT"] * len(values), event_timestamps=[EPOCH] * len(values))


def _vectors(part: _Part, columns: Mapping[str, list[Any]], now: datetime) -> Iterator[tuple[str, FeatureVector]]:
    reader, plan, moment = part.reader, part.reader.plan, micros(now)
    stored = reader.stored(columns, now)
    found = reader.completed(columns, stored)
    newest = reader.newest(columns, now)
    refuse_missing({**found, **stored}, plan.required)
    owners = {feature: each for each in plan.views for feature in each.wanted}
    for feature, name in part.names.items():
        owner = owners.get(feature)
        missing = gone(stored.get(feature, found[feature])).tolist()
        times = newest[owner.reference] if owner is not None else [moment] * len(missing)
        oldest = None if owner is None or owner.view.ttl is None else micros(now - owner.view.ttl)
        told = owner.told.get(feature, "") if owner is not None else ""
        yield (
            name,
            FeatureVector(
                values=[_plain(value, told) for value in found[feature].tolist()],
                statuses=[_status(time, oldest, missing=each) for time, each in zip(times, missing, strict=True)],
                event_timestamps=[EPOCH if time is None or owner is None else _moment(time) for time in times],
            ),
        )


def _status(time: int | None, oldest: int | None, *, missing: bool) -> Status:
    if not missing:
        return "PRESENT"
    if time is None:
        return "NOT_FOUND"
    return "OUTSIDE_MAX_AGE" if oldest is not None and time <= oldest else "NULL_VALUE"


def _plain(value: Any, told: str) -> Key:
    """Return a value as JSON has it: a number as its column had it, nothing for what is missing."""
    if value is None or value != value:
        return None
    known: Key = int(value) if told == "long" else bool(value) if told == "bool" else value
    return known


def _moment(time: int) -> str:
    return from_micros(time).isoformat().replace("+00:00", "Z")
