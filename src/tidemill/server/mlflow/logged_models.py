"""MLflow's logged models."""

from collections.abc import Mapping

from tidemill.core.errors import Invalid
from tidemill.core.names import any_name
from tidemill.core.values import UNSET, UnsetType, Wire
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.experiments import location_of
from tidemill.server.mlflow.wire import (
    DONE,
    Empty,
    Filled,
    Int64,
    KeyValue,
    by_key,
    experiment_number,
    experiment_numbers,
    millis,
    pairs,
    told_number,
)
from tidemill.tracking import logged_models, model_search
from tidemill.tracking.logged_models import LoggedModel, ModelStatus
from tidemill.tracking.model_search import Measured, ModelOrder

PAGE = 50
PAGE_MAX = 1000  # who asks for more gets a token for the rest
_TOLD: Mapping[ModelStatus, str] = {
    "pending": "LOGGED_MODEL_PENDING",
    "ready": "LOGGED_MODEL_READY",
    "failed": "LOGGED_MODEL_UPLOAD_FAILED",
}
_STATUSES: Mapping[str | int, ModelStatus] = {
    **{told: status for status, told in _TOLD.items()}, 1: "pending", 2: "ready", 3: "failed",
}  # fmt: skip


class ModelMetric(Wire, frozen=True, kw_only=True):
    """One point of a metric of a logged model."""

    key: str
    value: float | str
    timestamp: int
    step: int
    model_id: str
    run_id: str
    dataset_name: str | UnsetType
    dataset_digest: str | UnsetType


class ModelInfo(Wire, frozen=True, kw_only=True):
    """What a logged model is."""

    model_id: str
    experiment_id: str
    name: str
    creation_timestamp_ms: int
    last_updated_timestamp_ms: int
    artifact_uri: str
    status: str
    model_type: str
    source_run_id: str
    tags: tuple[KeyValue, ...] | UnsetType
    status_message: str | UnsetType


class ModelData(Wire, frozen=True, kw_only=True):
    """What was logged of it."""

    params: tuple[KeyValue, ...] | UnsetType
    metrics: tuple[ModelMetric, ...] | UnsetType


class WireModel(Wire, frozen=True, kw_only=True):
    """A logged model as MLflow tells it."""

    info: ModelInfo
    data: ModelData


class Create(Wire, frozen=True, kw_only=True):
    """What a logged model begins with."""

    experiment_id: Filled
    name: str = ""
    model_type: str = ""
    source_run_id: str = ""
    params: tuple[KeyValue, ...] = ()
    tags: tuple[KeyValue, ...] = ()


class Finalize(Wire, frozen=True, kw_only=True):
    """How logging a model ended."""

    model_id: Filled
    status: int | str


class ById(Wire, frozen=True, kw_only=True):
    """Names a logged model."""

    model_id: Filled
    allow_deleted: bool = False


class SetTags(Wire, frozen=True, kw_only=True):
    """Tags of a logged model."""

    model_id: Filled
    tags: tuple[KeyValue, ...] = ()


class DeleteTag(Wire, frozen=True, kw_only=True):
    """A tag that is to go."""

    model_id: Filled
    tag_key: Filled


class LogParams(Wire, frozen=True, kw_only=True):
    """Params of a logged model."""

    model_id: Filled
    params: tuple[KeyValue, ...] = ()


class OnDataset(Wire, frozen=True, kw_only=True):
    """A dataset on which models were measured."""

    dataset_name: Filled
    dataset_digest: str = ""


class OrderBy(Wire, frozen=True, kw_only=True):
    """One sort key."""

    field_name: Filled
    ascending: bool = True
    dataset_name: str = ""
    dataset_digest: str = ""


class Search(Wire, frozen=True, kw_only=True):
    """Which logged models are asked for."""

    experiment_ids: tuple[str, ...]
    filter: str = ""
    datasets: tuple[OnDataset, ...] = ()
    max_results: Int64 = PAGE
    order_by: tuple[OrderBy, ...] = ()
    page_token: str = ""


class Found(Wire, frozen=True, kw_only=True):
    """One logged model."""

    model: WireModel


class FoundMany(Wire, frozen=True, kw_only=True):
    """A page of logged models."""

    models: tuple[WireModel, ...] | UnsetType = UNSET
    next_page_token: str | UnsetType = UNSET


def model_uri(model: LoggedModel) -> str:
    """Return where a logged model's files lie."""
    return f"{location_of(model.experiment_id, model.location)}/models/{model.id}/artifacts"


