"""Traces: what one call of an application did, with tags, metadata and spans. Owns their tables."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Column, Connection, Index, PrimaryKeyConstraint, Table, delete, select, update

from tidemill.catalog.lineage import link
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, insert_new, upsert
from tidemill.core.clock import from_micros, micros
from tidemill.core.codec import decode_any, encode_text
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.values import Value, field
from tidemill.govern.workspace import Workspace
from tidemill.tracking.experiments import EXPERIMENTS, write_experiment
from tidemill.tracking.runs import find_run

TraceState = Literal["unspecified", "in progress", "ok", "error"]
KEY_MAX, VALUE_MAX, ID_MAX = 250, 8000, 50
PREVIEW_MAX = 1000
DURATION_MAX_MS = 10_000 * 366 * 24 * 3600 * 1000

TRACES = Table(
    "traces",
    METADATA,
    Column("project", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("experiment_id", BigInteger, nullable=False),
    Column("client_request_id", Text),
    Column("name", Text),
    Column("state", Text, nullable=False),
    Column("requested_at", Moment, nullable=False),
    Column("duration_ms", BigInteger),
    Column("request_preview", Text),
    Column("response_preview", Text),
    Column("told", JsonValue(bool), nullable=False),
    PrimaryKeyConstraint("project", "id"),
    Index("ix_traces_experiment", "project", "experiment_id", "requested_at", "id"),
)


def _texts(name: str) -> Table:
    keys = (Column(key, Text, nullable=False) for key in ("project", "trace", "key", "value"))
    return Table(name, METADATA, *keys, PrimaryKeyConstraint("project", "trace", "key"), Index(f"ix_{name}_key", "project", "key"))


TAGS = _texts("trace_tags")
FACTS = _texts("trace_metadata")
SPANS = Table(
    "trace_spans",
    METADATA,
    Column("project", Text, nullable=False),
    Column("trace", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("parent", Text),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("started_ns", BigInteger, nullable=False),
    Column("ended_ns", BigInteger),
    Column("content", Text, nullable=False),
    PrimaryKeyConstraint("project", "trace", "id"),
)
TRACE_RUNS = Table(
    "trace_runs",
    METADATA,
    Column("project", Text, nullable=False),
    Column("trace", Text, nullable=False),
    Column("run", Text, nullable=False),
    PrimaryKeyConstraint("project", "trace", "run"),
    Index("ix_trace_runs_run", "project", "run"),
)


class Span(Value, frozen=True, kw_only=True):
    """One step of a trace. content: the whole span as JSON text, in the form in which it is given back; times in nanoseconds since 1970."""

    trace: str
    id: str
    parent: str | None
    name: str
    type: str
    status: Literal["unset", "ok", "error"]
    started_ns: int
    ended_ns: int | None
    content: str


class Trace(Value, frozen=True, kw_only=True):
    """One call of an application. location: where its experiment's files lie, "" with this server.

    told: its maker has told of it as a whole; until then it is what its spans say.
    """

    id: str
    experiment_id: int
    location: str = ""
    client_request_id: str | None = None
    name: str | None = None
    state: TraceState
    requested_at: datetime
    duration_ms: int | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    told: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    spans: int = 0


class TraceNotFound(NotFound):
    """No trace of that id."""

    def __init__(self, trace: str) -> None:
        self.trace = trace
        super().__init__(f"Trace with ID {trace[:80]!r} not found in this project; it was never logged here, or deleted")


def tell_trace(ws: Workspace, trace: Trace) -> Trace:
    """Keep a trace as its maker tells of it, over what its spans said and what was told before.

    Raises ExperimentNotFound, ExperimentInTrash, Invalid.
    """
    ws.require("tracking.write", trace.id)
    _check(trace)
    with ws.catalog.transaction() as tx:
        write_experiment(ws, tx, trace.experiment_id)
        names = ("id", "experiment_id", "client_request_id", "name", "state", "requested_at", "duration_ms", "request_preview",
                 "response_preview", "told")  # fmt: skip
        row = {"project": ws.project, **{name: getattr(trace, name) for name in names}}
        before = _insert_or_lock(tx, row)
        if before is not None:
            row |= {name: row[name] or getattr(before, name) for name in ("name", "request_preview", "response_preview")}
            upsert(tx, TRACES, [row])
        write_texts(tx, TAGS, ws.project, trace.id, trace.tags)
        write_texts(tx, FACTS, ws.project, trace.id, trace.metadata)
        return fetch_traces(tx, ws.project, [trace.id])[0]


def change_trace(
    ws: Workspace,
    trace: str,
    *,
    state: TraceState,
    duration_ms: int | None,
    tags: Mapping[str, str],
    metadata: Mapping[str, str],
    name: str | None = None,
) -> Trace:
    """Tell how a trace that was begun ended. Raises TraceNotFound, Invalid."""
    ws.require("tracking.write", trace)
    _check_duration(duration_ms)
    _check_texts("tag", tags)
    _check_texts("metadata", metadata)
    with ws.catalog.transaction() as tx:
        _check_there(tx, ws.project, trace)
        changed = update(TRACES).where(_is(ws.project, trace)).values(state=state, duration_ms=duration_ms)
        tx.execute(changed.values(name=name) if name else changed)
        write_texts(tx, TAGS, ws.project, trace, tags)
        write_texts(tx, FACTS, ws.project, trace, metadata)
        return _fetch(tx, ws.project, trace)


def log_spans(ws: Workspace, experiment: int, spans: Sequence[Span], *, previews: Mapping[str, tuple[str | None, str | None]]) -> list[str]:
    """Keep spans, in any order and as often as they come; return the ids of their traces.

    A trace that nobody has told of yet is made from its spans: it lasts from the first to the last, its root says how it ended,
    and previews (by trace: request, response) what it was about. Raises ExperimentNotFound, ExperimentInTrash, Invalid.
    """
    ws.require("tracking.write", str(experiment))
    by_trace: dict[str, dict[str, Span]] = {}
    for span in spans:
        _check_id("trace", span.trace)
        _check_id("span", span.id)
        by_trace.setdefault(span.trace, {})[span.id] = span
    with ws.catalog.transaction() as tx:
        write_experiment(ws, tx, experiment)
        for trace, given in sorted(by_trace.items()):  # all in one order, so that nobody waits for one who waits for him
            _grow(tx, ws.project, experiment, trace, list(given.values()), previews.get(trace, (None, None)))
            rows = [{"project": ws.project, **{name: getattr(span, name) for name in span.__struct_fields__}} for span in given.values()]
            upsert(tx, SPANS, rows)
    return list(by_trace)


def read_traces(ws: Workspace, traces: Sequence[str]) -> list[Trace]:
    """Return traces in the order of ids, those that are there."""
    ws.require("tracking.read")
    with ws.catalog.reading() as tx:
        return fetch_traces(tx, ws.project, traces)


def read_trace(ws: Workspace, trace: str) -> Trace:
    """Return a trace. Raises TraceNotFound."""
    ws.require("tracking.read", trace)
    with ws.catalog.reading() as tx:
        return _fetch(tx, ws.project, trace)


def read_spans(ws: Workspace, traces: Sequence[str]) -> dict[str, list[str]]:
    """Return the contents of the spans of some traces, the earliest first."""
    ws.require("tracking.read")
    found: dict[str, list[str]] = {trace: [] for trace in traces}
    mine = (SPANS.c.project == ws.project) & SPANS.c.trace.in_(traces)
    query = select(SPANS.c.trace, SPANS.c.content).where(mine).order_by(SPANS.c.trace, SPANS.c.started_ns, SPANS.c.id)
    with ws.catalog.reading() as tx:
        for row in tx.execute(query):
            found[row.trace].append(row.content)
    return found


def set_trace_tags(ws: Workspace, trace: str, tags: Mapping[str, str]) -> None:
    """Write tags, replacing those of the same key. Raises TraceNotFound, Invalid."""
    ws.require("tracking.write", trace)
    _check_texts("tag", tags)
    with ws.catalog.transaction() as tx:
        _check_there(tx, ws.project, trace)
        write_texts(tx, TAGS, ws.project, trace, tags)


def add_to_trace_tag(ws: Workspace, trace: str, key: str, items: Sequence[Any]) -> None:
    """Add items to the JSON list that a tag holds, those that it does not hold yet. Raises TraceNotFound, Invalid."""
    ws.require("tracking.write", trace)
    with ws.catalog.transaction() as tx:
        tx.execute(select(TRACES.c.id).where(_is(ws.project, trace)).with_for_update())  # of two who add at once, one waits
        _check_there(tx, ws.project, trace)
        mine = (TAGS.c.project == ws.project) & (TAGS.c.trace == trace) & (TAGS.c.key == key)
        before = tx.execute(select(TAGS.c.value).where(mine)).scalar_one_or_none()
        listed = decode_any(before, what=f"tag {key!r} of trace {trace}") if before else []
        if not isinstance(listed, list):
            raise Invalid(f"tag {key!r} of trace {trace} holds no list, so nothing can be added to it; delete the tag")
        text = encode_text([*listed, *(item for item in items if item not in listed)])
        _check_texts("tag", {key: text})
        write_texts(tx, TAGS, ws.project, trace, {key: text})


def rename_trace(ws: Workspace, trace: str, name: str | None) -> None:
    """Give a trace another name, or none. Raises TraceNotFound."""
    ws.require("tracking.write", trace)
    with ws.catalog.transaction() as tx:
        _check_there(tx, ws.project, trace)
        tx.execute(update(TRACES).where(_is(ws.project, trace)).values(name=name))


def delete_trace_tag(ws: Workspace, trace: str, key: str) -> None:
    """Remove a tag. Raises TraceNotFound, NotFound when there is no such tag."""
    ws.require("tracking.write", trace)
    with ws.catalog.transaction() as tx:
        _check_there(tx, ws.project, trace)
        mine = (TAGS.c.project == ws.project) & (TAGS.c.trace == trace) & (TAGS.c.key == key)
        if tx.execute(delete(TAGS).where(mine)).rowcount == 0:
            raise NotFound(f"trace {trace} has no tag {key!r}; nothing was removed")


def link_traces(ws: Workspace, traces: Sequence[str], run: str) -> None:
    """Tie traces to a run that they were looked at in. Raises RunNotFound, RunInTrash."""
    ws.require("tracking.write", run)
    with ws.catalog.transaction() as tx:
        find_run(tx, ws.project, run)
        for trace in traces:
            insert_new(tx, TRACE_RUNS, [{"project": ws.project, "trace": trace, "run": run}])
            link(tx, ws.project, source=f"trace:{trace}", target=f"run:{run}", relation="read", at=ws.clock.now())


def fetch_traces(tx: Connection, project: str, traces: Sequence[str]) -> list[Trace]:
    """Return traces in the order of ids, those that are there, in the caller's transaction."""
    of = (EXPERIMENTS.c.project == TRACES.c.project) & (EXPERIMENTS.c.id == TRACES.c.experiment_id)
    query = select(TRACES, EXPERIMENTS.c.location).select_from(TRACES.join(EXPERIMENTS, of))
    rows = {row.id: row for row in tx.execute(query.where(TRACES.c.project == project, TRACES.c.id.in_(traces)))}
    tags, facts = _read_texts(tx, TAGS, project, traces), _read_texts(tx, FACTS, project, traces)
    with_spans = select(SPANS.c.trace).where(SPANS.c.project == project, SPANS.c.trace.in_(traces)).distinct()
    spans = set(tx.execute(with_spans).scalars())
    own = [name for name in Trace.__struct_fields__ if name not in ("tags", "metadata", "spans")]
    return [
        Trace(
            **{name: getattr(rows[trace], name) for name in own},
            tags=tags.get(trace, {}),
            metadata=facts.get(trace, {}),
            spans=int(trace in spans),
        )
        for trace in dict.fromkeys(traces)
        if trace in rows
    ]


