"""Versions of feature views and services, to be read: one, all, the newest, compiled. Owns their tables; `applied` writes them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Integer, PrimaryKeyConstraint, Table, func, select

from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text
from tidemill.core.digest import digest_value
from tidemill.core.errors import Conflict, NotFound
from tidemill.core.ids import Digest
from tidemill.core.values import Value, field
from tidemill.features.incoming import KeyKind
from tidemill.features.on_demand import OnDemand, on_demand
from tidemill.features.online import JsonKind, ReadPlan, ViewPlan
from tidemill.features.views import FeatureService, FeatureView, expand, mentions
from tidemill.govern.workspace import Workspace
from tidemill.store.online import NAMESPACE_BYTES


class KeyKinds(Value, frozen=True, kw_only=True):
    """The types of a view's join keys and event key, as its source had them when the view was applied.

    columns: the SQL types of what its computed columns read. told: what JSON has features for whose columns are whole numbers or booleans,
    by name; another one makes no new version.
    """

    entity: tuple[KeyKind, ...]
    event_key: KeyKind | None = None
    columns: dict[str, str] = field(default_factory=dict)
    told: dict[str, JsonKind] = field(default_factory=dict)


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


def view_versions(ws: Workspace, name: str) -> list[ViewVersion]:
    """Return all versions of a feature view, the newest first. Raises DefinitionNotFound."""
    ws.require("features.read", name)
    with ws.catalog.reading() as tx:
        newest = _view(_read(tx, FEATURE_VIEWS, "view", ws.project, name))
        mine = select(FEATURE_VIEWS).where(FEATURE_VIEWS.c.project == ws.project, FEATURE_VIEWS.c.name == newest.name)
        return [_view(row) for row in tx.execute(mine.order_by(FEATURE_VIEWS.c.version.desc()))]


def list_views(ws: Workspace, *, search: str = "") -> list[ViewVersion]:
    """Return the newest version of each feature view, or of those that mention all words of a search, by name."""
    ws.require("features.read")
    with ws.catalog.reading() as tx:
        found = newest_views(tx, ws.project).values()
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
        required=tuple(dict.fromkeys(name for each in found if each.definition.missing == "fail" for name in each.feature_names)),
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
        told=view.keys.told,
        wanted=tuple(wanted) if wanted is not None else tuple(feature.name for feature in view.definition.features),
    )


def newest_views(tx: Connection, project: str) -> dict[str, ViewVersion]:
    """Return the newest version of each view of a project, by name."""
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


def newest_row(tx: Connection, table: Table, project: str, name: str) -> Any:
    """Return the row of the newest version of a definition, None when there is none."""
    mine = select(table).where(table.c.project == project, table.c.name == name)
    return tx.execute(mine.order_by(table.c.version.desc()).limit(1)).one_or_none()


def _read(tx: Connection, table: Table, kind: str, project: str, reference: str) -> Any:
    name, _, version = reference.partition("@")
    row = None
    if not version:
        row = newest_row(tx, table, project, name)
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
