"""From one answer back to what it came of: feature values as of then, model, run, code, data, checks, the decision that released it."""

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.catalog.events import Event, read_events
from tidemill.catalog.lineage import Edge, walk
from tidemill.checks.check import CheckRecord, list_checks
from tidemill.core.values import Value
from tidemill.datasets.versions import DatasetVersion
from tidemill.datasets.versions import read_version as read_dataset
from tidemill.deploy.endpoints import RouteSpan, list_endpoints, read_endpoint, route_history
from tidemill.govern.workspace import Workspace
from tidemill.registry.versions import ModelVersion, fetch_key
from tidemill.serving.config import endpoint_key
from tidemill.serving.history import JournaledPrediction, find_prediction, read_labels
from tidemill.tracking.runs import Run, list_runs, read_run

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
    found = find_prediction(ws.state, prediction_id, endpoints=[endpoint_key(ws.project, each) for each in names])
    name = found.endpoint.rpartition("/")[2]
    with ws.catalog.reading() as tx:
        model = fetch_key(tx, ws.project, found.model, found.version)
        edges = walk(tx, ws.project, model.node)
        events = read_events(tx, ws.project, subject=f"endpoint:{name}", kinds=RELEASE_KINDS, until=found.at, limit=None)
    runs = _training_runs(ws, model)
    # Equal artifacts are one node, so that the whole graph leads into other trainings too: the way back keeps to this one.
    kept = _near(edges, {model.node, *(run.node for run in runs)})
    sources = list(dict.fromkeys(edge.source for edge in kept))
    return Trace(
        prediction=found,
        label=_label(ws, prediction_id),
        model=model,
        checks=tuple(list_checks(ws, model.node)),
        runs=runs,
        code=next((run.tags["code"] for run in runs if "code" in run.tags), None),
        datasets=tuple(read_dataset(ws, _reference(node)) for node in sources if node.startswith("dataset:")),
        features=tuple(_reference(node) for node in sources if node.startswith(("service:", "view:"))),
        lineage=kept,
        route=_route_at(ws, name, found.at),
        release=_release(events, model.version),
    )


def _training_runs(ws: Workspace, model: ModelVersion) -> tuple[Run, ...]:
    """Return the pipeline run that a model came of and its steps in their order, or the one run that registered it."""
    if model.run is None:
        return ()
    own = read_run(ws, model.run)
    if own.parent is None:
        return (own,)
    steps = list_runs(ws, parent=own.parent, limit=1000)
    return (read_run(ws, own.parent), *sorted(steps, key=lambda run: (run.started_at, run.id)))


def _near(edges: Sequence[Edge], nodes: set[str]) -> tuple[Edge, ...]:
    """Return the edges into these nodes, and into the feature services and views that lead there."""
    found = [edge for edge in edges if edge.target in nodes]
    features = {edge.source for edge in found if edge.source.startswith("service:")}
    return (*found, *(edge for edge in edges if edge.target in features and edge.target not in nodes))


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
    labels = read_labels(ws.state)
    mine = labels.filter(pc.equal(labels["id"], pa.scalar(prediction_id))).to_pylist()
    return (mine[0]["value"] if mine[0]["text"] is None else mine[0]["text"]) if mine else None


def _reference(node: str) -> str:
    return node.partition(":")[2]
