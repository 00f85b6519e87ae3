"""Run monitors: read a window of the journal and its reference, judge, keep the report, open and close alerts."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.checks.check import CheckRecord, Verdict, write_checks
from tidemill.core.codec import canonical
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import Digest, new_id
from tidemill.core.values import replace
from tidemill.core.window import Window
from tidemill.datasets.versions import open_table
from tidemill.govern.workspace import Workspace
from tidemill.monitor.alerts import decide_alerts, fetch_known, write_changes
from tidemill.monitor.evaluate import Reference, Sample, evaluate_window
from tidemill.monitor.monitors import (
    REFERENCE_TAG,
    ModelReference,
    Monitor,
    MonitorSpec,
    TableReference,
    TrailingReference,
    WindowReference,
    WindowSeen,
    fetch_monitors,
    list_monitors,
    read_monitor,
    read_variation,
    write_variation,
    write_window,
)
from tidemill.monitor.report import WindowReport, to_checks
from tidemill.monitor.views import WatchedView
from tidemill.registry.versions import fetch_key
from tidemill.serving.config import endpoint_key, load
from tidemill.serving.history import inputs, read_labels, read_predictions
from tidemill.stats.arrays import FloatArray

_FAR = datetime(9999, 1, 1, tzinfo=UTC)


class WindowJudged(EventBody, frozen=True, kw_only=True, tag="monitor.window"):
    """A monitor has looked at a window."""

    monitor: str
    endpoint: str
    view: str = ""
    window: Window
    verdict: Verdict
    rows: int
    labels: int
    report: Digest


def run_monitor(ws: Workspace, name: str, window: Window | None = None) -> WindowReport:
    """Look at a window (the monitor's next one unless told) and return what was found. Looking again replaces what was found before."""
    ws.require("monitor.write", name)
    monitor = read_monitor(ws, name)
    return _judge(ws, monitor, window or monitor.next_window)


def run_due(ws: Workspace, *, until: datetime) -> list[WindowReport]:
    """Look at every window of every monitor that is due by a moment, in the order in which they fell due.

    A window that cannot be judged as things are declared (a reference that is not there) is kept with its fault and passed over,
    so that one monitor does not hold up the others; what is out of reach for now is Unavailable, and is looked at next time.
    """
    reports = []
    while due := [monitor for monitor in list_monitors(ws) if monitor.next_due <= until]:
        monitor = min(due, key=lambda each: (each.next_due, each.name))
        try:
            reports.append(_judge(ws, monitor, monitor.next_window))
        except (Invalid, NotFound) as error:
            report = WindowReport(
                monitor=monitor.name, endpoint=monitor.spec.endpoint, view=monitor.spec.view, window=monitor.next_window,
                reference="none", rows=0, reference_rows=0, labels=0, findings=(), fault=str(error),
            )  # fmt: skip
            _keep(ws, monitor.spec, report)
            reports.append(report)
    return reports


def next_window_end(ws: Workspace) -> datetime | None:
    """Return when the next window of any monitor is due, None when nothing is watched."""
    with ws.catalog.reading() as tx:
        return min((monitor.next_due for monitor in fetch_monitors(tx, ws.project)), default=None)


def _judge(ws: Workspace, monitor: Monitor, window: Window) -> WindowReport:
    spec = monitor.spec
    if spec.view:
        return _judge_view(ws, spec, window)
    predictions = _answers(ws, spec, window)
    if predictions.num_rows < spec.rows_min:
        empty = Sample(pa.table({}), np.full(predictions.num_rows, np.nan), np.full(predictions.num_rows, np.nan))
        report = evaluate_window(Reference("none", _nothing(), spec), empty, spec, window)
    else:
        reference = _reference(ws, spec, predictions, window)
        current = _sample(ws, spec, predictions, list(reference.columns), _known_by(window, spec))
        report = evaluate_window(reference, current, spec, window)
    _keep(ws, spec, report)
    return report


def _judge_view(ws: Workspace, spec: MonitorSpec, window: Window) -> WindowReport:
    watched = WatchedView(ws, spec)
    source, current = spec.against, watched.sample(window)
    if isinstance(source, TableReference):
        name, sample = source.table, _table_sample(ws, source.table, source)
    elif isinstance(source, WindowReference):
        name, sample = _named(watched.reference, source.window), watched.sample(source.window)
    else:
        assert isinstance(source, TrailingReference), "a spec of a view has no other"
        before = Window(start=window.start - source.windows * window.length, end=window.start)
        name, sample = _named(watched.reference, before), watched.sample(before)
    enough = min(current.rows, sample.rows) >= spec.rows_min
    report = evaluate_window(Reference(name, sample if enough else _nothing(), spec), current if enough else _nothing(), spec, window)
    if not enough:
        note = f"{current.rows} events, and {sample.rows} to hold them against, are too few to judge; {spec.rows_min} are needed"
        report = replace(report, rows=current.rows, reference_rows=sample.rows, note=note)
    report = replace(report, findings=(*watched.freshness(window.end), *report.findings), readers=tuple(watched.readers()))
    _keep(ws, spec, report)
    return report


def _named(what: str, window: Window) -> str:
    return f"{what} {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}"


def _keep(ws: Workspace, spec: MonitorSpec, report: WindowReport) -> None:
    now = ws.clock.now()
    digest = ws.objects.put(canonical(report))
    checks = [
        CheckRecord(id=new_id(), subject=spec.subject, result=result, artifact=ws.objects.put(canonical(result)), at=now)
        for result in to_checks(report)
    ]
    seen = WindowSeen(
        monitor=spec.name, start=report.window.start, end=report.window.end, verdict=report.verdict, rows=report.rows,
        labels=report.labels, report=digest, at=now,
    )  # fmt: skip
    with ws.catalog.transaction() as tx:
        write_window(tx, ws.project, seen)
        write_checks(tx, ws.project, checks)
        link(tx, ws.project, source=spec.subject, target=f"artifact:{digest}", relation="watched", at=now)
        body = WindowJudged(
            monitor=spec.name, endpoint=spec.endpoint, view=spec.view, window=report.window, verdict=report.verdict, rows=report.rows,
            labels=report.labels, report=digest,
        )  # fmt: skip
        event = ws.record(tx, body, subject=f"monitor:{spec.name}", reason=report.fault or report.note)
        changes = decide_alerts(report, spec, fetch_known(tx, ws.project, spec.name, now=now), now=now)
        write_changes(tx, ws, changes, cause=event)


def _answers(ws: Workspace, spec: MonitorSpec, window: Window) -> pa.Table:
    """Return what callers were told in a window."""
    table = read_predictions(ws.state, endpoint_key(ws.project, spec.endpoint), window, objects=ws.objects)
    return table.filter(pc.invert(table.column("shadow")))


def _known_by(window: Window, spec: MonitorSpec) -> Window:
    return Window(start=window.start, end=window.end + spec.wait)


def _sample(ws: Workspace, spec: MonitorSpec, predictions: pa.Table, columns: Sequence[str], known: Window) -> Sample:
    features = inputs(predictions)
    there = [name for name in columns if name in features.column_names]
    labels = read_labels(ws.state, known, objects=ws.objects)
    places = pc.index_in(predictions.column("id"), labels.column("id").combine_chunks())
    values: Any = labels.column("value").combine_chunks()
    truths = np.asarray(values.take(places).fill_null(float("nan")), dtype=np.float64)
    told: Any = predictions.column("inputs_kept").to_numpy()
    kept = None if told.all() else np.flatnonzero(told)
    return Sample(features.select(there), _doubles(predictions, "score"), truths, kept=kept, hidden=_hidden(ws, spec))


def _hidden(ws: Workspace, spec: MonitorSpec) -> frozenset[str]:
    """Return the columns that the endpoint's journal does not keep as they are."""
    config, key = load(ws.state), endpoint_key(ws.project, spec.endpoint)
    options = [each.options for each in config.endpoints if each.key == key] if config is not None else []
    return frozenset(name for each in options for name in (*each.journal_drop, *each.journal_hash))


def _reference(ws: Workspace, spec: MonitorSpec, predictions: pa.Table, window: Window) -> Reference:
    source = spec.against
    if isinstance(source, TrailingReference):
        source = WindowReference(window=Window(start=window.start - source.windows * window.length, end=window.start))
    if isinstance(source, WindowReference):
        rows = _answers(ws, spec, source.window)
        rows = rows.filter(rows.column("inputs_kept"))
        watched = spec.columns or inputs(rows).column_names
        known = Window(start=source.window.start, end=_FAR)
        name = _named("journal", source.window)
        return Reference(name, _sample(ws, spec, rows, watched, known), spec)
    name = _brought_along(ws, predictions) if isinstance(source, ModelReference) else source.table
    with ws.catalog.reading() as tx:
        variation = read_variation(tx, ws.project, name, spec)
    reference = Reference(name, _table_sample(ws, name, source), spec, variation=variation)
    if variation is None:
        with ws.catalog.transaction() as tx:
            write_variation(tx, ws.project, name, spec, reference.variation)
    return reference


def _brought_along(ws: Workspace, predictions: pa.Table) -> str:
    """Return the reference of the model version that answered most rows."""
    counted = (
        predictions.group_by(["model", "version"])
        .aggregate([("id", "count")])
        .sort_by([("id_count", "descending"), ("version", "descending")])
    )
    leader = counted.slice(0, 1).to_pylist()[0]
    with ws.catalog.reading() as tx:
        version = fetch_key(tx, ws.project, leader["model"], leader["version"])
    digest = version.tags.get(REFERENCE_TAG)
    if digest is None:
        raise NotFound(
            f"{version.node} has no tag {REFERENCE_TAG!r} that names its reference table; register it with one, "
            "or give the monitor another reference"
        )
    return f"artifact:{digest}"


def _table_sample(ws: Workspace, name: str, source: ModelReference | TableReference) -> Sample:
    kind, _, place = name.partition(":")
    if kind == "dataset" and place:
        table = open_table(ws, place)
    elif kind == "artifact" and place:
        table = pq.read_table(io.BytesIO(ws.objects.get(Digest(place))))
    else:
        raise Invalid(f"reference {name!r} was not understood; expected dataset:NAME@VERSION or artifact:DIGEST")
    if source.timestamp not in table.column_names:
        raise Invalid(f"reference {name} has no time column {source.timestamp!r} (it has: {', '.join(table.column_names)})")
    table = table.sort_by(source.timestamp)
    times: Any = table.column(source.timestamp).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    own = [column for column in (source.timestamp, source.score, source.label) if column in table.column_names]
    return Sample(table.drop_columns(own), _doubles(table, source.score), _doubles(table, source.label), times)


def _doubles(table: pa.Table, name: str) -> FloatArray:
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    column: Any = table.column(name)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return np.asarray(column.cast(pa.float64()).fill_null(float("nan")), dtype=np.float64)


def _nothing() -> Sample:
    return Sample(pa.table({}), np.empty(0), np.empty(0))
