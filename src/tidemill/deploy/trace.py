"""From one answer back to what it came of: feature values as of then, model, run, code, data, checks, the decision that released it."""

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.catalog.events import Event, read_events
from tidemill.catalog.lineage import Edge
from tidemill.checks.check import CheckRecord, list_checks
from tidemill.core.values import Value
from tidemill.datasets.versions import DatasetVersion
from tidemill.deploy.endpoints import RouteSpan, list_endpoints, read_endpoint, route_history
from tidemill.deploy.origins import read_origins
from tidemill.govern.workspace import Workspace
from tidemill.registry.versions import ModelVersion, fetch_key
from tidemill.serving.config import endpoint_key
from tidemill.serving.history import JournaledPrediction, find_prediction, read_labels
from tidemill.tracking.runs import Run

RELEASE_KINDS = ("endpoint.created", "rollout.started", "rollout.advanced", "rollout.ended", "endpoint.routed")


class Trace(Value, frozen=True, kw_only=True):
    """The way from one answer back. runs begin with the pipeline that trained the model; release ends with the route that answered."""

    prediction: JournaledPrediction
    label: float | str | None
    model: ModelVersion
    checks: tuple[CheckRecord, ...]
    runs: tuple[Run, ...]
    code: str | None
    datasets: tuple[DatasetVersion, ...]
    features: tuple[str, ...]
    lineage: tuple[Edge, ...]
    route: RouteSpan | None
    release: tuple[Event, ...]


def trace(ws: Workspace, prediction_id: str, *, endpoint: str | None = None) -> Trace:
    """Return where an answer came from. Raises PredictionNotFound, EndpointNotFound."""
    ws.require("deploy.read", prediction_id)
    names = [known.name for known in ([read_endpoint(ws, endpoint)] if endpoint is not None else list_endpoints(ws))]
    found = find_prediction(ws.state, prediction_id, endpoints=[endpoint_key(ws.project, each) for each in names], objects=ws.objects)
    name = found.endpoint.rpartition("/")[2]
    with ws.catalog.reading() as tx:
        model = fetch_key(tx, ws.project, found.model, found.version)
        events = read_events(tx, ws.project, subject=f"endpoint:{name}", kinds=RELEASE_KINDS, until=found.at, limit=None)
    origins = read_origins(ws, model)
    return Trace(
        prediction=found,
        label=_label(ws, prediction_id),
        model=model,
        checks=tuple(list_checks(ws, model.node)),
        runs=origins.runs,
        code=origins.code,
        datasets=origins.datasets,
        features=origins.features,
        lineage=origins.lineage,
        route=_route_at(ws, name, found.at),
        release=_release(events, model.version),
    )


def _route_at(ws: Workspace, endpoint: str, at: datetime) -> RouteSpan | None:
    spans = (span for span in route_history(ws, endpoint) if span.valid_from <= at and (span.valid_to is None or at < span.valid_to))
    return next(spans, None)


def _release(events: Sequence[Event], version: int) -> tuple[Event, ...]:
    """Return those of an endpoint's events that brought a version to answer: its rollouts, and the routes that gave it a share."""
    rollouts = {event.body["rollout"] for event in events if event.kind == "rollout.started" and event.body["challenger"] == version}

    def tells(event: Event) -> bool:
        if event.kind == "endpoint.routed":
            return bool(event.body["shares"].get(f"v{version}", 0) > 0)
        return event.body["version"] == version if event.kind == "endpoint.created" else event.body["rollout"] in rollouts

    return tuple(filter(tells, events))


def _label(ws: Workspace, prediction_id: str) -> float | str | None:
    labels = read_labels(ws.state, objects=ws.objects)
    mine = labels.filter(pc.equal(labels["id"], pa.scalar(prediction_id))).to_pylist()
    return (mine[0]["value"] if mine[0]["text"] is None else mine[0]["text"]) if mine else None
