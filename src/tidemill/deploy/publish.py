"""Bring what the catalog says of endpoints to the data plane: compile the serving config, write it, see that workers follow."""

from collections.abc import Sequence

from sqlalchemy import select

from tidemill.core.clock import wait_until
from tidemill.deploy.endpoints import ENDPOINTS, Endpoint, fetch_endpoint, read_generation
from tidemill.features.definitions import FEATURE_VIEWS, compile_plan, compile_views
from tidemill.features.online import ReadPlan, ViewPlan
from tidemill.govern.keys import live_key_hashes
from tidemill.govern.workspace import Workspace
from tidemill.registry.versions import read_spec
from tidemill.serving.config import EndpointConfig, KeyHash, RoutePolicy, ServingConfig, VariantConfig, load, read_states, save


def publish(ws: Workspace, *, force: bool = False) -> int:
    """Write the serving config if the catalog has a newer generation than the file; return the generation that holds."""
    with ws.catalog.reading() as tx:
        generation = read_generation(tx)
        there = load(ws.state)
        if there is not None and there.generation >= generation and not force:
            return there.generation
        rows = tx.execute(select(ENDPOINTS.c.project, ENDPOINTS.c.name).order_by(ENDPOINTS.c.project, ENDPOINTS.c.name)).all()
        found = [(row.project, fetch_endpoint(tx, row.project, row.name)) for row in rows]
        projects = tx.execute(select(FEATURE_VIEWS.c.project).distinct().order_by(FEATURE_VIEWS.c.project)).scalars().all()
    endpoints = tuple(_endpoint(ws.acting(ws.actor, project), endpoint) for project, endpoint in found)
    config = ServingConfig(
        generation=generation,
        published_at=ws.clock.now(),
        endpoints=endpoints,
        views=tuple(view for project in projects for view in _views(ws.acting(ws.actor, project), endpoints)),
        keys=_keys(ws),
    )
    save(ws.state, config)
    return generation


def followed(ws: Workspace, generation: int, *, timeout_s: float = 30.0) -> bool:
    """Wait until every live serving worker serves a generation (or has said why it will not); return whether all do."""

    def settled() -> bool:
        states = read_states(ws.state).values()
        return all(state.generation >= generation or (state.refused_generation or 0) >= generation for state in states)

    return wait_until(settled, timeout_s=timeout_s, every_s=0.005)


def _endpoint(ws: Workspace, endpoint: Endpoint) -> EndpointConfig:
    route, yardstick = endpoint.route, endpoint.benchmark
    known = {variant.name: variant for variant in (*route.variants, *([yardstick] if yardstick else []))}
    variants = tuple(VariantConfig(name=v.name, model=v.model, version=v.version, bundle=v.bundle) for v in known.values())
    shares = {name: share for name, share in route.shares.items() if share > 0}
    return EndpointConfig(
        project=ws.project,
        name=endpoint.name,
        variants=variants,
        route=RoutePolicy(shares=shares, sticky_by=endpoint.sticky_by, salt=endpoint.name),
        shadows=tuple(dict.fromkeys((*route.shadows, *([yardstick.name] if yardstick else [])))),
        features=_features(ws, variants),
    )


def _features(ws: Workspace, variants: tuple[VariantConfig, ...]) -> ReadPlan | None:
    services = {read_spec(ws, variant.bundle).feature_service for variant in variants} - {None}
    return compile_plan(ws, *sorted(str(service) for service in services)) if services else None


def _views(ws: Workspace, endpoints: Sequence[EndpointConfig]) -> list[ViewPlan]:
    """Return the views of one project that events go into: the newest, and those that models which answer now pin."""
    pinned = {service for each in endpoints if each.project == ws.project and each.features for service in each.features.services}
    return compile_views(ws, *sorted(pinned))


def _keys(ws: Workspace) -> tuple[KeyHash, ...] | None:
    if ws.settings.authentication == "off":
        return None
    return tuple(
        KeyHash(id=key.id, sha256=sha256, project=key.project, writes=key.role != "viewer", expires_at=key.expires_at)
        for key, sha256 in live_key_hashes(ws)
    )
