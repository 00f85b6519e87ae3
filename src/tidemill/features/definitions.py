"""Versions of feature views and services. Owns their tables. A changed definition is a new version; the old ones stay for who pins them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Column, Connection, Integer, PrimaryKeyConstraint, Table, func, insert, select

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text
from tidemill.core.codec import plain
from tidemill.core.digest import digest_value
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import Digest
from tidemill.core.values import Value, field
from tidemill.datasets.versions import read_version
from tidemill.features.computed import computed_types, input_types
from tidemill.features.incoming import KeyKind
from tidemill.features.on_demand import OnDemand, on_demand
from tidemill.features.online import ReadPlan, ViewPlan
from tidemill.features.views import FeatureService, FeatureView, check_source, expand, mentions
from tidemill.govern.workspace import Workspace
from tidemill.store.online import NAMESPACE_BYTES

Action = Literal["create", "change", "keep"]


class KeyKinds(Value, frozen=True, kw_only=True):
    """The types of a view's join keys and event key, as its source had them when the view was applied.

    columns: the SQL types of what its computed columns read.
    """

    entity: tuple[KeyKind, ...]
    event_key: KeyKind | None = None
    columns: dict[str, str] = field(default_factory=dict)


FEATURE_VIEWS = Table(
    "feature_views",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("definition", JsonValue(FeatureView), nullable=False),
    Column("keys", JsonValue(KeyKinds), nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("actor", Text, nullable=False),
    PrimaryKeyConstraint("project", "name", "version"),
)

FEATURE_SERVICES = Table(
    "feature_services",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("definition", JsonValue(FeatureService), nullable=False),
    Column("views", JsonValue(dict[str, int]), nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("actor", Text, nullable=False),
    PrimaryKeyConstraint("project", "name", "version"),
)


class ViewVersion(Value, frozen=True, kw_only=True):
    """One version of a feature view as applied."""

    name: str
    version: int
    definition: FeatureView
    keys: KeyKinds
    digest: Digest
    created_at: datetime
    actor: str

    @property
    def node(self) -> str:
        """The name of this version in lineage."""
        return f"view:{self.name}@{self.version}"


class ServiceVersion(Value, frozen=True, kw_only=True):
    """One version of a feature service, with the view versions that it stands on."""

    name: str
    version: int
    definition: FeatureService
    views: tuple[ViewVersion, ...]
    digest: Digest
    created_at: datetime
    actor: str

    @property
    def node(self) -> str:
        """The name of this version in lineage."""
        return f"service:{self.name}@{self.version}"

    @property
    def reference(self) -> str:
        """The text by which models pin it: `delay@2`."""
        return f"{self.name}@{self.version}"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of its features, in order."""
        return (*self.looked_up, *sorted(self.definition.computed))

    @property
    def looked_up(self) -> tuple[str, ...]:
        """The names of those that are not computed from the others, in order."""
        return tuple(feature.name for _, feature in expand(self.definition, self._views))

    @property
    def on_demand(self) -> OnDemand:
        """The features that are computed when they are asked for."""
        return on_demand(self.definition, self._views)

    @property
    def _views(self) -> dict[str, FeatureView]:
        return {view.name: view.definition for view in self.views}


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


class DefinitionNotFound(NotFound):
    """No feature view or service, or no version of it, by that reference."""

    def __init__(self, kind: str, reference: str, known: Sequence[str]) -> None:
        self.kind, self.reference, self.known = kind, reference, tuple(known)
        super().__init__(
            f"there is no feature {kind} {reference!r} (there are: {', '.join(known) or 'none'}); define it with: tidemill features apply"
        )


class PlansCollide(Conflict):
    """Two services call by one name what comes from two versions of a view."""

    def __init__(self, feature: str, one: str, other: str) -> None:
        self.feature, self.one, self.other = feature, one, other
        super().__init__(
            f"feature {feature!r} would come from {one} and from {other} at once; "
            "serve models that pin different versions behind different endpoints, or name the changed feature anew"
        )


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
        known = _newest_views(tx, ws.project)
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


