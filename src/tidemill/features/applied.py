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
from tidemill.core.values import Value, replace
from tidemill.datasets import intake
from tidemill.datasets.keys import KeySet, read_key, set_key
from tidemill.datasets.versions import DatasetVersion, list_versions, read_version
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
from tidemill.features.online import JsonKind
from tidemill.features.sources import (
    PushSource,
    Source,
    StreamSource,
    declared_sources,
    read_source,
    write_source,
)
from tidemill.features.taken import Taken, in_order, take
from tidemill.features.views import FeatureService, FeatureView, check_source
from tidemill.govern.workspace import Workspace

Action = Literal["create", "change", "keep"]


class DefinitionChange(Value, frozen=True, kw_only=True):
    """What applying would do to one definition: its version afterwards, and the fields that differ. That of a source is its dataset's."""

    kind: Literal["source", "view", "service"]
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
    """Feature definitions got new versions: references like `delay@2`; those of sources are of their datasets."""

    views: tuple[str, ...]
    services: tuple[str, ...]
    sources: tuple[str, ...] = ()


def plan(
    ws: Workspace, views: Sequence[FeatureView], services: Sequence[FeatureService] = (), *, sources: Sequence[Source] = ()
) -> FeaturePlan:  # fmt: skip
    """Return what `apply` would do, without doing it. Raises Invalid for a definition that does not fit its source."""
    ws.require("features.read")
    _refuse_circles(ws, views, sources)
    taken = take(ws, _fresh(ws, sources), _views_to_be(ws, views))
    return FeaturePlan(changes=_planned(ws, views, services, sources, taken))


def apply(
    ws: Workspace, views: Sequence[FeatureView], services: Sequence[FeatureService] = (), *, sources: Sequence[Source] = (),
    reason: str = "",
) -> FeaturePlan:  # fmt: skip
    """Give each new or changed definition its next version; return what was done. Doing it again changes nothing.

    A service also gets a new version when a view of it does. What a new or changed source holds becomes a version of its dataset. What is
    not named stays as it is. Raises Invalid.
    """
    ws.require("features.write")
    _refuse_circles(ws, views, sources)
    fresh = _fresh(ws, sources)
    if fresh:
        taken = take(ws, fresh, _views_to_be(ws, views))
        _planned(ws, views, services, sources, taken)  # before a dataset gets rows that nothing fits
        named = {source.name: source for source in fresh}
        for name, content in taken.items():  # what a query asks comes before it
            _add(ws, named[name], content, reason=reason)
        for source in fresh:
            if isinstance(source, StreamSource | PushSource) and source.key:
                set_key(ws, source.name, source.key, reason=reason)
    standing, versions = _check(ws, views, {}), _newest_numbers(ws, sources)
    now = ws.clock.now()
    with ws.catalog.transaction() as tx:
        changes = [*_decide_sources(tx, ws.project, sources, versions), *_decide(tx, ws.project, views, services, standing)]
        moved = {(change.kind, change.name): change.version for change in changes if change.action != "keep"}
        for source in fresh:
            write_source(tx, ws, source, now)
        for view in views:
            if version := moved.get(("view", view.name)):
                _write_view(tx, ws, view, standing[view.name], version, now)
        known = newest_views(tx, ws.project)
        for service in services:
            if version := moved.get(("service", service.name)):
                _write_service(tx, ws, service, known, version, now)
        if moved:
            done = {
                kind: tuple(f"{name}@{version}" for (which, name), version in moved.items() if which == kind)
                for kind in ("view", "service", "source")
            }
            event = FeaturesApplied(views=done["view"], services=done["service"], sources=done["source"])
            ws.record(tx, event, subject="features", reason=reason)
    return FeaturePlan(changes=tuple(changes))


def refresh(ws: Workspace, name: str, *, reason: str = "") -> DatasetVersion:
    """Take what a source holds by now into its dataset; the same content is the same version.

    Raises SourceNotDeclared, and Invalid for a source that is not for taking, and for what the views over it do not fit.
    """
    source = read_source(ws, name)
    if isinstance(source, StreamSource | PushSource):
        comes = f"tidemill data ingest {name}" if isinstance(source, StreamSource) else f"POST /push/{name}"
        raise Invalid(f"rows of source {name!r} come as they happen ({comes}); there is nothing to refresh")
    views = _views_to_be(ws, ())
    taken = take(ws, [source], views)
    _check(ws, [view for view in views.values() if view.source == name], taken)
    _add(ws, source, taken[name], reason=reason)
    return read_version(ws, name)


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


def _fresh(ws: Workspace, sources: Sequence[Source]) -> list[Source]:
    """Return the sources that are new or changed, or of which there is no dataset yet. Raises Invalid."""
    with ws.catalog.reading() as tx:
        known = declared_sources(tx, ws.project)
    there = _newest_numbers(ws, sources)
    return [source for source in sources if known.get(source.name) != source or source.name not in there]


def _refuse_circles(ws: Workspace, views: Sequence[FeatureView], sources: Sequence[Source]) -> None:
    """Raise Invalid for a source that is to be made of itself, also through sources and views that stay as they are."""
    with ws.catalog.reading() as tx:
        declared = declared_sources(tx, ws.project) | {source.name: source for source in sources}
    if declared:
        in_order(list(declared.values()), _views_to_be(ws, views))


