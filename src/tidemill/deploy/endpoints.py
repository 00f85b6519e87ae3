"""Endpoints: names that callers use, and the history of which variants answered with which shares. Owns their tables."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Index, PrimaryKeyConstraint, Table, insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, as_of, current, insert_new
from tidemill.core.codec import convert, plain
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import Digest, EventId, ModelName, check_name
from tidemill.core.values import Value, replace
from tidemill.features.definitions import compile_plan
from tidemill.features.online import ReadPlan
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import read_version
from tidemill.registry.bundles import read_spec
from tidemill.registry.versions import ModelVersion, bundle_of, fetch_key
from tidemill.serving.config import EndpointOptions
from tidemill.serving.rows import row_schema
from tidemill.serving.runtimes.runtime import check_runtime


class Variant(Value, frozen=True, kw_only=True):
    """A model version behind an endpoint. model: the key of the registered model, which outlasts its name."""

    name: str
    model: ModelName
    version: int
    bundle: Digest


ENDPOINTS = Table(
    "endpoints",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("sticky_by", Text),
    Column("benchmark", JsonValue(Variant)),
    Column("options", JsonValue(EndpointOptions)),
    Column("owner", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "name"),
)


class Route(Value, frozen=True, kw_only=True):
    """Who answers: variants that are loaded, each one's share of the answers, and those that score without answering."""

    variants: tuple[Variant, ...]
    shares: dict[str, float]
    shadows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise Invalid(f"the route has two variants of one name: {', '.join(names)}")
        strange = sorted((set(self.shares) | set(self.shadows)) - set(names))
        if strange:
            raise Invalid(f"the route names variants that the endpoint lacks: {', '.join(strange)} (it has: {', '.join(names)})")
        total = sum(self.shares.values())
        if not abs(total - 1) <= 1e-9 or min(self.shares.values(), default=0) < 0:
            raise Invalid(f"the shares of a route must be at least 0 and sum to 1, got {self.shares} with sum {total:g}")

    @property
    def leader(self) -> Variant:
        """The variant with the largest share."""
        return max(self.variants, key=lambda variant: self.shares.get(variant.name, 0.0))