def to_wire(model: LoggedModel) -> WireModel:
    """Return a logged model as MLflow tells it."""
    metrics = tuple(
        ModelMetric(
            key=point.key,
            value=told_number(point.value),
            timestamp=millis(point.at),
            step=point.step,
            model_id=model.id,
            run_id=point.run,
            dataset_name=point.dataset or UNSET,
            dataset_digest=point.digest or UNSET,
        )
        for point in model.metrics
    )
    info = ModelInfo(
        model_id=model.id,
        experiment_id=str(model.experiment_id),
        name=model.name,
        creation_timestamp_ms=millis(model.created_at),
        last_updated_timestamp_ms=millis(model.updated_at),
        artifact_uri=model_uri(model),
        status=_TOLD[model.status],
        model_type=model.model_type,
        source_run_id=model.source_run or "",
        tags=pairs(model.tags) or UNSET,
        status_message=model.message or UNSET,
    )
    return WireModel(info=info, data=ModelData(params=pairs(model.params) or UNSET, metrics=metrics or UNSET))


def create(ws: Workspace, request: Create) -> Found:
    """Begin to log a model."""
    made = logged_models.create_logged_model(
        ws,
        experiment_number(request.experiment_id),
        name=request.name or any_name(),
        model_type=request.model_type,
        source_run=request.source_run_id or None,
        params=by_key(request.params),
        tags=by_key(request.tags),
    )
    return Found(model=to_wire(made))


def finalize(ws: Workspace, request: Finalize) -> Found:
    """Say how logging a model ended."""
    status = _STATUSES.get(request.status)
    if status is None:
        raise Invalid(f"status {request.status!r} of a logged model is not known; expected one of {', '.join(_TOLD.values())}")
    return Found(model=to_wire(logged_models.finish_logged_model(ws, request.model_id, status=status)))


def get(ws: Workspace, request: ById) -> Found:
    """Return a logged model."""
    return Found(model=to_wire(logged_models.read_logged_model(ws, request.model_id, deleted=request.allow_deleted)))


def delete(ws: Workspace, request: ById) -> Empty:
    """Put a logged model into the trash."""
    logged_models.delete_logged_model(ws, request.model_id)
    return DONE


def set_tags(ws: Workspace, request: SetTags) -> Empty:
    """Write tags."""
    logged_models.set_model_tags(ws, request.model_id, by_key(request.tags))
    return DONE


def delete_tag(ws: Workspace, request: DeleteTag) -> Empty:
    """Remove a tag."""
    logged_models.delete_model_tag(ws, request.model_id, request.tag_key)
    return DONE


def log_params(ws: Workspace, request: LogParams) -> Empty:
    """Write params once."""
    logged_models.log_model_params(ws, request.model_id, by_key(request.params))
    return DONE


def search(ws: Workspace, request: Search) -> FoundMany:
    """Return a page of logged models."""
    page = model_search.search_logged_models(
        ws,
        experiment_numbers(request.experiment_ids),
        filter=request.filter,
        datasets=[Measured(dataset=item.dataset_name, digest=item.dataset_digest) for item in request.datasets],
        order_by=[
            ModelOrder(name=item.field_name, ascending=item.ascending, dataset=item.dataset_name, digest=item.dataset_digest)
            for item in request.order_by
        ],
        limit=min(request.max_results, PAGE_MAX) if request.max_results > 0 else PAGE,
        page_token=request.page_token or None,
    )
    return FoundMany(models=tuple(to_wire(item) for item in page.items) or UNSET, next_page_token=page.next or UNSET)


ENDPOINTS = (
    Endpoint("POST", "/mlflow/logged-models", Create, create),
    Endpoint("POST", "/mlflow/logged-models/search", Search, search),
    Endpoint("GET", "/mlflow/logged-models/{model_id}", ById, get),
    Endpoint("PATCH", "/mlflow/logged-models/{model_id}", Finalize, finalize),
    Endpoint("DELETE", "/mlflow/logged-models/{model_id}", ById, delete),
    Endpoint("PATCH", "/mlflow/logged-models/{model_id}/tags", SetTags, set_tags),
    Endpoint("DELETE", "/mlflow/logged-models/{model_id}/tags/{tag_key}", DeleteTag, delete_tag),
    Endpoint("POST", "/mlflow/logged-models/{model_id}/params", LogParams, log_params),
)
