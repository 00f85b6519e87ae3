"""MLflow's traces, in the form of its third version."""

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.core.codec import decode_any
from tidemill.core.errors import Invalid
from tidemill.core.values import UNSET, UnsetType, Wire, field
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.assessments import from_wire, keep_told
from tidemill.server.mlflow.assessments import told as told_assessments
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.experiments import location_of
from tidemill.server.mlflow.times import duration, read_duration, read_timestamp, timestamp
from tidemill.server.mlflow.wire import (
    DONE,
    Empty,
    Filled,
    Int64,
    check_listed,
    experiment_number,
    experiment_numbers,
    millis,
    moment,
)
from tidemill.tracking import trace_removal, trace_search, traces
from tidemill.tracking.traces import Trace, TraceNotFound, TraceState

NAME = "mlflow.traceName"
ARTIFACTS = "mlflow.artifactLocation"
SPANS_AT = "mlflow.trace.spansLocation"
FINALIZED = "mlflow.trace.infoFinalized"
PAGE_MAX = 500
LINKS_MAX = 100
_KEPT = frozenset({SPANS_AT, "mlflow.trace.archiveLocation"})
STATES: Mapping[TraceState, str] = {"ok": "OK", "error": "ERROR", "in progress": "IN_PROGRESS", "unspecified": "STATE_UNSPECIFIED"}
_STATES: Mapping[str | int, TraceState] = {**{told: state for state, told in STATES.items()}, 1: "ok", 2: "error", 3: "in progress"}


class ExperimentLocation(Wire, frozen=True, kw_only=True):
    """The experiment that a trace belongs to."""

    experiment_id: Filled


class Location(Wire, frozen=True, kw_only=True):
    """Where a trace is kept."""

    mlflow_experiment: ExperimentLocation | None = None


class Told(Wire, frozen=True, kw_only=True):
    """A trace as its maker tells of it."""

    trace_id: Filled
    trace_location: Location
    client_request_id: str | None = None
    request_time: str
    execution_duration: str | None = None
    state: str | int = "STATE_UNSPECIFIED"
    request_preview: str | None = None
    response_preview: str | None = None
    trace_metadata: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    assessments: tuple[dict[str, Any], ...] = ()


class ToldTrace(Wire, frozen=True, kw_only=True):
    """A trace without its spans, which come by another way."""

    trace_info: Told


class Start(Wire, frozen=True, kw_only=True):
    """A trace that is to be kept."""

    trace: ToldTrace


class ById(Wire, frozen=True, kw_only=True):
    """Names a trace."""

    trace_id: Filled
    allow_partial: bool = False


class ByIds(Wire, frozen=True, kw_only=True):
    """Names traces, of certain experiments when these are given."""

    trace_ids: tuple[str, ...]
    experiment_ids: tuple[str, ...] | None = None


class Search(Wire, frozen=True, kw_only=True):
    """Which traces are asked for."""

    locations: tuple[Location, ...]
    filter: str = ""
    max_results: Int64 = 100
    order_by: tuple[str, ...] = ()
    page_token: str = ""


class Delete(Wire, frozen=True, kw_only=True):
    """Which traces are to go."""

    experiment_id: Filled
    max_timestamp_millis: Int64 | None = None
    max_traces: Int64 | None = None
    request_ids: tuple[str, ...] = ()


class SetTag(Wire, frozen=True, kw_only=True):
    """One tag of a trace."""

    trace_id: Filled
    key: Filled
    value: str = ""


class DeleteTag(Wire, frozen=True, kw_only=True):
    """A tag that is to go."""

    trace_id: Filled
    key: Filled


class LinkToRun(Wire, frozen=True, kw_only=True):
    """Traces that belong to a run, too."""

    trace_ids: tuple[str, ...] = ()
    run_id: Filled


class PromptVersion(Wire, frozen=True, kw_only=True):
    """One version of a prompt."""

    name: Filled
    version: Filled


class LinkPrompts(Wire, frozen=True, kw_only=True):
    """Versions of prompts that a trace used."""

    trace_id: Filled
    prompt_versions: tuple[PromptVersion, ...]


class WireTrace(Wire, frozen=True, kw_only=True):
    """A trace as MLflow tells it."""

    trace_id: str
    trace_location: dict[str, Any]
    request_time: str
    state: str
    execution_duration: str | UnsetType = UNSET
    client_request_id: str | UnsetType = UNSET
    request_preview: str | UnsetType = UNSET
    response_preview: str | UnsetType = UNSET
    trace_metadata: dict[str, str] | UnsetType = UNSET
    tags: dict[str, str] | UnsetType = UNSET
    assessments: tuple[dict[str, Any], ...] | UnsetType = UNSET


