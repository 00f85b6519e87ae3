"""Where a model version runs: the endpoints whose routes name it, now and in the past."""

from datetime import datetime
from typing import Literal

from sqlalchemy import select

from tidemill.core.values import Value
from tidemill.deploy.endpoints import ENDPOINTS, Endpoint, Route, fetch_endpoint, route_history
from tidemill.govern.workspace import Workspace
from tidemill.registry.versions import ModelVersion

# It gives answers; scores along without answering; is the yardstick that always scores along; stands loaded, to return to.
Role = Literal["answers", "shadow", "benchmark", "standby"]


class Place(Value, frozen=True, kw_only=True):
    """A span in which a version was a variant behind an endpoint, in one role with one share of the answers."""

    endpoint: str
    variant: str
    role: Role
    share: float
    valid_from: datetime
    valid_to: datetime | None


def where_runs(ws: Workspace, version: ModelVersion, *, past: bool = False) -> list[Place]:
    """Return where a version runs now, by endpoint; with past, every span of the past too, newest first within an endpoint."""
    ws.require("deploy.read", version.name)
    found = [place for endpoint in _endpoints_of(ws, version) for place in _places(ws, endpoint, version)]
    return found if past else [place for place in found if place.valid_to is None]


def _endpoints_of(ws: Workspace, version: ModelVersion) -> list[Endpoint]:
    """Return the endpoints of the version's model: all variants of an endpoint are of one model."""
    query = select(ENDPOINTS.c.name).where(ENDPOINTS.c.project == ws.project, ENDPOINTS.c.model == version.key)
    with ws.catalog.reading() as tx:
        return [fetch_endpoint(tx, ws.project, name) for name in tx.execute(query.order_by(ENDPOINTS.c.name)).scalars().all()]


def _places(ws: Workspace, endpoint: Endpoint, version: ModelVersion) -> list[Place]:
    yardstick = endpoint.benchmark
    found: list[Place] = []
    if yardstick is not None and yardstick.version == version.version:
        found.append(
            Place(
                endpoint=endpoint.name, variant=yardstick.name, role="benchmark", share=0.0, valid_from=endpoint.created_at, valid_to=None
            )
        )
    for span in route_history(ws, endpoint.name):
        for variant in span.route.variants:
            if variant.version == version.version:
                role, share = role_in(span.route, variant.name)
                newer = found[-1] if found and found[-1].role != "benchmark" else None
                if newer is not None and (newer.role, newer.share, newer.valid_from) == (role, share, span.valid_to):
                    found[-1] = _longer(newer, span.valid_from)  # another variant's change made a new route of the same place
                    continue
                found.append(
                    Place(
                        endpoint=endpoint.name,
                        variant=variant.name,
                        role=role,
                        share=share,
                        valid_from=span.valid_from,
                        valid_to=span.valid_to,
                    )
                )
    return found


def role_in(route: Route, variant: str) -> tuple[Role, float]:
    """Return what a variant does in a route, and its share of the answers."""
    share = route.shares.get(variant, 0.0)
    return ("answers" if share > 0 else "shadow" if variant in route.shadows else "standby"), share


def _longer(place: Place, valid_from: datetime) -> Place:
    return Place(
        endpoint=place.endpoint, variant=place.variant, role=place.role, share=place.share, valid_from=valid_from, valid_to=place.valid_to
    )
