"""Routes of experiments and runs."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from tidemill.core.clock import from_micros
from tidemill.core.codec import encode_text
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest, RunId
from tidemill.core.values import Meta, Value, field
from tidemill.datasets import versions
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import Limit, Route
from tidemill.tracking import batches, experiments, inputs, runs, uploads
from tidemill.tracking.batches import Metric, Series
from tidemill.tracking.experiments import Experiment
from tidemill.tracking.inputs import DatasetInput, InputDataset
from tidemill.tracking.runs import Run, RunArtifact, RunKind, RunStatus
from tidemill.tracking.uploads import Receipt


class StartRun(Value, frozen=True, kw_only=True):
    """What a run begins with. id: made by the caller, so that sending it again starts one run."""

    experiment: str
    name: str
    id: RunId | None = None
    kind: RunKind = "run"
    parent: RunId | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    started_at: datetime | None = None


class LogSeries(Value, frozen=True, kw_only=True):
    """Columns of points. writer: who sends them; number: how many of them this writer has sent, so that a resend counts once."""

    writer: Annotated[str, Meta(min_length=1, max_length=64)]
    number: Annotated[int, Meta(ge=1)]
    series: tuple[Series, ...]


class EndRun(Value, frozen=True, kw_only=True):
    """How a run ended."""

    status: Literal["finished", "failed", "killed"] = "finished"
    message: str = ""
    ended_at: datetime | None = None


class UpdateRun(Value, frozen=True, kw_only=True):
    """What to change of a run."""

    name: str | None = None
    status: RunStatus | None = None
    ended_at: datetime | None = None


class WholeFile(Value, frozen=True, kw_only=True):
    """A file that was sent in parts, or is about to be: its digest, and those of its parts in order."""

    path: str
    digest: Digest
    size_bytes: Annotated[int, Meta(ge=0)]
    parts: tuple[Digest, ...]


class Frame(Value, frozen=True, kw_only=True):
    """Data that is no dataset of this workspace: digest of its content, schema, number of rows."""

    name: str
    digest: str
    schema: dict[str, str] = field(default_factory=dict)
    rows: int | None = None


class ReadData(Value, frozen=True, kw_only=True):
    """What a run reads: a dataset version, the newest one at a moment unless named, or a frame. role: training, test, ..."""

    reference: str | None = None
    at: datetime | None = None
    dataset: Frame | None = None
    role: str = "training"


def list_experiments(ws: Workspace) -> list[Experiment]:
    """List experiments."""
    return experiments.list_experiments(ws)


def list_runs(
    ws: Workspace, *, experiment: str | None = None, kinds: Sequence[RunKind] = (), parent: str | None = None, limit: Limit = 100
) -> list[Run]:
    """List runs, newest first."""
    return runs.list_runs(ws, experiment=experiment, kinds=kinds, parent=parent, limit=limit)


def start_run(ws: Workspace, *, body: StartRun) -> Run:
    """Begin a run, with params and tags."""
    return runs.start_run(
        ws,
        body.experiment,
        name=body.name,
        kind=body.kind,
        parent=body.parent,
        params=body.params,
        tags=body.tags,
        sources=body.sources,
        run_id=body.id,
        started_at=body.started_at,
    )


def get_run(ws: Workspace, run: str) -> Run:
    """Return a run with its params, tags, latest metrics and artifacts."""
    return runs.read_run(ws, run)


def log_params(ws: Workspace, run: RunId, *, body: dict[str, str]) -> None:
    """Write params once."""
    batches.log_params(ws, run, body)


def set_tags(ws: Workspace, run: RunId, *, body: dict[str, str]) -> None:
    """Write tags, replacing those of the same key."""
    batches.set_tags(ws, run, body)


def log_metrics(ws: Workspace, run: RunId, *, body: tuple[Metric, ...]) -> None:
    """Add points to the histories of metrics, in order."""
    batches.log_metrics(ws, run, body)


def log_series(ws: Workspace, run: RunId, *, body: LogSeries) -> None:
    """Add columns of points to the histories of metrics; what was sent before counts once."""
    batches.log_series(ws, run, body.series, writer=body.writer, number=body.number)


def metric_history(ws: Workspace, run: RunId, key: str) -> list[Metric]:
    """List all points of a metric in the order in which they were logged."""
    points = runs.metric_history(ws, run, key)
    rows = zip(points.values.tolist(), points.steps.tolist(), points.times.tolist(), strict=True)
    return [Metric(key=key, value=value, step=step, at=from_micros(at)) for value, step, at in rows]


def log_artifact(ws: Workspace, run: RunId, path: str, *, body: Path) -> RunArtifact:
    """Keep the bytes sent under a path of a run."""
    return uploads.keep_artifact(ws, run, path, body)


def put_part(ws: Workspace, digest: Digest, *, body: Path) -> None:
    """Keep a part of a file until the file is whole. It is named by its digest (BLAKE3)."""
    uploads.keep_part(ws, digest, body)


def put_whole(ws: Workspace, run: RunId, *, body: WholeFile) -> Receipt:
    """Keep a file that was sent in parts under a path of a run, or say which parts are missing."""
    return uploads.keep_whole(ws, run, body.path, body.digest, body.size_bytes, body.parts)


def get_artifact(ws: Workspace, run: RunId, path: str) -> Path:
    """Return the bytes under a path of a run."""
    return ws.objects.local_path(uploads.find_artifact(ws, run, path).digest)


def update_run(ws: Workspace, run: RunId, *, body: UpdateRun) -> Run:
    """Rename a run, or say anew how it stands: an ended one may be opened again."""
    return runs.update_run(ws, run, name=body.name, status=body.status, ended_at=body.ended_at)


def log_input(ws: Workspace, run: RunId, *, body: ReadData) -> None:
    """Record what a run reads: for a dataset version, an edge of lineage."""
    inputs.log_inputs(ws, run, [DatasetInput(dataset=_input(ws, body), tags={inputs.CONTEXT: body.role})])


def end_run(ws: Workspace, run: RunId, *, body: EndRun) -> Run:
    """Record how a run ended; ending it again changes nothing."""
    return runs.end_run(ws, run, status=body.status, message=body.message, ended_at=body.ended_at)


def _input(ws: Workspace, body: ReadData) -> InputDataset:
    if body.reference is not None:
        found = versions.read_version(ws, body.reference, at=body.at)
        # The digest stands behind the name in lineage: a version's number does.
        return InputDataset(
            name=found.name, digest=str(found.version), source_type="tidemill", source=found.node, schema=encode_text(found.columns),
            profile=encode_text({"num_rows": found.rows}),
        )  # fmt: skip
    if body.dataset is None:
        raise Invalid("what the run reads is missing; send a reference such as flights@3, or a dataset with name and digest")
    frame = body.dataset
    return InputDataset(
        name=frame.name, digest=frame.digest, source_type="frame", source=frame.name, schema=encode_text(frame.schema),
        profile=encode_text({"num_rows": frame.rows}) if frame.rows is not None else None,
    )  # fmt: skip


ROUTES = (
    Route("GET", "/experiments", list_experiments),
    Route("GET", "/runs", list_runs),
    Route("POST", "/runs", start_run, status=201),
    Route("GET", "/runs/{run}", get_run),
    Route("PATCH", "/runs/{run}", update_run),
    Route("PUT", "/runs/{run}/params", log_params),
    Route("PUT", "/runs/{run}/tags", set_tags),
    Route("POST", "/runs/{run}/metrics", log_metrics),
    Route("POST", "/runs/{run}/series", log_series),
    Route("GET", "/runs/{run}/metrics/{key:path}", metric_history),
    Route("PUT", "/runs/{run}/artifacts/{path:path}", log_artifact, status=201),
    Route("GET", "/runs/{run}/artifacts/{path:path}", get_artifact),
    Route("PUT", "/file-parts/{digest}", put_part),
    Route("POST", "/runs/{run}/files", put_whole),
    Route("POST", "/runs/{run}/inputs", log_input),
    Route("PUT", "/runs/{run}/end", end_run),
)