class FoundMany(Wire, frozen=True, kw_only=True):
    """A page of traces."""

    traces: tuple[WireTrace, ...] | UnsetType = UNSET
    next_page_token: str | UnsetType = UNSET


def tags_of(trace: Trace) -> dict[str, str]:
    """Return a trace's tags as MLflow tells them: its name and where its files and spans lie are among them."""
    files = f"{location_of(trace.experiment_id, trace.location)}/traces/{trace.id}/artifacts"
    told = {ARTIFACTS: files, **trace.tags}
    if trace.name:
        told[NAME] = trace.name
    if trace.spans:
        told[SPANS_AT] = "TRACKING_STORE"
    return told


def metadata_of(trace: Trace) -> dict[str, str]:
    """Return a trace's metadata as MLflow tells it, with its word for a trace that was told of as a whole."""
    return {**trace.metadata, FINALIZED: "true"} if trace.told else trace.metadata


def to_wire(ws: Workspace, found: Sequence[Trace]) -> tuple[WireTrace, ...]:
    """Return traces, with what was said of them, as MLflow tells them."""
    said = told_assessments(ws, [trace.id for trace in found])
    return tuple(
        WireTrace(
            trace_id=trace.id,
            trace_location={"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": str(trace.experiment_id)}},
            request_time=timestamp(millis(trace.requested_at), trace.requested_at),
            state=STATES[trace.state],
            execution_duration=UNSET if trace.duration_ms is None else duration(trace.duration_ms),
            client_request_id=trace.client_request_id or UNSET,
            request_preview=trace.request_preview or UNSET,
            response_preview=trace.response_preview or UNSET,
            trace_metadata=metadata_of(trace) or UNSET,
            tags=tags_of(trace),
            assessments=tuple(said[trace.id]) or UNSET,
        )
        for trace in found
    )


def start(ws: Workspace, request: Start) -> dict[str, Any]:
    """Keep a trace. (MLflow calls it when the trace has ended.)"""
    told = request.trace.trace_info
    if told.trace_location.mlflow_experiment is None:
        raise Invalid("a trace must belong to an experiment; send trace_location.mlflow_experiment.experiment_id")
    said = [from_wire(ws, told.trace_id, each) for each in told.assessments]
    tags = {key: value[: traces.VALUE_MAX] for key, value in told.tags.items() if key != SPANS_AT}
    made = traces.tell_trace(
        ws,
        Trace(
            id=told.trace_id,
            experiment_id=experiment_number(told.trace_location.mlflow_experiment.experiment_id),
            client_request_id=told.client_request_id,
            name=tags.pop(NAME, None),
            state=_STATES.get(told.state, "unspecified"),
            requested_at=read_timestamp(told.request_time),
            duration_ms=None if told.execution_duration is None else read_duration(told.execution_duration),
            request_preview=told.request_preview,
            response_preview=told.response_preview,
            tags=tags,
            metadata={key: value[: traces.VALUE_MAX] for key, value in told.trace_metadata.items()},
        ),
    )
    keep_told(ws, said)
    return {"trace": {"trace_info": to_wire(ws, [made])[0]}}


def get_info(ws: Workspace, request: ById) -> dict[str, Any]:
    """Return a trace without its spans."""
    return {"trace": {"trace_info": to_wire(ws, [traces.read_trace(ws, request.trace_id)])[0]}}


def get(ws: Workspace, request: ById) -> dict[str, Any]:
    """Return a trace with its spans. Raises TraceNotFound while none has come, unless it may be incomplete."""
    found = traces.read_trace(ws, request.trace_id)
    if not found.spans and not request.allow_partial:
        raise TraceNotFound(request.trace_id)
    return {"trace": _whole(ws, [found])[0]}


def batch_get(ws: Workspace, request: ByIds) -> dict[str, Any]:
    """Return traces with their spans, those that are there."""
    found = [trace for trace in _named(ws, request) if trace.spans]
    return {"traces": _whole(ws, found)} if found else {}


def batch_get_infos(ws: Workspace, request: ByIds) -> dict[str, Any]:
    """Return traces without their spans, those that are there."""
    found = to_wire(ws, _named(ws, request))
    return {"trace_infos": found} if found else {}


def search(ws: Workspace, request: Search) -> FoundMany:
    """Return a page of traces."""
    if not 1 <= request.max_results <= PAGE_MAX:
        raise Invalid(f"Invalid value {request.max_results} for parameter 'max_results' supplied: expected 1 to {PAGE_MAX}")
    named = [place.mlflow_experiment.experiment_id for place in request.locations if place.mlflow_experiment is not None]
    page = trace_search.search_traces(
        ws,
        experiment_numbers(named),
        filter=request.filter,
        order_by=request.order_by,
        limit=request.max_results,
        page_token=request.page_token or None,
    )
    return FoundMany(traces=to_wire(ws, page.items) or UNSET, next_page_token=page.next or UNSET)


