"""Bring what the catalog says of endpoints to the data plane: compile the serving config, write it, see that workers follow.

What the data plane has to hear of are events: their number is the config's generation.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from tidemill.catalog.events import count_events
from tidemill.core.clock import wait_until
from tidemill.core.errors import Invalid, TidemillError
from tidemill.datasets.keys import list_keys
from tidemill.deploy.endpoints import ENDPOINTS, Endpoint, change_endpoint, create_endpoint, fetch_endpoint, read_plan
from tidemill.features.definitions import FEATURE_VIEWS, compile_plan, compile_views, list_services
from tidemill.features.online import ReadPlan, ViewPlan
from tidemill.govern.actors import CONTROLLER, read_actor
from tidemill.govern.keys import live_key_hashes
from tidemill.govern.workspace import Workspace
from tidemill.serving.config import (
    EndpointConfig,
    KeyHash,
    RoutePolicy,
    ServingConfig,
    VariantConfig,
    endpoint_key,
    load,
    read_states,
    save,
)

LOG = logging.getLogger("tidemill.publish")
CREATE_S = 10.0
HEARD = ("endpoint.routed", "endpoint.changed", "features.applied", "dataset.keyed", "api_key.issued", "api_key.revoked", "role.granted")


def publish(ws: Workspace) -> int:
    """Write the serving config if something has happened that it does not tell of; return the generation that holds.

    An endpoint that cannot be compiled goes on as it was served before; the others are not held up by it.
    """
    there = _published(ws)
    with ws.catalog.reading() as tx:
        generation = count_events(tx, kinds=HEARD)
        # Whether keys are asked for is a setting: it changes without an event.
        if there is not None and there.generation >= generation and (there.keys is None) == (ws.settings.authentication == "off"):
            return there.generation
        rows = tx.execute(select(ENDPOINTS.c.project, ENDPOINTS.c.name).order_by(ENDPOINTS.c.project, ENDPOINTS.c.name)).all()
        found = [(row.project, fetch_endpoint(tx, row.project, row.name)) for row in rows]
        projects = tx.execute(select(FEATURE_VIEWS.c.project).distinct().order_by(FEATURE_VIEWS.c.project)).scalars().all()
    served = {endpoint.key: endpoint for endpoint in there.endpoints} if there is not None else {}
    endpoints = tuple(
        compiled for project, endpoint in found if (compiled := _compiled(ws.acting(ws.actor, project), endpoint, served)) is not None
    )
    config = ServingConfig(
        generation=generation,
        published_at=ws.clock.now(),
        endpoints=endpoints,
        services=tuple(plan for project in projects for plan in _services(ws.acting(ws.actor, project))),
        views=tuple(view for project in projects for view in fed_views(ws.acting(ws.actor, project), endpoints)),
        keyed=tuple(endpoint_key(project, key.dataset) for project in projects for key in list_keys(ws.acting(ws.actor, project))),
        keys=_keys(ws),
    )
    save(ws.state, config)
    return generation


def create_and_serve(ws: Workspace, name: str, reference: str, **named: Any) -> Endpoint:
    """Make an endpoint as `create_endpoint` does, and return once the serving workers that there are answer for it."""
    made = create_endpoint(ws, name, reference, **named)
    _serve(ws, name)
    return made


def change_and_serve(ws: Workspace, name: str, changes: Mapping[str, Any], *, reason: str = "") -> Endpoint:
    """Change how an endpoint serves as `change_endpoint` does, and return once the serving workers that there are do so."""
    changed = change_endpoint(ws, name, changes, reason=reason)
    _serve(ws, name)
    return changed


def _serve(ws: Workspace, name: str) -> None:
    with ws.catalog.reading() as tx:
        controller = read_actor(tx, CONTROLLER, project=ws.project)  # the data plane is its, whoever changed the endpoint
    own = ws.acting(controller, ws.project)
    if not followed(own, publish(own), timeout_s=CREATE_S):
        LOG.warning("not every serving worker has taken up yet what endpoint %s is now", name)


def followed(ws: Workspace, generation: int, *, timeout_s: float = 30.0) -> bool:
    """Wait until every live serving worker serves a generation (what of it can be served); return whether all do."""
    return wait_until(
        lambda: all(state.generation >= generation for state in read_states(ws.state).values()), timeout_s=timeout_s, every_s=0.005
    )


def _published(ws: Workspace) -> ServingConfig | None:
    try:
        return load(ws.state)
    except Invalid as error:
        LOG.error("%s; it is written anew", error)
        return None


def _compiled(ws: Workspace, endpoint: Endpoint, served: Mapping[str, EndpointConfig]) -> EndpointConfig | None:
    try:
        return _endpoint(ws, endpoint)
    except TidemillError as error:
        LOG.error("endpoint %s cannot be published: %s; it goes on as it was", endpoint.name, error)
        return served.get(endpoint_key(ws.project, endpoint.name))


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
        features=read_plan(ws, list(known.values())),
        options=endpoint.options,
    )


def fed_views(ws: Workspace, endpoints: Sequence[EndpointConfig]) -> list[ViewPlan]:
    """Return the views of one project that events go into: the newest, and those that models which answer now pin."""
    pinned = {service for each in endpoints if each.project == ws.project and each.features for service in each.features.services}
    return compile_views(ws, *sorted(pinned))


def _services(ws: Workspace) -> list[ReadPlan]:
    """Return the newest version of each feature service of one project, compiled."""
    return [compile_plan(ws, service.reference) for service in list_services(ws)]


def _keys(ws: Workspace) -> tuple[KeyHash, ...] | None:
    if ws.settings.authentication == "off":
        return None
    return tuple(
        KeyHash(id=key.id, sha256=sha256, project=key.project, writes=key.role != "viewer", expires_at=key.expires_at)
        for key, sha256 in live_key_hashes(ws)
    )