def read_view(ws: Workspace, reference: str) -> ViewVersion:
    """Return the version that `NAME@2` names, for `NAME` the newest. Raises DefinitionNotFound."""
    ws.require("features.read", reference)
    with ws.catalog.reading() as tx:
        return _view(_read(tx, FEATURE_VIEWS, "view", ws.project, reference))


def read_service(ws: Workspace, reference: str) -> ServiceVersion:
    """Return the version that `NAME@2` names, for `NAME` the newest, with its views. Raises DefinitionNotFound."""
    ws.require("features.read", reference)
    with ws.catalog.reading() as tx:
        row = _read(tx, FEATURE_SERVICES, "service", ws.project, reference)
        views = [_view(_read(tx, FEATURE_VIEWS, "view", ws.project, f"{name}@{row.views[name]}")) for name in row.definition.views]
    return _service(row, views)


def rollback(ws: Workspace, reference: str, *, reason: str = "") -> FeaturePlan:
    """Apply what a version of a service (`NAME@V`) was: its definition and those of its views are the newest again, as new versions.

    Nothing moves for models that pin a version. Raises DefinitionNotFound, and Invalid for what the sources do not fit any more.
    """
    return apply(ws, *_as_it_was(ws, reference), reason=reason)


def plan_rollback(ws: Workspace, reference: str) -> FeaturePlan:
    """Return what `rollback` would do, without doing it. Raises DefinitionNotFound, Invalid."""
    return plan(ws, *_as_it_was(ws, reference))


def _as_it_was(ws: Workspace, reference: str) -> tuple[list[FeatureView], list[FeatureService]]:
    found = read_service(ws, reference)
    if "@" not in reference:
        before = f"{found.name}@{max(1, found.version - 1)}"
        raise Invalid(f"service {reference!r} is at version {found.version}; name the one to go back to, as in {before}")
    return [view.definition for view in found.views], [found.definition]


def view_versions(ws: Workspace, name: str) -> list[ViewVersion]:
    """Return all versions of a feature view, the newest first. Raises DefinitionNotFound."""
    ws.require("features.read", name)
    with ws.catalog.reading() as tx:
        newest = _view(_read(tx, FEATURE_VIEWS, "view", ws.project, name))
        mine = select(FEATURE_VIEWS).where(FEATURE_VIEWS.c.project == ws.project, FEATURE_VIEWS.c.name == newest.name)
        return [_view(row) for row in tx.execute(mine.order_by(FEATURE_VIEWS.c.version.desc()))]


def changes_between(old: FeatureView, new: FeatureView) -> tuple[str, ...]:
    """Return what differs between two versions of a view, as a plan tells it."""
    return _fields_that_differ(old, new) or ("types of its columns",)


def list_views(ws: Workspace, *, search: str = "") -> list[ViewVersion]:
    """Return the newest version of each feature view, or of those that mention all words of a search, by name."""
    ws.require("features.read")
    with ws.catalog.reading() as tx:
        found = _newest_views(tx, ws.project).values()
    return sorted((view for view in found if mentions(view.definition, search)), key=lambda view: view.name)


def list_services(ws: Workspace, *, search: str = "") -> list[ServiceVersion]:
    """Return the newest version of each feature service, or of those that mention all words of a search, by name."""
    ws.require("features.read")
    with ws.catalog.reading() as tx:
        names = tx.execute(select(FEATURE_SERVICES.c.name).where(FEATURE_SERVICES.c.project == ws.project).distinct()).scalars().all()
    found = [read_service(ws, name) for name in sorted(names)]
    return [service for service in found if mentions(service.definition, search)]


