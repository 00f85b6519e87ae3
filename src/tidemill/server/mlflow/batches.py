"""What MLflow's clients log to a run: metrics, params and tags, one or many at a time."""

from collections.abc import Sequence
from typing import Any

from tidemill.core.codec import decode_any
from tidemill.core.errors import Invalid
from tidemill.core.values import Wire
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.runs import RUN_NAME
from tidemill.server.mlflow.wire import DONE, Empty, Filled, Int64, Millis, moment
from tidemill.tracking import batches, facts, runs
from tidemill.tracking.logged_models import ModelPoint

METRICS_MAX, PARAMS_MAX, TAGS_MAX, ALL_MAX = 1000, 100, 100, 1000
LOGGED_MODELS = "mlflow.log-model.history"


class Point(Wire, frozen=True, kw_only=True):
    """One point of a metric; of a logged model as well when model_id names it."""

    key: Filled
    value: float
    timestamp: Millis
    step: Int64 = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class NamedValue(Wire, frozen=True, kw_only=True):
    """Text under a key that has to be there."""

    key: Filled
    value: str = ""


class LogMetric(Point, frozen=True, kw_only=True):
    """One point."""

    run_id: Filled


class LogValue(NamedValue, frozen=True, kw_only=True):
    """One param or tag of a run."""

    run_id: Filled


class DeleteTag(Wire, frozen=True, kw_only=True):
    """A tag that is to go."""

    run_id: Filled
    key: Filled


class LogBatch(Wire, frozen=True, kw_only=True):
    """Many at a time."""

    run_id: Filled
    metrics: tuple[Point, ...] = ()
    params: tuple[NamedValue, ...] = ()
    tags: tuple[NamedValue, ...] = ()


class LogModel(Wire, frozen=True, kw_only=True):
    """The MLmodel file of a model that was logged to a run, as JSON."""

    run_id: Filled
    model_json: Filled


def log_metric(ws: Workspace, request: LogMetric) -> Empty:
    """Add a point."""
    _log_points(ws, request.run_id, (request,))
    return DONE


def log_param(ws: Workspace, request: LogValue) -> Empty:
    """Write a param once."""
    batches.log_rows(ws, request.run_id, (), params={request.key: request.value[: facts.PARAM_MAX]})
    return DONE


def set_tag(ws: Workspace, request: LogValue) -> Empty:
    """Write a tag."""
    value = request.value[: facts.TAG_MAX]
    if request.key == RUN_NAME:
        batches.log_rows(ws, request.run_id, (), name=value or None)
    else:
        batches.log_rows(ws, request.run_id, (), tags={request.key: value})
    return DONE


def delete_tag(ws: Workspace, request: DeleteTag) -> Empty:
    """Remove a tag."""
    runs.delete_tag(ws, request.run_id, request.key)
    return DONE


def log_batch(ws: Workspace, request: LogBatch) -> Empty:
    """Write many at a time, all or nothing."""
    _check_sizes(request)
    params = {item.key: item.value[: facts.PARAM_MAX] for item in request.params}
    if len(params) < len(request.params):
        raise Invalid("Duplicate parameter keys have been submitted; a param has one value, so send each key once")
    tags = {item.key: item.value[: facts.TAG_MAX] for item in request.tags}
    name = tags.pop(RUN_NAME, None)
    _log_points(ws, request.run_id, request.metrics, params=params, tags=tags, name=name or None)
    return DONE


def log_model(ws: Workspace, request: LogModel) -> Empty:
    """Note in a tag of the run which model was logged to it."""
    model = decode_any(request.model_json, what="Malformed model info: model_json")
    missing = {"artifact_path", "flavors", "utc_time_created", "run_id"} - set(model if isinstance(model, dict) else ())
    if missing:
        raise Invalid(f"model_json is missing mandatory fields: {', '.join(sorted(missing))}; send the whole MLmodel as JSON")
    note = {name: model[name] for name in ("run_id", "utc_time_created", "artifact_path", "model_uuid") if name in model}
    flavors = model["flavors"] if isinstance(model["flavors"], dict) else {}
    note["flavors"] = {name: _without_config(flavor) for name, flavor in flavors.items()}
    batches.append_to_tag(ws, request.run_id, LOGGED_MODELS, note)
    return DONE


def _without_config(flavor: Any) -> Any:
    return {name: value for name, value in flavor.items() if name != "config"} if isinstance(flavor, dict) else flavor


def _log_points(
    ws: Workspace,
    run: str,
    points: Sequence[Point],
    *,
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    name: str | None = None,
) -> None:
    rows = [(point.key, point.value, point.step, point.timestamp * 1000) for point in points]
    measured: dict[str, list[ModelPoint]] = {}
    for point in points:
        if point.model_id:
            measured.setdefault(point.model_id, []).append(_model_point(point, run))
    batches.log_rows(ws, run, rows, params=params, tags=tags, name=name, measured=measured)


def _model_point(point: Point, run: str) -> ModelPoint:
    return ModelPoint(
        key=point.key, value=point.value, step=point.step, at=moment(point.timestamp), run=run,
        dataset=point.dataset_name, digest=point.dataset_digest,
    )  # fmt: skip


def _check_sizes(request: LogBatch) -> None:
    sizes = {
        "metrics": (len(request.metrics), METRICS_MAX),
        "params": (len(request.params), PARAMS_MAX),
        "tags": (len(request.tags), TAGS_MAX),
        "metrics, params, and tags": (len(request.metrics) + len(request.params) + len(request.tags), ALL_MAX),
    }
    for what, (size, most) in sizes.items():
        if size > most:
            raise Invalid(f"A batch logging request can contain at most {most} {what}, and this one has {size}; split it")


ENDPOINTS = (
    Endpoint("POST", "/mlflow/runs/log-metric", LogMetric, log_metric, brief=True),
    Endpoint("POST", "/mlflow/runs/log-parameter", LogValue, log_param, brief=True),
    Endpoint("POST", "/mlflow/runs/set-tag", LogValue, set_tag, brief=True),
    Endpoint("POST", "/mlflow/runs/delete-tag", DeleteTag, delete_tag),
    Endpoint("POST", "/mlflow/runs/log-batch", LogBatch, log_batch, brief=True),
    Endpoint("POST", "/mlflow/runs/log-model", LogModel, log_model),
)
