"""What MLflow's runs read and made: datasets and logged models."""

from collections.abc import Mapping, Sequence

from tidemill.core.errors import Invalid
from tidemill.core.values import UNSET, UnsetType, Wire
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.wire import DONE, Empty, Filled, Int64, KeyValue, by_key, experiment_numbers, pairs
from tidemill.tracking import inputs
from tidemill.tracking.inputs import DatasetInput, InputDataset, ModelOutput, RunLinks

EXPERIMENTS_MAX = 20


class WireDataset(Wire, frozen=True, kw_only=True):
    """A dataset as MLflow describes it."""

    name: str = ""
    digest: str = ""
    source_type: str = ""
    source: str = ""
    schema: str | UnsetType = UNSET
    profile: str | UnsetType = UNSET


class WireDatasetInput(Wire, frozen=True, kw_only=True):
    """A dataset with the tags of its use."""

    dataset: WireDataset
    tags: tuple[KeyValue, ...] | UnsetType = UNSET


class ModelInput(Wire, frozen=True, kw_only=True):
    """A logged model that a run read."""

    model_id: str = ""


class WireModelOutput(Wire, frozen=True, kw_only=True):
    """A logged model that a run made."""

    model_id: str = ""
    step: Int64 = 0


class RunInputs(Wire, frozen=True, kw_only=True):
    """What a run read."""

    dataset_inputs: tuple[WireDatasetInput, ...] | UnsetType = UNSET
    model_inputs: tuple[ModelInput, ...] | UnsetType = UNSET


class RunOutputs(Wire, frozen=True, kw_only=True):
    """What a run made."""

    model_outputs: tuple[WireModelOutput, ...] | UnsetType = UNSET


class LogInputs(Wire, frozen=True, kw_only=True):
    """What a run read, to be recorded."""

    run_id: Filled
    datasets: tuple[WireDatasetInput, ...] = ()
    models: tuple[ModelInput, ...] = ()


class LogOutputs(Wire, frozen=True, kw_only=True):
    """What a run made, to be recorded."""

    run_id: Filled
    models: tuple[WireModelOutput, ...]


class SearchDatasets(Wire, frozen=True, kw_only=True):
    """Whose datasets are asked for."""

    experiment_ids: tuple[str, ...] = ()


class Summary(Wire, frozen=True, kw_only=True):
    """A dataset and what it was used for."""

    experiment_id: str
    name: str
    digest: str
    context: str | UnsetType


class Summaries(Wire, frozen=True, kw_only=True):
    """Datasets of experiments."""

    dataset_summaries: tuple[Summary, ...] | UnsetType = UNSET


def from_wire(given: WireDatasetInput) -> DatasetInput:
    """Return a dataset's use as ours."""
    described = given.dataset
    dataset = InputDataset(
        name=described.name,
        digest=described.digest,
        source_type=described.source_type,
        source=described.source,
        schema=described.schema or None,
        profile=described.profile or None,
    )
    return DatasetInput(dataset=dataset, tags=by_key(given.tags or ()))


def to_wire(found: RunLinks) -> tuple[RunInputs, RunOutputs]:
    """Return what a run read and made as MLflow tells it."""
    read = tuple(_dataset(item) for item in found.datasets)
    models = tuple(ModelInput(model_id=model) for model in found.models_read)
    made = tuple(WireModelOutput(model_id=item.model, step=item.step) for item in found.models_made)
    return RunInputs(dataset_inputs=read or UNSET, model_inputs=models or UNSET), RunOutputs(model_outputs=made or UNSET)


def links_of(ws: Workspace, runs: Sequence[str]) -> Mapping[str, tuple[RunInputs, RunOutputs]]:
    """Return what each of some runs read and made."""
    return {run: to_wire(found) for run, found in inputs.read_links(ws, runs).items()}


def log_inputs(ws: Workspace, request: LogInputs) -> Empty:
    """Record what a run read."""
    inputs.log_inputs(ws, request.run_id, [from_wire(item) for item in request.datasets], models=[m.model_id for m in request.models])
    return DONE


def log_outputs(ws: Workspace, request: LogOutputs) -> Empty:
    """Record what a run made."""
    inputs.log_outputs(ws, request.run_id, [ModelOutput(model=item.model_id, step=item.step) for item in request.models])
    return DONE


def search_datasets(ws: Workspace, request: SearchDatasets) -> Summaries:
    """Return the datasets that runs of some experiments read."""
    if not 1 <= len(request.experiment_ids) <= EXPERIMENTS_MAX:
        raise Invalid(f"SearchDatasets takes 1 to {EXPERIMENTS_MAX} experiment ids, got {len(request.experiment_ids)}")
    found = inputs.search_datasets(ws, experiment_numbers(request.experiment_ids))
    summaries = tuple(
        Summary(experiment_id=str(item.experiment_id), name=item.name, digest=item.digest, context=item.context or UNSET) for item in found
    )
    return Summaries(dataset_summaries=summaries or UNSET)


def _dataset(item: DatasetInput) -> WireDatasetInput:
    told = item.dataset
    dataset = WireDataset(
        name=told.name, digest=told.digest, source_type=told.source_type, source=told.source,
        schema=told.schema or UNSET, profile=told.profile or UNSET,
    )  # fmt: skip
    return WireDatasetInput(dataset=dataset, tags=pairs(item.tags) or UNSET)


ENDPOINTS = (
    Endpoint("POST", "/mlflow/runs/log-inputs", LogInputs, log_inputs),
    Endpoint("POST", "/mlflow/runs/outputs", LogOutputs, log_outputs),
    Endpoint("POST", "/mlflow/experiments/search-datasets", SearchDatasets, search_datasets),
)
