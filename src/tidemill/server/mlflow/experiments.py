"""MLflow's experiments."""

from typing import Literal

from tidemill.core.errors import Invalid
from tidemill.core.values import UNSET, UnsetType, Wire
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.wire import (
    DONE,
    Empty,
    Filled,
    Int64,
    KeyValue,
    by_key,
    check_page,
    experiment_number,
    millis,
    pairs,
    view_of,
)  # fmt: skip
from tidemill.tracking import experiments
from tidemill.tracking.experiments import Experiment, ExperimentInTrash, ExperimentNotFound

LOCATION_MAX = 2048
_OURS = "mlflow-artifacts:"


class WireExperiment(Wire, frozen=True, kw_only=True):
    """An experiment as MLflow tells it."""

    experiment_id: str
    name: str
    artifact_location: str
    lifecycle_stage: Literal["active", "deleted"]
    last_update_time: int
    creation_time: int
    workspace: str
    tags: tuple[KeyValue, ...] | UnsetType = UNSET


class Create(Wire, frozen=True, kw_only=True):
    """What an experiment begins with."""

    name: Filled
    artifact_location: str = ""
    tags: tuple[KeyValue, ...] = ()


class Created(Wire, frozen=True, kw_only=True):
    """The id that a new experiment got."""

    experiment_id: str


class ById(Wire, frozen=True, kw_only=True):
    """Names an experiment."""

    experiment_id: Filled


class ByName(Wire, frozen=True, kw_only=True):
    """Names an experiment by the name that people gave it."""

    experiment_name: Filled


class Rename(Wire, frozen=True, kw_only=True):
    """Another name for an experiment."""

    experiment_id: Filled
    new_name: Filled


class SetTag(Wire, frozen=True, kw_only=True):
    """One tag of an experiment."""

    experiment_id: Filled
    key: Filled
    value: str = ""


class DeleteTag(Wire, frozen=True, kw_only=True):
    """A tag that is to go."""

    experiment_id: Filled
    key: Filled


class Search(Wire, frozen=True, kw_only=True):
    """Which experiments are asked for."""

    max_results: Int64 = 0
    page_token: str = ""
    filter: str = ""
    order_by: tuple[str, ...] = ()
    view_type: str | int = 1


class Found(Wire, frozen=True, kw_only=True):
    """One experiment."""

    experiment: WireExperiment


class FoundMany(Wire, frozen=True, kw_only=True):
    """A page of experiments."""

    experiments: tuple[WireExperiment, ...] | UnsetType = UNSET
    next_page_token: str | UnsetType = UNSET


def location_of(experiment: int, location: str) -> str:
    """Return where an experiment's artifacts lie: where it was told, else with this server."""
    return location or f"{_OURS}/{experiment}"


def to_wire(found: Experiment, *, project: str) -> WireExperiment:
    """Return an experiment as MLflow tells it."""
    return WireExperiment(
        experiment_id=str(found.id),
        name=found.name,
        artifact_location=location_of(found.id, found.location),
        lifecycle_stage=found.lifecycle,
        last_update_time=millis(found.updated_at),
        creation_time=millis(found.created_at),
        tags=pairs(found.tags) or UNSET,
        workspace=project,
    )


def create(ws: Workspace, request: Create) -> Created:
    """Make an experiment."""
    if len(request.artifact_location) > LOCATION_MAX or "\0" in request.artifact_location:
        raise Invalid(f"the artifact location has {len(request.artifact_location)} characters; expected at most {LOCATION_MAX}")
    made = experiments.create_experiment(ws, request.name, location=request.artifact_location, tags=by_key(request.tags))
    return Created(experiment_id=str(made.id))


def get(ws: Workspace, request: ById) -> Found:
    """Return an experiment, deleted or not."""
    return Found(experiment=to_wire(experiments.read_experiment(ws, experiment_number(request.experiment_id)), project=ws.project))


def get_by_name(ws: Workspace, request: ByName) -> Found:
    """Return the experiment of a name, deleted or not."""
    found = experiments.find_experiment(ws, request.experiment_name)
    if found is None:
        raise ExperimentNotFound(request.experiment_name)
    return Found(experiment=to_wire(found, project=ws.project))


def search(ws: Workspace, request: Search) -> FoundMany:
    """Return a page of experiments."""
    page = experiments.search_experiments(
        ws,
        filter=request.filter,
        order_by=request.order_by,
        view=view_of(request.view_type),
        limit=check_page(request.max_results),
        page_token=request.page_token or None,
    )
    found = tuple(to_wire(item, project=ws.project) for item in page.items)
    return FoundMany(experiments=found or UNSET, next_page_token=page.next or UNSET)


def delete(ws: Workspace, request: ById) -> Empty:
    """Put an experiment into the trash. MLflow does not find one that lies there."""
    try:
        experiments.delete_experiment(ws, experiment_number(request.experiment_id))
    except ExperimentInTrash as error:
        raise ExperimentNotFound(error.experiment.id) from error
    return DONE


def restore(ws: Workspace, request: ById) -> Empty:
    """Take an experiment out of the trash. MLflow looks for it nowhere else."""
    number = experiment_number(request.experiment_id)
    if experiments.read_experiment(ws, number).lifecycle == "active":
        raise ExperimentNotFound(number)
    experiments.restore_experiment(ws, number)
    return DONE


def rename(ws: Workspace, request: Rename) -> Empty:
    """Give an experiment another name."""
    experiments.rename_experiment(ws, experiment_number(request.experiment_id), request.new_name)
    return DONE


def set_tag(ws: Workspace, request: SetTag) -> Empty:
    """Write a tag."""
    experiments.set_experiment_tags(ws, experiment_number(request.experiment_id), {request.key: request.value})
    return DONE


def delete_tag(ws: Workspace, request: DeleteTag) -> Empty:
    """Remove a tag."""
    experiments.delete_experiment_tag(ws, experiment_number(request.experiment_id), request.key)
    return DONE


ENDPOINTS = (
    Endpoint("POST", "/mlflow/experiments/create", Create, create),
    Endpoint("GET", "/mlflow/experiments/get", ById, get),
    Endpoint("GET", "/mlflow/experiments/get-by-name", ByName, get_by_name),
    Endpoint("GET", "/mlflow/experiments/search", Search, search),
    Endpoint("POST", "/mlflow/experiments/search", Search, search),
    Endpoint("POST", "/mlflow/experiments/delete", ById, delete),
    Endpoint("POST", "/mlflow/experiments/restore", ById, restore),
    Endpoint("POST", "/mlflow/experiments/update", Rename, rename),
    Endpoint("POST", "/mlflow/experiments/set-experiment-tag", SetTag, set_tag),
    Endpoint("POST", "/mlflow/experiments/delete-experiment-tag", DeleteTag, delete_tag),
)