def compile_plan(ws: Workspace, *services: str) -> ReadPlan:
    """Return what the data plane needs to look up the features of one or more services (`NAME` or `NAME@V`) in one read.

    Raises DefinitionNotFound, and PlansCollide when services pin different versions of what they call by one name.
    """
    views: dict[str, tuple[ViewVersion, list[str]]] = {}
    owners: dict[str, str] = {}
    found = [read_service(ws, service) for service in services]
    for service in found:
        by_name = {view.name: view for view in service.views}
        for view, feature in expand(service.definition, {name: version.definition for name, version in by_name.items()}):
            version = by_name[view.name]
            if owners.setdefault(feature.name, version.node) != version.node:
                raise PlansCollide(feature.name, owners[feature.name], version.node)
            wanted = views.setdefault(version.node, (version, []))[1]
            if feature.name not in wanted:
                wanted.append(feature.name)
        for name, expression in sorted(service.definition.computed.items()):
            if owners.setdefault(name, expression) != expression:
                raise PlansCollide(name, owners[name], expression)
    return ReadPlan(
        project=ws.project,
        services=tuple(service.reference for service in found),
        views=tuple(view_plan(ws.project, view, wanted=wanted) for view, wanted in views.values()),
        features=tuple(owners),
        on_demand=tuple(service.on_demand for service in found if service.definition.computed),
    )


def compile_views(ws: Workspace, *services: str) -> list[ViewPlan]:
    """Return the view versions into which pushes go: the newest ones, and those of the services' newest versions and of `services`.

    services: versions that models in use pin (`delay@1`), so that they are fed on.
    """
    live = {view.node: view for view in list_views(ws)}
    for service in [*list_services(ws), *(read_service(ws, each) for each in services)]:
        live.update({view.node: view for view in service.views})
    return [view_plan(ws.project, view) for _, view in sorted(live.items())]


def view_plan(project: str, view: ViewVersion, *, wanted: Sequence[str] | None = None) -> ViewPlan:
    """Return one view version as the data plane needs it. Each version has its own place online, so that pinned models are not moved."""
    namespace = f"features/{project}/{view.name}@{view.version}"
    if len(namespace.encode()) > NAMESPACE_BYTES:
        namespace = f"features/{digest_value([project, view.name, view.version])}"
    return ViewPlan(
        project=project,
        view=view.definition,
        version=view.version,
        namespace=namespace,
        key_kinds=view.keys.entity,
        event_key_kind=view.keys.event_key,
        types=view.keys.columns,
        wanted=tuple(wanted) if wanted is not None else tuple(feature.name for feature in view.definition.features),
    )


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
    before = _newest_views(tx, project)
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
        row = _newest_row(tx, FEATURE_SERVICES, project, service.name)
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


def _newest_views(tx: Connection, project: str) -> dict[str, ViewVersion]:
    newest = (
        select(FEATURE_VIEWS.c.name, func.max(FEATURE_VIEWS.c.version).label("version"))
        .where(FEATURE_VIEWS.c.project == project)
        .group_by(FEATURE_VIEWS.c.name)
        .subquery()
    )
    rows = tx.execute(
        select(FEATURE_VIEWS)
        .join(newest, (FEATURE_VIEWS.c.name == newest.c.name) & (FEATURE_VIEWS.c.version == newest.c.version))
        .where(FEATURE_VIEWS.c.project == project)
    )
    return {row.name: _view(row) for row in rows}


def _newest_row(tx: Connection, table: Table, project: str, name: str) -> Any:
    mine = select(table).where(table.c.project == project, table.c.name == name)
    return tx.execute(mine.order_by(table.c.version.desc()).limit(1)).one_or_none()


def _read(tx: Connection, table: Table, kind: str, project: str, reference: str) -> Any:
    name, _, version = reference.partition("@")
    row = None
    if not version:
        row = _newest_row(tx, table, project, name)
    elif version.isdecimal():
        row = tx.execute(
            select(table).where(table.c.project == project, table.c.name == name, table.c.version == int(version))
        ).one_or_none()
    if row is None:
        known = tx.execute(select(table.c.name).where(table.c.project == project).distinct().order_by(table.c.name)).scalars().all()
        raise DefinitionNotFound(kind, reference, known)
    return row


def _view(row: Any) -> ViewVersion:
    return ViewVersion(**{name: getattr(row, name) for name in ViewVersion.__struct_fields__})


def _service(row: Any, views: Sequence[ViewVersion]) -> ServiceVersion:
    return ServiceVersion(
        name=row.name,
        version=row.version,
        definition=row.definition,
        views=tuple(views),
        digest=row.digest,
        created_at=row.created_at,
        actor=row.actor,
    )
