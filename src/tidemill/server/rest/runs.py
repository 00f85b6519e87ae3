"""Routes of runs: begin, find, log, compare, end, delete, restore."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from tidemill.core.codec import encode_text
from tidemill.core.errors import Invalid
from tidemill.core.ids import RunId
from tidemill.core.pages import Page
from tidemill.core.values import Value, field
from tidemill.datasets import versions
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import Limit, Route
from tidemill.tracking import batches, compare, inputs, runs, search, selection, trash
from tidemill.tracking.batches import Metric
from tidemill.tracking.compare import Comparison
from tidemill.tracking.experiments import View
from tidemill.tracking.inputs import DatasetInput, InputDataset
from tidemill.tracking.runs import Run, RunKind, RunStatus


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


class LogBatch(Value, frozen=True, kw_only=True):
    """Points, params and tags of one run, taken all or not at all."""

    metrics: tuple[Metric, ...] = ()
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


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


def list_runs(
    ws: Workspace, *, experiment: str | None = None, kinds: Sequence[RunKind] = (), parent: str | None = None, limit: Limit = 100
) -> list[Run]:
    """List runs, newest first."""
    return runs.list_runs(ws, experiment=experiment, kinds=kinds, parent=parent, limit=limit)


def search_runs(
    ws: Workspace,
    *,
    experiments: Sequence[str] = (),
    filter: str = "",  # noqa: A002 (the word that every client knows)
    order_by: Sequence[str] = (),
    view: View = "active",
    limit: Limit = 100,
    page_token: str | None = None,
) -> Page[Run]:
    """Return a page of the runs that a filter picks, of some experiments or of all, in an order."""
    ids = selection.experiment_ids(ws, experiments)
    return search.search_runs(ws, ids, filter=filter, order_by=order_by, view=view, limit=limit, page_token=page_token)


def compare_runs(ws: Workspace, *, runs: Sequence[str], everything: bool = False) -> Comparison:
    """Return runs side by side: what differs, or everything."""
    return compare.compare_runs(ws, runs, everything=everything)


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


def log_batch(ws: Workspace, run: RunId, *, body: LogBatch) -> None:
    """Write points, params and tags, all or nothing."""
    batches.log_batch(ws, run, metrics=body.metrics, params=body.params, tags=body.tags)


def delete_tag(ws: Workspace, run: RunId, key: str) -> None:
    """Remove a tag of a run."""
    runs.delete_tag(ws, run, key)


def delete_run(ws: Workspace, run: RunId) -> None:
    """Put a run into the trash, with those that are part of it; what lies there already stays."""
    trash.delete_runs(ws, [run])


def restore_run(ws: Workspace, run: RunId) -> None:
    """Take a run out of the trash, with those that are part of it."""
    trash.restore_runs(ws, [run])


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
    Route("GET", "/runs", list_runs),
    Route("POST", "/runs", start_run, status=201),
    Route("GET", "/run-search", search_runs),
    Route("GET", "/run-comparison", compare_runs),
    Route("GET", "/runs/{run}", get_run),
    Route("PATCH", "/runs/{run}", update_run),
    Route("PUT", "/runs/{run}/params", log_params),
    Route("PUT", "/runs/{run}/tags", set_tags),
    Route("DELETE", "/runs/{run}/tags/{key:path}", delete_tag),
    Route("POST", "/runs/{run}/batch", log_batch),
    Route("DELETE", "/runs/{run}", delete_run),
    Route("POST", "/runs/{run}/restore", restore_run),
    Route("POST", "/runs/{run}/inputs", log_input),
    Route("PUT", "/runs/{run}/end", end_run),
)
