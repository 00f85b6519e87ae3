"""Monitors in a workspace: windows of a real journal against real references, alerts opened and closed, everything recorded."""

import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import world
from tests.monitor import worlds
from tests.monitor.worlds import START, WEEK, rows, week
from tidemill.catalog.events import read_events
from tidemill.catalog.lineage import walk
from tidemill.checks.check import list_checks
from tidemill.core.clock import ManualClock, micros
from tidemill.core.codec import canonical
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.signature import Column, ModelSpec, Signature
from tidemill.core.values import replace
from tidemill.core.window import Window
from tidemill.datasets.versions import add
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.monitor.alerts import AlertClosed, AlertNotFound, list_alerts, read_alert, resolve_alert, silence_alert
from tidemill.monitor.monitors import (
    ModelReference,
    MonitorNotFound,
    MonitorSpec,
    TableReference,
    WindowReference,
    create_monitor,
    list_monitors,
    list_windows,
    read_monitor,
    read_report,
)
from tidemill.monitor.service import next_window_end, run_due, run_monitor
from tidemill.registry.versions import register
from tidemill.serving.journal import JournalWriter, LabelRecord, PredictionRecord, labels_folder, predictions_folder
from tidemill.store.trees import put_tree

pytestmark = pytest.mark.slow  # each makes a workspace

TABLE = TableReference(table="dataset:reference@1", timestamp="at", label="late")
SPEC = MonitorSpec(name="weekly", endpoint="delay", reference=TABLE, start=START, wait=timedelta(hours=6))


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    workspace = world.init(tmp_path)
    workspace.clock = ManualClock(START)
    add(workspace, "reference", worlds.reference_rows().drop_columns(["id"]))
    yield workspace
    workspace.close()


def serve(ws: Workspace, table: pa.Table, *, version: int = 1, labels: bool = True, shadow: bool = False, inputs_kept: bool = True) -> None:
    """Journal a window as a worker would: an answer for each row, and what came true an hour later."""
    plain = table.to_pydict()
    at = [micros(moment) for moment in plain["at"]]
    journal = JournalWriter(predictions_folder(ws.state, "delay"), "w0")
    for start in range(0, table.num_rows, 100):
        part = {name: values[start : start + 100] for name, values in plain.items()}
        record = PredictionRecord(
            at=at[start],
            received=at[start],
            ids=part["id"],
            columns={name: part[name] for name in ("wind", "rain", "carrier") if inputs_kept},
            inputs_kept=inputs_kept,
            scores=part["score"],
            variant=[0] * len(part["id"]),
            variants=[("main", "delay", version)],
            shadow=shadow,
            latency_ms=1.0,
            trace_id="",
        )
        journal.append(record, at=at[start])
    journal.close()
    if labels:
        feedback = JournalWriter(labels_folder(ws.state), "w0")
        later = [each + 3_600_000_000 for each in at]
        feedback.append(LabelRecord(received=later[-1], ids=plain["id"], values=plain["late"], at=later), at=max(later))
        feedback.close()


def weeks(ws: Workspace, *changes: dict[str, Any]) -> None:
    for number, change in enumerate(changes):
        serve(ws, rows(seed=number + 1, start=START + number * WEEK, **change))


def clock_to(ws: Workspace, number: int) -> None:
    clock = ws.clock
    assert isinstance(clock, ManualClock)
    clock.advance(START + number * WEEK + timedelta(hours=6) - clock.now())


def events(ws: Workspace, kind: str) -> list[dict[str, Any]]:
    with ws.catalog.reading() as tx:
        return [event.body for event in read_events(tx, ws.project, kinds=[kind], limit=None)]


def test_windows_are_judged_when_due_and_one_incident_is_one_alert(ws: Workspace) -> None:
    create_monitor(ws, SPEC)
    weeks(ws, {}, {"wind": 13.0}, {"wind": 13.5}, {}, {"skill": 0.2})
    assert next_window_end(ws) == START + WEEK + timedelta(hours=6)
    assert run_due(ws, until=START + WEEK) == []  # labels are waited for
    verdicts = []
    for number in range(1, 6):
        clock_to(ws, number)
        (report,) = run_due(ws, until=ws.clock.now())
        assert (report.rows, report.labels) == (1000, 1000)
        verdicts.append(report.verdict)
    assert verdicts[0] == "pass"
    assert [(alert.aspect, alert.windows, alert.state) for alert in list_alerts(ws) if alert.aspect in ("data", "performance")] == [
        ("performance", 1, "open"),
        ("data", 2, "resolved"),
    ]
    assert [body["aspect"] for body in events(ws, "alert.opened") if body["aspect"] in ("data", "performance")] == ["data", "performance"]
    assert "wind: mean" in next(body["what"] for body in events(ws, "alert.opened") if body["aspect"] == "data")
    assert len(events(ws, "monitor.window")) == 5
    assert next_window_end(ws) == START + 6 * WEEK + timedelta(hours=6)


