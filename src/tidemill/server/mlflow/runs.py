"""MLflow's runs: begin, read, change, trash, search."""

from collections.abc import Mapping, Sequence
from typing import Literal

from tidemill.core.errors import Invalid
from tidemill.core.ids import RunId
from tidemill.core.names import any_name
from tidemill.core.values import UNSET, UnsetType, Wire
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.experiments import location_of
from tidemill.server.mlflow.inputs import RunInputs, RunOutputs, links_of
from tidemill.server.mlflow.wire import (
    DONE,
    AnyMillis,
    Empty,
    Filled,
    Int64,
    KeyValue,
    by_key,
    check_page,
    experiment_number,
    experiment_numbers,
    millis,
    moment,
    pairs,
    told_number,
    view_of,
)  # fmt: skip
from tidemill.tracking import facts, runs, search
from tidemill.tracking.runs import Run, RunNotFound, RunStatus

RUN_NAME = "mlflow.runName"
USER = "mlflow.user"
PARENT = "mlflow.parentRunId"
_NOBODY = "unknown"  # whom MLflow's client names when it was not told
_STATUSES: Mapping[str | int, RunStatus] = {
    "RUNNING": "running", 1: "running", "SCHEDULED": "scheduled", 2: "scheduled", "FINISHED": "finished", 3: "finished",
    "FAILED": "failed", 4: "failed", "KILLED": "killed", 5: "killed",
}  # fmt: skip


class WireMetric(Wire, frozen=True, kw_only=True):
    """One point of a metric as MLflow tells it."""

    key: str
    value: float | str
    timestamp: int
    step: int


class RunInfo(Wire, frozen=True, kw_only=True):
    """What a run is."""

    run_id: str
    run_uuid: str
    run_name: str
    experiment_id: str
    user_id: str
    status: str
    start_time: int
    end_time: int | UnsetType
    artifact_uri: str
    lifecycle_stage: Literal["active", "deleted"]


class RunData(Wire, frozen=True, kw_only=True):
    """What was logged to a run."""

    metrics: tuple[WireMetric, ...] | UnsetType = UNSET
    params: tuple[KeyValue, ...] | UnsetType = UNSET
    tags: tuple[KeyValue, ...] | UnsetType = UNSET


class WireRun(Wire, frozen=True, kw_only=True):
    """A run as MLflow tells it."""

    info: RunInfo
    data: RunData
    inputs: RunInputs
    outputs: RunOutputs | UnsetType = UNSET


class Create(Wire, frozen=True, kw_only=True):
    """What a run begins with."""

    experiment_id: Filled
    user_id: str = ""
    run_name: str = ""
    start_time: AnyMillis | None = None
    tags: tuple[KeyValue, ...] = ()


class ById(Wire, frozen=True, kw_only=True):
    """Names a run."""

    run_id: Filled


class Update(Wire, frozen=True, kw_only=True):
    """What is to change of a run."""

    run_id: Filled
    status: str | int = ""
    end_time: AnyMillis | None = None
    run_name: str = ""


class Search(Wire, frozen=True, kw_only=True):
    """Which runs are asked for."""

    experiment_ids: tuple[str, ...] = ()
    filter: str = ""
    run_view_type: str | int = 1
    max_results: Int64 = 1000
    order_by: tuple[str, ...] = ()
    page_token: str = ""


class Found(Wire, frozen=True, kw_only=True):
    """One run."""

    run: WireRun


class Updated(Wire, frozen=True, kw_only=True):
    """A run that was changed."""

    run_info: RunInfo


class FoundMany(Wire, frozen=True, kw_only=True):
    """A page of runs."""

    runs: tuple[WireRun, ...] | UnsetType = UNSET
    next_page_token: str | UnsetType = UNSET


def to_info(run: Run) -> RunInfo:
    """Return what a run is as MLflow tells it."""
    return RunInfo(
        run_id=run.id,
        run_uuid=run.id,
        run_name=run.name,
        experiment_id=str(run.experiment_id),
        user_id=run.tags.get(USER, run.actor),
        status=run.status.upper(),
        start_time=millis(run.started_at),
        end_time=UNSET if run.ended_at is None else millis(run.ended_at),
        artifact_uri=artifact_uri(run),
        lifecycle_stage=run.lifecycle,
    )