def delete(ws: Workspace, request: Delete) -> dict[str, int]:
    """Remove traces for good."""
    check_listed("request_ids", request.request_ids)
    if not request.request_ids and request.max_timestamp_millis is None:
        raise Invalid("Either max_timestamp_millis or request_ids must be given, so that not all traces go by mistake")
    if request.request_ids and (request.max_timestamp_millis is not None or request.max_traces is not None):
        raise Invalid("Only one of max_timestamp_millis (with max_traces) and request_ids may be given")
    if request.max_traces is not None and request.max_traces <= 0:
        raise Invalid(f"max_traces must be positive, got {request.max_traces}")
    until = None if request.max_timestamp_millis is None else moment(min(max(request.max_timestamp_millis, 0), 253_402_300_799_999))
    number = experiment_number(request.experiment_id)
    return {"traces_deleted": trace_removal.delete_traces(ws, number, traces=request.request_ids, until=until, limit=request.max_traces)}


def set_tag(ws: Workspace, request: SetTag) -> Empty:
    """Write a tag; the one that holds a trace's name renames it."""
    _check_mutable(request.key)
    if request.key == NAME:
        traces.rename_trace(ws, request.trace_id, request.value)
    else:
        traces.set_trace_tags(ws, request.trace_id, {request.key: request.value[: traces.VALUE_MAX]})
    return DONE


def delete_tag(ws: Workspace, request: DeleteTag) -> Empty:
    """Remove a tag."""
    _check_mutable(request.key)
    if request.key == NAME and traces.read_trace(ws, request.trace_id).name is not None:
        traces.rename_trace(ws, request.trace_id, None)
    else:
        traces.delete_trace_tag(ws, request.trace_id, request.key)
    return DONE


def link_to_run(ws: Workspace, request: LinkToRun) -> Empty:
    """Tie traces to a run."""
    if len(request.trace_ids) > LINKS_MAX:
        raise Invalid(f"at most {LINKS_MAX} traces can be linked to a run at once, got {len(request.trace_ids)}")
    traces.link_traces(ws, request.trace_ids, request.run_id)
    return DONE


def _named(ws: Workspace, request: ByIds) -> list[Trace]:
    check_listed("trace_ids", request.trace_ids)
    found = traces.read_traces(ws, request.trace_ids)
    if request.experiment_ids is None:
        return found
    wanted = set(experiment_numbers(request.experiment_ids))
    return [trace for trace in found if trace.experiment_id in wanted]


def _whole(ws: Workspace, found: Sequence[Trace]) -> list[dict[str, Any]]:
    spans = traces.read_spans(ws, [trace.id for trace in found])
    infos = to_wire(ws, found)
    return [{"trace_info": info, "spans": [decode_any(content) for content in spans[info.trace_id]]} for info in infos]


def _check_mutable(key: str) -> None:
    if key in _KEPT:
        raise Invalid(f"Tag '{key}' is immutable: the server says by it where a trace's spans lie")


def _both(method: str, path: str, takes: type[Wire], handler: Any) -> Endpoint:
    return Endpoint(method, path, takes, handler, versions=(2, 3))


def link_prompts(ws: Workspace, request: LinkPrompts) -> Empty:
    """Note in a tag which versions of prompts a trace used."""
    used = [{"name": item.name, "version": item.version} for item in request.prompt_versions]
    traces.add_to_trace_tag(ws, request.trace_id, trace_search.PROMPTS, used)
    return DONE


ENDPOINTS = (
    Endpoint("POST", "/mlflow/traces", Start, start, versions=(3,)),
    Endpoint("GET", "/mlflow/traces/get", ById, get, versions=(3,)),
    Endpoint("GET", "/mlflow/traces/batchGet", ByIds, batch_get, versions=(3,)),
    Endpoint("POST", "/mlflow/traces/batchGetInfos", ByIds, batch_get_infos, versions=(3,)),
    Endpoint("POST", "/mlflow/traces/search", Search, search, versions=(3,)),
    Endpoint("GET", "/mlflow/traces/{trace_id}", ById, get_info, versions=(3,)),
    _both("POST", "/mlflow/traces/delete-traces", Delete, delete),
    _both("PATCH", "/mlflow/traces/{trace_id}/tags", SetTag, set_tag),
    _both("DELETE", "/mlflow/traces/{trace_id}/tags", DeleteTag, delete_tag),
    Endpoint("POST", "/mlflow/traces/link-to-run", LinkToRun, link_to_run),
    Endpoint("POST", "/mlflow/traces/link-prompts", LinkPrompts, link_prompts),
)