def test_inputs_that_were_not_kept_are_told_of_and_not_taken_for_missing(ws: Workspace) -> None:
    create_monitor(ws, SPEC)
    table = rows(seed=1, start=START)
    serve(ws, table.slice(0, 700), labels=False)
    serve(ws, table.slice(700), labels=False, inputs_kept=False)
    (report,) = [run_monitor(ws, SPEC.name, Window(start=START, end=START + WEEK))]
    assert "inputs of 700 of 1000 predictions were kept" in report.note
    assert not [finding for finding in report.moved if finding.aspect == "data"]


def test_alerts_are_caused_by_their_window(ws: Workspace) -> None:
    create_monitor(ws, SPEC)
    weeks(ws, {"wind": 14.0})
    clock_to(ws, 1)
    run_due(ws, until=ws.clock.now())
    with ws.catalog.reading() as tx:
        window = read_events(tx, ws.project, kinds=["monitor.window"])[0]
        alert = next(event for event in read_events(tx, ws.project, kinds=["alert.opened"]) if event.body["aspect"] == "data")
    assert alert.cause == window.id
    assert alert.subject == "monitor:weekly"


def test_what_was_seen_is_kept_as_report_checks_and_lineage(ws: Workspace) -> None:
    create_monitor(ws, SPEC)
    weeks(ws, {"wind": 14.0})
    clock_to(ws, 1)
    report = run_monitor(ws, "weekly")
    (seen,) = list_windows(ws, "weekly")
    assert read_report(ws, seen) == report
    assert (seen.verdict, seen.rows, seen.labels) == (report.verdict, 1000, 1000)
    assert {check.result.name for check in list_checks(ws, "endpoint:delay")} >= {"weekly: data", "weekly: performance"}
    with ws.catalog.reading() as tx:
        edges = walk(tx, ws.project, "endpoint:delay", direction="downstream")
    assert f"artifact:{seen.report}" in {edge.target for edge in edges}


def test_a_window_may_be_looked_at_again(ws: Workspace) -> None:
    create_monitor(ws, SPEC)
    weeks(ws, {}, {})
    clock_to(ws, 2)
    first, second = run_due(ws, until=ws.clock.now())
    assert run_monitor(ws, "weekly", week(0)) == first
    assert [seen.start for seen in list_windows(ws, "weekly")] == [week(1).start, week(0).start]
    assert read_monitor(ws, "weekly").seen_until == second.window.end


def test_shadows_are_not_watched_and_labels_may_be_late(ws: Workspace) -> None:
    create_monitor(ws, SPEC)
    serve(ws, rows(seed=1), labels=False)
    serve(ws, rows(seed=2, wind=20.0), shadow=True, labels=False)
    clock_to(ws, 1)
    (report,) = run_due(ws, until=ws.clock.now())
    assert (report.rows, report.labels) == (1000, 0)
    assert "0 labels are too few" in report.note
    assert not report.moved


def test_an_empty_window_passes_with_a_note(ws: Workspace) -> None:
    create_monitor(ws, SPEC)
    clock_to(ws, 1)
    (report,) = run_due(ws, until=ws.clock.now())
    assert (report.rows, report.verdict, report.note) == (0, "pass", "0 rows are too few to judge; 200 are needed")


def test_a_past_window_may_be_the_reference(ws: Workspace) -> None:
    weeks(ws, {}, {}, {"wind": 13.5})
    span = Window(start=START, end=START + WEEK)
    create_monitor(ws, replace(SPEC, reference=WindowReference(window=span), start=START + WEEK))
    clock_to(ws, 3)
    quiet, moved = run_due(ws, until=ws.clock.now())
    assert quiet.reference == "journal 2013-01-07 to 2013-01-14"
    assert not [finding for finding in quiet.moved if finding.aspect == "data"]
    assert "wind" in {finding.subject for finding in moved.moved}


def model(ws: Workspace, tags: dict[str, str]) -> None:
    outputs = (Column(name="score", kind="double"),)
    spec = ModelSpec(runtime="onnx", file="m", signature=Signature(inputs=(), outputs=outputs), tensors={}, output="score")
    register(ws, "delay", put_tree(ws.objects, {"model.json": canonical(spec), "m": b"m"}), tags=tags)