def write_texts(tx: Connection, table: Table, project: str, trace: str, texts: Mapping[str, str]) -> None:
    """Write tags or metadata of a trace, in the caller's transaction."""
    upsert(tx, table, [{"project": project, "trace": trace, "key": key, "value": value} for key, value in texts.items()])


def _grow(
    tx: Connection, project: str, experiment: int, trace: str, spans: Sequence[Span], previews: tuple[str | None, str | None]
) -> None:
    """Let an untold trace reach from its first to its last span."""
    first = min(span.started_ns for span in spans) // 1_000_000 * 1000
    last = max(span.ended_ns or span.started_ns for span in spans) // 1000
    root = next((span for span in spans if span.parent is None), None)
    row: dict[str, Any] = {
        "project": project, "id": trace, "experiment_id": experiment, "client_request_id": None, "told": False,
        "state": "in progress" if root is None else "error" if root.status == "error" else "ok",
        "name": None if root is None else root.name,
        "requested_at": from_micros(first), "duration_ms": (last - first) // 1000,
        "request_preview": previews[0], "response_preview": previews[1],
    }  # fmt: skip
    before = _insert_or_lock(tx, row)
    if before is None or before.told:
        return
    row["requested_at"] = min(row["requested_at"], before.requested_at)
    last = max(last, micros(before.requested_at) + (before.duration_ms or 0) * 1000)
    row["duration_ms"] = (last - micros(row["requested_at"])) // 1000
    if root is None:
        row |= {"state": before.state, "name": before.name}
    row |= {name: row[name] or getattr(before, name) for name in ("request_preview", "response_preview")}
    upsert(tx, TRACES, [row])