def to_data(run: Run) -> RunData:
    """Return what was logged to a run as MLflow tells it: the run's name is a tag, too."""
    points = [
        WireMetric(key=key, value=told_number(value), timestamp=seen.at_ms, step=seen.step)
        for (key, value), seen in zip(run.metrics.items(), run.last.values(), strict=True)
    ]
    return RunData(metrics=tuple(points) or UNSET, params=pairs(run.params) or UNSET, tags=pairs({**run.tags, RUN_NAME: run.name}) or UNSET)


def to_wire(ws: Workspace, found: Sequence[Run]) -> tuple[WireRun, ...]:
    """Return runs, with their datasets and models, as MLflow tells them."""
    links = links_of(ws, [run.id for run in found])
    return tuple(WireRun(info=to_info(run), data=to_data(run), inputs=links[run.id][0], outputs=links[run.id][1]) for run in found)


def artifact_uri(run: Run) -> str:
    """Return where a run's artifacts lie."""
    return f"{location_of(run.experiment_id, run.location)}/{run.id}/artifacts"


def read_run(ws: Workspace, run: str) -> Run:
    """Return a run by its id, deleted or not, without its artifacts. Raises RunNotFound."""
    found = runs.read_runs(ws, [run])
    if not found:
        raise RunNotFound(run)
    return found[0]


def create(ws: Workspace, request: Create) -> Found:
    """Begin a run."""
    tags = {key: value[: facts.TAG_MAX] for key, value in by_key(request.tags).items()}
    named = tags.pop(RUN_NAME, "")
    if request.run_name and named and request.run_name != named:
        raise Invalid(
            f"Both 'run_name' ({request.run_name!r}) and the tag {RUN_NAME!r} ({named!r}) are given, and they differ; give one of them"
        )
    if request.user_id and request.user_id != _NOBODY:
        tags.setdefault(USER, request.user_id)
    parent = tags.get(PARENT)
    made = runs.start_run(
        ws,
        experiment_number(request.experiment_id),
        name=request.run_name or named or any_name(),
        parent=RunId(parent) if parent else None,
        tags=tags,
        started_at=None if request.start_time is None else moment(request.start_time),
    )
    return Found(run=WireRun(info=to_info(made), data=to_data(made), inputs=RunInputs()))


def get(ws: Workspace, request: ById) -> Found:
    """Return a run, deleted or not."""
    return Found(run=to_wire(ws, [read_run(ws, request.run_id)])[0])


def update(ws: Workspace, request: Update) -> Updated:
    """Change a run's name, status or end."""
    changed = runs.update_run(
        ws,
        request.run_id,
        name=request.run_name or None,
        status=_STATUSES.get(request.status),
        ended_at=None if request.end_time is None else moment(request.end_time),
    )
    return Updated(run_info=to_info(changed))


def delete(ws: Workspace, request: ById) -> Empty:
    """Put a run into the trash."""
    runs.delete_run(ws, request.run_id)
    return DONE


def restore(ws: Workspace, request: ById) -> Empty:
    """Take a run out of the trash."""
    runs.restore_run(ws, request.run_id)
    return DONE


def search_runs(ws: Workspace, request: Search) -> FoundMany:
    """Return a page of runs."""
    page = search.search_runs(
        ws,
        experiment_numbers(request.experiment_ids),
        filter=request.filter,
        order_by=request.order_by,
        view=view_of(request.run_view_type),
        limit=check_page(request.max_results),
        page_token=request.page_token or None,
    )
    return FoundMany(runs=to_wire(ws, page.items) or UNSET, next_page_token=page.next or UNSET)


ENDPOINTS = (
    Endpoint("POST", "/mlflow/runs/create", Create, create, brief=True),
    Endpoint("GET", "/mlflow/runs/get", ById, get),
    Endpoint("POST", "/mlflow/runs/update", Update, update, brief=True),
    Endpoint("POST", "/mlflow/runs/delete", ById, delete),
    Endpoint("POST", "/mlflow/runs/restore", ById, restore),
    Endpoint("POST", "/mlflow/runs/search", Search, search_runs),
)
