"""Where a model version came from: runs, code, data and features, read off the lineage."""

import re
from collections.abc import Sequence

from tidemill.catalog.lineage import Edge, walk
from tidemill.core.errors import NotFound
from tidemill.core.values import Value
from tidemill.datasets.versions import DatasetVersion
from tidemill.datasets.versions import read_version as read_dataset
from tidemill.govern.workspace import Workspace
from tidemill.registry.versions import ModelVersion
from tidemill.tracking.runs import Run, list_runs, read_run

# Under which tags runs say of what code they are: our own pipelines, and MLflow's clients.
_OURS = re.compile(r"[0-9]{1,9}")
CODE_TAGS = ("code", "mlflow.source.git.commit")


class Origins(Value, frozen=True, kw_only=True):
    """What a version came of. runs begin with the pipeline that trained it; lineage holds the edges of this training alone.

    data: what was read, also what is not kept here (NAME@DIGEST of MLflow's clients); datasets: those that are.
    """

    runs: tuple[Run, ...]
    code: str | None
    data: tuple[str, ...]
    datasets: tuple[DatasetVersion, ...]
    features: tuple[str, ...]
    lineage: tuple[Edge, ...]


def read_origins(ws: Workspace, version: ModelVersion) -> Origins:
    """Return what a version came of, as far as it is on record."""
    ws.require("registry.read", version.name)
    with ws.catalog.reading() as tx:
        edges = walk(tx, ws.project, version.node)
    runs = _training_runs(ws, version)
    # Equal artifacts are one node, so that the whole graph leads into other trainings too: the way back keeps to this one.
    kept = _near(edges, {version.node, *(run.node for run in runs), *_logged(edges, version)})
    sources = list(dict.fromkeys(edge.source for edge in kept))
    data = tuple(_reference(node) for node in sources if node.startswith("dataset:"))
    return Origins(
        runs=runs,
        code=next((run.tags[tag] for run in runs for tag in CODE_TAGS if tag in run.tags), None),
        data=data,
        datasets=tuple(found for reference in data if (found := _dataset(ws, reference)) is not None),
        features=tuple(_reference(node) for node in sources if node.startswith(("service:", "view:"))),
        lineage=kept,
    )


def _training_runs(ws: Workspace, version: ModelVersion) -> tuple[Run, ...]:
    """Return the pipeline run that a version came of and its steps in their order, or the one run that made it."""
    own = _run(ws, version.run)
    if own is None:
        return ()
    pipeline = _run(ws, own.parent)
    if pipeline is None or pipeline.kind != "pipeline":
        return (own,)
    steps = list_runs(ws, parent=pipeline.id, limit=1000)
    return (pipeline, *sorted(steps, key=lambda run: (run.started_at, run.id)))


def _run(ws: Workspace, run: str | None) -> Run | None:
    """Return a run, None for one that is not kept here: a version may name the run of another server."""
    try:
        return None if run is None else read_run(ws, run)
    except NotFound:
        return None


def _dataset(ws: Workspace, reference: str) -> DatasetVersion | None:
    """Return a dataset version, None for one that is not kept here."""
    if not _OURS.fullmatch(reference.rpartition("@")[2]):
        return None
    try:
        return read_dataset(ws, reference)
    except NotFound:
        return None


def _logged(edges: Sequence[Edge], version: ModelVersion) -> set[str]:
    return {edge.source for edge in edges if edge.target == version.node and edge.source.startswith("logged-model:")}


def _near(edges: Sequence[Edge], nodes: set[str]) -> tuple[Edge, ...]:
    """Return the edges into these nodes, and into the feature services and views that lead there."""
    found = [edge for edge in edges if edge.target in nodes]
    features = {edge.source for edge in found if edge.source.startswith("service:")}
    return (*found, *(edge for edge in edges if edge.target in features and edge.target not in nodes))


def _reference(node: str) -> str:
    return node.partition(":")[2]