def test_the_model_that_answered_brings_its_reference_along(ws: Workspace) -> None:
    for wind in (10.0, 13.0):
        sink = io.BytesIO()
        pq.write_table(
            worlds.reference_rows().drop_columns(["id"]) if wind == 10 else rows(3000, seed=9, wind=wind).drop_columns(["id"]), sink
        )
        model(ws, {"reference": ws.objects.put(sink.getvalue())})
    create_monitor(ws, replace(SPEC, reference=ModelReference(timestamp="at", label="late")))
    serve(ws, rows(seed=1, wind=13.0), version=1)
    serve(ws, rows(seed=2, wind=13.0, start=START + WEEK), version=2)
    clock_to(ws, 2)
    against_one, against_two = run_due(ws, until=ws.clock.now())
    assert "wind" in {finding.subject for finding in against_one.moved}
    assert not [finding for finding in against_two.moved if finding.aspect == "data"]


def test_a_model_without_a_reference_is_told_and_holds_up_nobody(ws: Workspace) -> None:
    model(ws, {})
    create_monitor(ws, replace(SPEC, name="lost", reference=ModelReference(timestamp="at")))
    create_monitor(ws, SPEC)
    weeks(ws, {})
    clock_to(ws, 1)
    lost, weekly = run_due(ws, until=ws.clock.now())
    assert "model:delay@1 has no tag 'reference'" in lost.fault
    assert (lost.verdict, weekly.verdict, weekly.fault) == ("warn", "pass", "")
    assert run_due(ws, until=ws.clock.now()) == []
    with pytest.raises(NotFound, match="model:delay@1 has no tag 'reference'"):
        run_monitor(ws, "lost", week(0))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (TableReference(table="reference"), "expected dataset:NAME@VERSION or artifact:DIGEST"),
        (TableReference(table="dataset:nothing@1"), "there is no dataset"),
        (TableReference(table="dataset:reference@1"), "no time column 'event_timestamp'"),
    ],
)
def test_a_reference_that_cannot_be_read_is_told(ws: Workspace, reference: TableReference, message: str) -> None:
    create_monitor(ws, replace(SPEC, reference=reference))
    weeks(ws, {})
    clock_to(ws, 1)
    with pytest.raises((Invalid, NotFound), match=message):
        run_monitor(ws, "weekly")


def test_alerts_can_be_silenced_and_resolved_by_hand(ws: Workspace) -> None:
    create_monitor(ws, SPEC)
    weeks(ws, {"wind": 14.0}, {"wind": 14.0}, {"wind": 14.0})
    clock_to(ws, 1)
    run_due(ws, until=ws.clock.now())
    alert = next(each for each in list_alerts(ws, state="open", monitor="weekly") if each.aspect == "data")
    assert silence_alert(ws, alert.id, START + 20 * WEEK, reason="known").silenced_until == START + 20 * WEEK
    assert resolve_alert(ws, alert.id, reason="handled").state == "resolved"
    with pytest.raises(AlertClosed, match="was resolved at"):
        resolve_alert(ws, alert.id)
    clock_to(ws, 2)
    run_due(ws, until=ws.clock.now())
    assert [body["aspect"] for body in events(ws, "alert.opened")].count("data") == 1  # the successor says nothing
    successor = next(each for each in list_alerts(ws, state="open") if each.aspect == "data")
    assert successor.id != alert.id
    assert read_alert(ws, alert.id).state == "resolved"
    assert [body["alert"] for body in events(ws, "alert.resolved") if body["aspect"] == "data"] == [alert.id]
    with pytest.raises(AlertNotFound, match="there is no alert 'x'"):
        read_alert(ws, "x")


def test_a_monitor_is_made_once_changed_in_place_and_listed(ws: Workspace) -> None:
    made = create_monitor(ws, SPEC)
    assert create_monitor(ws, SPEC) == made
    weeks(ws, {})
    clock_to(ws, 1)
    run_due(ws, until=ws.clock.now())
    changed = create_monitor(ws, replace(SPEC, alpha=0.05))
    assert changed.seen_until == START + WEEK  # goes on where it was
    assert [monitor.name for monitor in list_monitors(ws)] == ["weekly"]
    assert len(events(ws, "monitor.set")) == 2
    with pytest.raises(MonitorNotFound, match=r"there are: weekly\)"):
        read_monitor(ws, "daily")


def test_a_viewer_may_look_but_not_judge(ws: Workspace) -> None:
    create_monitor(ws, SPEC)
    viewer = ws.acting(replace(ws.actor, role="viewer"), ws.project)
    assert list_monitors(viewer)
    assert list_alerts(viewer) == []
    for act in (lambda: create_monitor(viewer, SPEC), lambda: run_monitor(viewer, "weekly"), lambda: resolve_alert(viewer, "x")):
        with pytest.raises(ActionRefused, match=r"monitor\.write"):
            act()


def test_nothing_is_due_where_nothing_is_watched(ws: Workspace) -> None:
    assert next_window_end(ws) is None
    assert run_due(ws, until=START + 9 * WEEK) == []