ROUTES = Table(
    "endpoint_routes",
    METADATA,
    Column("project", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("route", JsonValue(Route), nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("valid_from", Moment, nullable=False),
    Column("valid_to", Moment),
    PrimaryKeyConstraint("project", "endpoint", "valid_from"),
    Index("ix_endpoint_routes_current", "project", "endpoint", "valid_to"),
)


class Endpoint(Value, frozen=True, kw_only=True):
    """A name that callers use, and what stands behind it now. benchmark: a variant that scores everything along and never answers."""

    name: str
    model: ModelName
    sticky_by: str | None
    benchmark: Variant | None
    owner: str
    created_at: datetime
    route: Route
    options: EndpointOptions = EndpointOptions()


class RouteSpan(Value, frozen=True, kw_only=True):
    """A span of time in which one route held."""

    route: Route
    actor: str
    reason: str
    valid_from: datetime
    valid_to: datetime | None


class EndpointCreated(EventBody, frozen=True, kw_only=True, tag="endpoint.created"):
    """A name for callers was made."""

    endpoint: str
    model: ModelName
    version: int


class EndpointRouted(EventBody, frozen=True, kw_only=True, tag="endpoint.routed"):
    """The shares of an endpoint's variants changed."""

    endpoint: str
    shares: dict[str, float]
    shadows: tuple[str, ...]


class EndpointChanged(EventBody, frozen=True, kw_only=True, tag="endpoint.changed"):
    """An endpoint serves in another way."""

    endpoint: str
    options: EndpointOptions


class EndpointNotFound(NotFound):
    """No endpoint of that name."""

    def __init__(self, endpoint: str, known: Sequence[str]) -> None:
        self.endpoint, self.known = endpoint, tuple(known)
        has = ", ".join(known) or "none"
        super().__init__(
            f"there is no endpoint {endpoint!r} (there are: {has}); make it with: tidemill endpoint create {endpoint} MODEL@VERSION"
        )


def variant_of(version: ModelVersion) -> Variant:
    """Return the variant that stands for a model version. Raises FilesElsewhere for one whose files are not in this workspace."""
    return Variant(name=f"v{version.version}", model=version.key, version=version.version, bundle=bundle_of(version))


def version_of(ws: Workspace, variant: Variant) -> ModelVersion:
    """Return the model version that a variant stands for, whatever its model is called by now."""
    with ws.catalog.reading() as tx:
        return fetch_key(tx, ws.project, variant.model, variant.version)


def create_endpoint(
    ws: Workspace,
    name: str,
    reference: str,
    *,
    sticky_by: str | None = None,
    benchmark: str | None = None,
    reason: str = "",
    cause: EventId | None = None,
) -> Endpoint:
    """Make an endpoint that a model version (NAME@VERSION or NAME@alias) answers alone. Raises Conflict when the name is taken.

    benchmark names a version that scores every request along without ever answering, whatever is released later: the yardstick.
    Raises Invalid for one of another model, and PlansCollide when the two cannot be served side by side.
    """
    ws.require("deploy.write", name)
    check_name(name, "endpoint")
    version = read_version(ws, reference)
    variant, now = variant_of(version), ws.clock.now()
    yardstick = variant_of(read_version(ws, benchmark)) if benchmark is not None else None
    if yardstick is not None:
        check_model(name, version.key, yardstick)
    read_plan(ws, [variant, *([yardstick] if yardstick else [])])
    route = Route(variants=(variant,), shares={variant.name: 1.0})
    with ws.catalog.transaction() as tx:
        row = {
            "project": ws.project, "name": name, "model": version.key, "sticky_by": sticky_by, "benchmark": yardstick,
            "owner": ws.actor.id, "created_at": now,
        }  # fmt: skip
        if not insert_new(tx, ENDPOINTS, [row]):
            raise Conflict(f"endpoint {name!r} is there already; change what answers with: tidemill endpoint rollout {name} {reference}")
        ws.record(
            tx,
            EndpointCreated(endpoint=name, model=version.name, version=version.version),
            subject=f"endpoint:{name}",
            reason=reason,
            cause=cause,
        )
        write_route(ws, tx, name, route, reason=reason, cause=cause)
        return fetch_endpoint(tx, ws.project, name)


def change_endpoint(ws: Workspace, name: str, changes: Mapping[str, Any], *, reason: str = "") -> Endpoint:
    """Change how an endpoint serves: fields of `EndpointOptions` by name. Raises EndpointNotFound, Invalid."""
    ws.require("deploy.write", name)
    _check_hidden(ws, read_endpoint(ws, name), changes)
    with ws.catalog.transaction() as tx:
        found = fetch_endpoint(tx, ws.project, name)
        options = _changed(found, changes)
        if options != found.options:
            mine = (ENDPOINTS.c.project == ws.project) & (ENDPOINTS.c.name == name)
            tx.execute(update(ENDPOINTS).where(mine).values(options=options))
            ws.record(tx, EndpointChanged(endpoint=name, options=options), subject=f"endpoint:{name}", reason=reason)
        return replace(found, options=options)


def _changed(endpoint: Endpoint, changes: Mapping[str, Any]) -> EndpointOptions:
    options: EndpointOptions = convert({**plain(endpoint.options), **changes}, EndpointOptions)
    return options


def _check_hidden(ws: Workspace, endpoint: Endpoint, changes: Mapping[str, Any]) -> None:
    """Raises Invalid for a column that is to be hidden and that no row has: a misspelt one would go on to be written."""
    options = _changed(endpoint, changes)
    hidden = {*options.journal_drop, *options.journal_hash}
    if not hidden - {*endpoint.options.journal_drop, *endpoint.options.journal_hash}:
        return
    variants = endpoint.route.variants
    plan = read_plan(ws, variants)
    specs = [read_spec(ws, variant.bundle) for variant in variants]
    known = {*row_schema(endpoint.name, specs, [], plan, endpoint.sticky_by, options.label_key).types, *(plan.features if plan else ())}
    if strange := sorted(hidden - known):
        raise Invalid(f"endpoint {endpoint.name!r} has no column {strange[0]!r} to hide; expected some of: {', '.join(sorted(known))}")


def check_model(endpoint: str, model: ModelName, variant: Variant) -> None:
    """Raises Invalid for a variant of another model than the endpoint's: variants are named by their versions."""
    if variant.model != model:
        raise Invalid(
            f"endpoint {endpoint!r} answers with model {model!r}, and {variant.model}@{variant.version} is of another; "
            f"register it as a version of {model!r}, or make an endpoint of its own"
        )


def read_plan(ws: Workspace, variants: Sequence[Variant]) -> ReadPlan | None:
    """Return what the data plane looks up for variants, None when nothing.

    Raises NotServable, RuntimeRefused, and PlansCollide when they cannot be served together.
    """
    specs = [read_spec(ws, variant.bundle) for variant in variants]
    for spec in specs:
        check_runtime(spec, ws.settings.trusted_runtimes)
    services = {spec.feature_service for spec in specs} - {None}
    return compile_plan(ws, *sorted(str(service) for service in services)) if services else None


def list_endpoints(ws: Workspace) -> list[Endpoint]:
    """Return the endpoints of this project by name."""
    ws.require("deploy.read")
    with ws.catalog.reading() as tx:
        names = tx.execute(select(ENDPOINTS.c.name).where(ENDPOINTS.c.project == ws.project).order_by(ENDPOINTS.c.name)).scalars().all()
        return [fetch_endpoint(tx, ws.project, name) for name in names]


def read_endpoint(ws: Workspace, name: str, *, at: datetime | None = None) -> Endpoint:
    """Return an endpoint as it is, or as it was at a moment. Raises EndpointNotFound."""
    ws.require("deploy.read", name)
    with ws.catalog.reading() as tx:
        return fetch_endpoint(tx, ws.project, name, at=at)


def route_history(ws: Workspace, name: str) -> list[RouteSpan]:
    """Return every route that an endpoint had, newest first."""
    ws.require("deploy.read", name)
    query = select(ROUTES).where(ROUTES.c.project == ws.project, ROUTES.c.endpoint == name).order_by(ROUTES.c.valid_from.desc())
    with ws.catalog.reading() as tx:
        return [RouteSpan(**{field: getattr(row, field) for field in RouteSpan.__struct_fields__}) for row in tx.execute(query)]


def fetch_endpoint(tx: Connection, project: str, name: str, *, at: datetime | None = None) -> Endpoint:
    """Return an endpoint, in the caller's transaction. Raises EndpointNotFound."""
    row: Any = tx.execute(select(ENDPOINTS).where(ENDPOINTS.c.project == project, ENDPOINTS.c.name == name)).one_or_none()
    held = select(ROUTES.c.route).where(ROUTES.c.project == project, ROUTES.c.endpoint == name, as_of(ROUTES, at))
    route = tx.execute(held).scalar_one_or_none()
    if row is None or route is None:
        known = tx.execute(select(ENDPOINTS.c.name).where(ENDPOINTS.c.project == project).order_by(ENDPOINTS.c.name)).scalars()
        raise EndpointNotFound(name, list(known))
    fields = {field: getattr(row, field) for field in ("name", "model", "sticky_by", "benchmark", "owner", "created_at")}
    return Endpoint(**fields, route=route, options=row.options or EndpointOptions())


def write_route(ws: Workspace, tx: Connection, name: str, route: Route, *, reason: str, cause: EventId | None = None) -> None:
    """Close the route that held and open another, with its event, in the caller's transaction."""
    now = ws.clock.now()
    held = (ROUTES.c.project == ws.project) & (ROUTES.c.endpoint == name) & current(ROUTES)
    before = tx.execute(select(ROUTES.c.valid_from).where(held)).scalar_one_or_none()
    if before == now:  # changed twice in one moment: the last word counts
        tx.execute(update(ROUTES).where(held).values(route=route, reason=reason, actor=ws.actor.id))
    else:
        tx.execute(update(ROUTES).where(held).values(valid_to=now))
        row = {"project": ws.project, "endpoint": name, "route": route, "actor": ws.actor.id, "reason": reason, "valid_from": now}
        tx.execute(insert(ROUTES).values(**row))
    for variant in route.variants:
        link(tx, ws.project, source=f"model:{variant.model}@{variant.version}", target=f"endpoint:{name}", relation="deployed", at=now)
    ws.record(
        tx,
        EndpointRouted(endpoint=name, shares=route.shares, shadows=route.shadows),
        subject=f"endpoint:{name}",
        reason=reason,
        cause=cause,
    )