def _insert_or_lock(tx: Connection, row: Mapping[str, Any]) -> Any:
    """Insert a trace and return None; or, when it is there, return its row, which nobody else changes until this transaction is over."""
    if insert_new(tx, TRACES, [dict(row)]):
        return None
    return tx.execute(select(TRACES).where(_is(row["project"], row["id"])).with_for_update()).one()


def _fetch(tx: Connection, project: str, trace: str) -> Trace:
    found = fetch_traces(tx, project, [trace])
    if not found:
        raise TraceNotFound(trace)
    return found[0]


def _check_there(tx: Connection, project: str, trace: str) -> None:
    if tx.execute(select(TRACES.c.id).where(_is(project, trace))).first() is None:
        raise TraceNotFound(trace)


def _is(project: str, trace: str) -> Any:
    return (TRACES.c.project == project) & (TRACES.c.id == trace)


def _read_texts(tx: Connection, table: Table, project: str, traces: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for row in tx.execute(select(table).where(table.c.project == project, table.c.trace.in_(traces)).order_by(table.c.key)):
        found.setdefault(row.trace, {})[row.key] = row.value
    return found


def _check(trace: Trace) -> None:
    _check_id("trace", trace.id)
    _check_duration(trace.duration_ms)
    _check_texts("tag", trace.tags)
    _check_texts("metadata", trace.metadata)


def _check_id(what: str, identifier: str) -> None:
    if not identifier or len(identifier) > ID_MAX or "/" in identifier or "\0" in identifier:
        raise Invalid(f"{what} id {identifier[:80]!r} is not usable; expected 1 to {ID_MAX} characters without slashes")


def _check_duration(duration_ms: int | None) -> None:
    if duration_ms is not None and abs(duration_ms) > DURATION_MAX_MS:
        raise Invalid(f"a trace of {duration_ms} ms is not usable; expected at most {DURATION_MAX_MS}, which are ten thousand years")


def _check_texts(what: str, texts: Mapping[str, str]) -> None:
    for key, value in texts.items():
        if not key or len(key) > KEY_MAX or len(value) > VALUE_MAX or "\0" in key + value:
            raise Invalid(
                f"{what} {key[:80]!r} of a trace is not usable; "
                f"expected a key of 1 to {KEY_MAX} characters and a value of at most {VALUE_MAX}"
            )
