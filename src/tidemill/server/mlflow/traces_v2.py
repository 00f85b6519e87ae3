"""MLflow's traces in the form of its second version, which older clients speak."""

from collections.abc import Mapping
from typing import Annotated

from tidemill.core.ids import new_id
from tidemill.core.values import UNSET, Meta, UnsetType, Wire
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.traces import NAME, PAGE_MAX, metadata_of, tags_of
from tidemill.server.mlflow.wire import Filled, KeyValue, Millis, by_key, experiment_number, experiment_numbers, millis, moment, pairs
from tidemill.tracking import trace_search, traces
from tidemill.tracking.traces import Trace, TraceState

_STATES: Mapping[TraceState, str] = {"ok": "OK", "error": "ERROR", "in progress": "IN_PROGRESS", "unspecified": "TRACE_STATUS_UNSPECIFIED"}
_FROM: Mapping[str | int, TraceState] = {**{told: state for state, told in _STATES.items()}, 1: "ok", 2: "error", 3: "in progress"}


class WireTrace(Wire, frozen=True, kw_only=True):
    """A trace as the second version tells it."""

    request_id: str
    experiment_id: str
    timestamp_ms: int
    execution_time_ms: int | UnsetType
    status: str
    request_metadata: tuple[KeyValue, ...] | UnsetType
    tags: tuple[KeyValue, ...] | UnsetType


class Start(Wire, frozen=True, kw_only=True):
    """What a trace begins with."""

    experiment_id: Filled
    timestamp_ms: Millis = 0
    request_metadata: tuple[KeyValue, ...] = ()
    tags: tuple[KeyValue, ...] = ()


class End(Wire, frozen=True, kw_only=True):
    """How a trace ended."""

    request_id: Filled
    timestamp_ms: Millis = 0
    status: str | int = "TRACE_STATUS_UNSPECIFIED"
    request_metadata: tuple[KeyValue, ...] = ()
    tags: tuple[KeyValue, ...] = ()


class ById(Wire, frozen=True, kw_only=True):
    """Names a trace."""

    request_id: Filled


class Search(Wire, frozen=True, kw_only=True):
    """Which traces are asked for."""

    experiment_ids: tuple[str, ...]
    filter: str = ""
    max_results: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = 100
    order_by: tuple[str, ...] = ()
    page_token: str = ""


class Found(Wire, frozen=True, kw_only=True):
    """One trace."""

    trace_info: WireTrace


class FoundMany(Wire, frozen=True, kw_only=True):
    """A page of traces."""

    traces: tuple[WireTrace, ...] | UnsetType = UNSET
    next_page_token: str | UnsetType = UNSET


def to_wire(trace: Trace) -> WireTrace:
    """Return a trace as the second version tells it."""
    return WireTrace(
        request_id=trace.id,
        experiment_id=str(trace.experiment_id),
        timestamp_ms=millis(trace.requested_at),
        execution_time_ms=UNSET if trace.duration_ms is None else trace.duration_ms,
        status=_STATES[trace.state],
        request_metadata=pairs(metadata_of(trace)) or UNSET,
        tags=pairs(tags_of(trace)) or UNSET,
    )


def start(ws: Workspace, request: Start) -> Found:
    """Begin a trace."""
    tags = by_key(request.tags)
    made = traces.tell_trace(
        ws,
        Trace(
            id=f"tr-{new_id()}",
            experiment_id=experiment_number(request.experiment_id),
            name=tags.pop(NAME, None),
            state="in progress",
            requested_at=moment(request.timestamp_ms),
            tags=tags,
            metadata=by_key(request.request_metadata),
            told=False,
        ),
    )
    return Found(trace_info=to_wire(made))


def end(ws: Workspace, request: End) -> Found:
    """Say how a trace ended."""
    before, tags = traces.read_trace(ws, request.request_id), by_key(request.tags)
    changed = traces.change_trace(
        ws,
        request.request_id,
        state=_FROM.get(request.status, "unspecified"),
        duration_ms=request.timestamp_ms - millis(before.requested_at),
        name=tags.pop(NAME, None),
        tags=tags,
        metadata=by_key(request.request_metadata),
    )
    return Found(trace_info=to_wire(changed))


def get(ws: Workspace, request: ById) -> Found:
    """Return a trace."""
    return Found(trace_info=to_wire(traces.read_trace(ws, request.request_id)))


def search(ws: Workspace, request: Search) -> FoundMany:
    """Return a page of traces."""
    page = trace_search.search_traces(
        ws,
        experiment_numbers(request.experiment_ids),
        filter=request.filter,
        order_by=request.order_by,
        limit=request.max_results,
        page_token=request.page_token or None,
    )
    return FoundMany(traces=tuple(map(to_wire, page.items)) or UNSET, next_page_token=page.next or UNSET)


ENDPOINTS = (
    Endpoint("POST", "/mlflow/traces", Start, start),
    Endpoint("GET", "/mlflow/traces", Search, search),
    Endpoint("PATCH", "/mlflow/traces/{request_id}", End, end),
    Endpoint("GET", "/mlflow/traces/{request_id}/info", ById, get),
)