def _views_to_be(ws: Workspace, views: Sequence[FeatureView]) -> dict[str, FeatureView]:
    """Return all views by name: those given, and the newest versions of the others."""
    with ws.catalog.reading() as tx:
        known = {name: view.definition for name, view in newest_views(tx, ws.project).items()}
    return known | {view.name: view for view in views}


def _newest_numbers(ws: Workspace, sources: Sequence[Source]) -> dict[str, int]:
    """Return the newest version of each source's dataset, of those that have one."""
    return {source.name: found[0].version for source in sources if (found := list_versions(ws, source.name, limit=1))}


def _planned(
    ws: Workspace, views: Sequence[FeatureView], services: Sequence[FeatureService], sources: Sequence[Source], taken: Mapping[str, Taken]
) -> tuple[DefinitionChange, ...]:  # fmt: skip
    """Return what is to change, once all of it has been held against what it stands on. Raises Invalid."""
    versions = _newest_numbers(ws, sources)
    for source in sources:
        if isinstance(source, StreamSource | PushSource) and source.name in taken:
            if source.name in versions:
                _check_there(source, taken[source.name], read_version(ws, source.name))
            if source.key and (key := read_key(ws, source.name)) is not None and key.columns != source.key:
                raise KeySet(source.name, key.columns)
    coming = {name: versions.get(name, 0) + 1 for name, each in taken.items() if each.content is not None}
    standing = _check(ws, views, taken)
    with ws.catalog.reading() as tx:
        sourced = _decide_sources(tx, ws.project, sources, coming | {name: versions[name] for name in versions if name not in coming})
        return (*sourced, *_decide(tx, ws.project, views, services, standing))


def _check_there(source: Source, taken: Taken, there: DatasetVersion) -> None:
    if taken.columns and taken.columns != there.columns:
        has = ", ".join(f"{name} {kind}" for name, kind in there.columns.items())
        raise Invalid(f"source {source.name!r} declares other columns than dataset {there.name}@{there.version} has ({has}); declare those")


def _add(ws: Workspace, source: Source, taken: Taken, *, reason: str) -> None:
    """Make what a source holds a version of its dataset. Rows that came to a stream's or a pushed one's stay."""
    if taken.content is None or (isinstance(source, StreamSource | PushSource) and list_versions(ws, source.name, limit=1)):
        return
    version = intake.add(ws, source.name, taken.content, description=source.description, reason=reason).version
    origins = [read_version(ws, origin).node for origin in taken.origins]
    with ws.catalog.transaction() as tx:
        for origin in origins:
            link(tx, ws.project, source=origin, target=version.node, relation="queried", at=ws.clock.now())


def _decide_sources(tx: Connection, project: str, sources: Sequence[Source], versions: Mapping[str, int]) -> list[DefinitionChange]:
    """versions: of the datasets, as they are to be."""
    known = declared_sources(tx, project)
    changes = []
    for source in sources:
        old = known.get(source.name)
        action: Action = "create" if old is None else "keep" if old == source else "change"
        what = _fields_that_differ(old, source) if old is not None else ()
        changes.append(DefinitionChange(kind="source", name=source.name, action=action, version=versions.get(source.name, 0), what=what))
    return changes


def _check(ws: Workspace, views: Sequence[FeatureView], taken: Mapping[str, Taken]) -> dict[str, _Source]:
    """Hold definitions against what sources are to hold, else against the newest versions of their datasets. Raises Invalid."""
    names = [view.name for view in views]
    if len(set(names)) != len(names):
        raise Invalid(f"feature view {next(name for name in names if names.count(name) > 1)!r} is defined twice")
    found = {}
    for view in views:
        node, columns = "", taken[view.source].columns if view.source in taken else {}
        if not columns:
            source = read_version(ws, view.source)
            node, columns = source.node, source.columns
        types = input_types(view.computed, columns)
        known = {**columns, **computed_types(view.computed, types)}
        check_source(view, known)
        kinds = tuple(_kind(columns[name]) for name in view.entity)
        event_key = _kind(columns[view.event_key]) if view.event_key is not None else None
        found[view.name] = _Source(node=node, keys=KeyKinds(entity=kinds, event_key=event_key, columns=types, told=_told(view, known)))
    return found


def _told(view: FeatureView, columns: Mapping[str, str]) -> dict[str, JsonKind]:
    """Return the latest values that are whole numbers or booleans, by feature."""
    types = {feature.name: columns[str(feature.reads)] for feature in view.features if feature.aggregation is None}
    return {
        name: "bool" if kind == "bool" else "long" for name, kind in types.items() if kind == "bool" or kind.startswith(("int", "uint"))
    }


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
        if old is not None and (old.definition, replace(old.keys, told={})) == (view, replace(sources[view.name].keys, told={})):
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


def _fields_that_differ(old: FeatureView | FeatureService | Source, new: FeatureView | FeatureService | Source) -> tuple[str, ...]:
    """Name the fields that differ; among features and computed columns name those."""
    if type(old) is not type(new):
        return ("kind",)
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
