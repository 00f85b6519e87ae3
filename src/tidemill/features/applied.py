"""Apply definitions of features: plan what changes, and give what changed its next version; the old ones stay for who pins them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, insert

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.core.codec import plain
from tidemill.core.digest import digest_value
from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.datasets.versions import read_version
from tidemill.features.computed import computed_types, input_types
from tidemill.features.definitions import (
    FEATURE_SERVICES,
    FEATURE_VIEWS,
    KeyKinds,
    ViewVersion,
    newest_row,
    newest_views,
    read_service,
)
from tidemill.features.incoming import KeyKind
from tidemill.features.on_demand import on_demand
from tidemill.features.views import FeatureService, FeatureView, check_source
from tidemill.govern.workspace import Workspace

Action = Literal["create", "change", "keep"]


class DefinitionChange(Value, frozen=True, kw_only=True):
    """What applying would do to one definition: its version afterwards, and the fields that differ."""

    kind: Literal["view", "service"]
    name: str
    action: Action
    version: int
    what: tuple[str, ...] = ()


class FeaturePlan(Value, frozen=True, kw_only=True):
    """What applying definitions would change."""

    changes: tuple[DefinitionChange, ...]

    @property
    def changed(self) -> bool:
        return any(change.action != "keep" for change in self.changes)


class FeaturesApplied(EventBody, frozen=True, kw_only=True, tag="features.applied"):
    """Feature definitions got new versions: references like `delay@2`."""

    views: tuple[str, ...]
    services: tuple[str, ...]


def plan(ws: Workspace, views: Sequence[FeatureView], services: Sequence[FeatureService] = ()) -> FeaturePlan:
    """Return what `apply` would do, without doing it. Raises Invalid for a definition that does not fit its source."""
    ws.require("features.read")
    sources = _check(ws, views)
    with ws.catalog.reading() as tx:
        return FeaturePlan(changes=_decide(tx, ws.project, views, services, sources))


def apply(ws: Workspace, views: Sequence[FeatureView], services: Sequence[FeatureService] = (), *, reason: str = "") -> FeaturePlan:
    """Give each new or changed definition its next version; return what was done. Doing it again changes nothing.

    A service also gets a new version when a view of it does. Views that are not named stay as they are. Raises Invalid.
    """
    ws.require("features.write")
    sources = _check(ws, views)
    now = ws.clock.now()
    with ws.catalog.transaction() as tx:
        changes = _decide(tx, ws.project, views, services, sources)
        fresh = {(change.kind, change.name): change.version for change in changes if change.action != "keep"}
        for view in views:
            if version := fresh.get(("view", view.name)):
                _write_view(tx, ws, view, sources[view.name], version, now)
        known = newest_views(tx, ws.project)
        for service in services:
            if version := fresh.get(("service", service.name)):
                _write_service(tx, ws, service, known, version, now)
        if fresh:
            done = {
                kind: tuple(f"{name}@{version}" for (which, name), version in fresh.items() if which == kind)
                for kind in ("view", "service")
            }
            ws.record(tx, FeaturesApplied(views=done["view"], services=done["service"]), subject="features", reason=reason)
    return FeaturePlan(changes=changes)


def rollback(ws: Workspace, reference: str, *, reason: str = "") -> FeaturePlan:
    """Apply what a version of a service (`NAME@V`) was: its definition and those of its views are the newest again, as new versions.

    Nothing moves for models that pin a version. Raises DefinitionNotFound, and Invalid for what the sources do not fit any more.
    """
    return apply(ws, *_as_it_was(ws, reference), reason=reason)


def plan_rollback(ws: Workspace, reference: str) -> FeaturePlan:
    """Return what `rollback` would do, without doing it. Raises DefinitionNotFound, Invalid."""
    return plan(ws, *_as_it_was(ws, reference))


def changes_between(old: FeatureView, new: FeatureView) -> tuple[str, ...]:
    """Return what differs between two versions of a view, as a plan tells it."""
    return _fields_that_differ(old, new) or ("types of its columns",)


def _as_it_was(ws: Workspace, reference: str) -> tuple[list[FeatureView], list[FeatureService]]:
    found = read_service(ws, reference)
    if "@" not in reference:
        before = f"{found.name}@{max(1, found.version - 1)}"
        raise Invalid(f"service {reference!r} is at version {found.version}; name the one to go back to, as in {before}")
    return [view.definition for view in found.views], [found.definition]


class _Source(Value, frozen=True, kw_only=True):
    """What a view stands on: the dataset version that it was held against, and the types of its keys there."""

    node: str
    keys: KeyKinds


def _check(ws: Workspace, views: Sequence[FeatureView]) -> dict[str, _Source]:
    """Hold definitions against the newest versions of their sources. Raises Invalid."""
    names = [view.name for view in views]
    if len(set(names)) != len(names):
        raise Invalid(f"feature view {next(name for name in names if names.count(name) > 1)!r} is defined twice")
    found = {}
    for view in views:
        source = read_version(ws, view.source)
        columns = source.columns
        types = input_types(view.computed, columns)
        check_source(view, {**columns, **computed_types(view.computed, types)})
        kinds = tuple(_kind(columns[name]) for name in view.entity)
        event_key = _kind(columns[view.event_key]) if view.event_key is not None else None
        found[view.name] = _Source(node=source.node, keys=KeyKinds(entity=kinds, event_key=event_key, columns=types))
    return found


def _kind(arrow_type: str) -> KeyKind:
    return "long" if arrow_type.startswith(("int", "uint")) else "string"


def _decide(
    tx: Connection, project: str, views: Sequence[FeatureView], services: Sequence[FeatureService], sources: Mapping[str, _Source]
) -> tuple[DefinitionChange, ...]:
    before = newest_views(tx, project)
    changes = []
    versions = {name: view.version for name, view in before.items()}
    known = {name: view.definition for name, view in before.items()}
    for view in views:
        old = before.get(view.name)
        known[view.name] = view
        if old is not None and (old.definition, old.keys) == (view, sources[view.name].keys):
            changes.append(DefinitionChange(kind="view", name=view.name, action="keep", version=old.version))
            continue
        versions[view.name] = old.version + 1 if old is not None else 1
        what = changes_between(old.definition, view) if old is not None else ()
        changes.append(
            DefinitionChange(kind="view", name=view.name, action="change" if old else "create", version=versions[view.name], what=what)
        )
    for service in services:
        on_demand(service, known)
        row = newest_row(tx, FEATURE_SERVICES, project, service.name)
        pins = {name: versions[name] for name in service.views}
        if row is not None and (row.definition, row.views) == (service, pins):
            changes.append(DefinitionChange(kind="service", name=service.name, action="keep", version=row.version))
            continue
        moved: tuple[str, ...] = ()
        if row is not None:
            moved = tuple(f"view {name} is now version {version}" for name, version in pins.items() if row.views.get(name) != version)
            moved += _fields_that_differ(row.definition, service)
        version = row.version + 1 if row is not None else 1
        action: Action = "change" if row is not None else "create"
        changes.append(DefinitionChange(kind="service", name=service.name, action=action, version=version, what=moved))
    return tuple(changes)


def _fields_that_differ(old: FeatureView | FeatureService, new: FeatureView | FeatureService) -> tuple[str, ...]:
    """Name the fields that differ; among features and computed columns name those."""
    before, after = plain(old), plain(new)
    what = []
    for name in before:
        if before[name] == after[name]:
            continue
        if name == "features" and isinstance(old, FeatureView) and isinstance(new, FeatureView):
            mine, theirs = ({feature.name: feature for feature in each.features} for each in (old, new))
            names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
            what.append(f"features: {', '.join(names)}" if names else "features: their order")
        elif isinstance(before[name], dict):
            differ = [key for key in {**before[name], **after[name]} if before[name].get(key) != after[name].get(key)]
            what.append(f"{name}: {', '.join(differ)}")
        else:
            what.append(name)
    return tuple(what)


def _write_view(tx: Connection, ws: Workspace, view: FeatureView, source: _Source, version: int, now: datetime) -> None:
    row = {"definition": view, "keys": source.keys, "digest": digest_value([view, source.keys]), "created_at": now, "actor": ws.actor.id}
    tx.execute(insert(FEATURE_VIEWS).values(project=ws.project, name=view.name, version=version, **row))
    link(tx, ws.project, source=source.node, target=f"view:{view.name}@{version}", relation="defined on", at=now)
    if version > 1:
        link(tx, ws.project, source=f"view:{view.name}@{version - 1}", target=f"view:{view.name}@{version}", relation="succeeded", at=now)


def _write_service(
    tx: Connection, ws: Workspace, service: FeatureService, views: Mapping[str, ViewVersion], version: int, now: datetime
) -> None:
    pins = {name: views[name].version for name in service.views}
    row = {"definition": service, "views": pins, "digest": digest_value([service, pins]), "created_at": now, "actor": ws.actor.id}
    tx.execute(insert(FEATURE_SERVICES).values(project=ws.project, name=service.name, version=version, **row))
    node = f"service:{service.name}@{version}"
    for name in service.views:
        link(tx, ws.project, source=views[name].node, target=node, relation="part of", at=now)
    if version > 1:
        link(tx, ws.project, source=f"service:{service.name}@{version - 1}", target=node, relation="succeeded", at=now)
