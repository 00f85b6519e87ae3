"""Traces: told whole or grown from spans, searched, tied to runs, removed."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from tests import world
from tidemill.core.clock import micros
from tidemill.core.codec import encode_text
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.filters import FilterRefused
from tidemill.core.pages import TokenRefused
from tidemill.core.values import replace
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.tracking.assessments import Assessment, create_assessment
from tidemill.tracking.experiments import create_experiment
from tidemill.tracking.files import keep_file, list_folder
from tidemill.tracking.runs import RunNotFound, start_run
from tidemill.tracking.trace_removal import delete_traces
from tidemill.tracking.trace_search import search_traces
from tidemill.tracking.traces import (
    Span,
    Trace,
    TraceNotFound,
    add_to_trace_tag,
    change_trace,
    delete_trace_tag,
    link_traces,
    log_spans,
    read_spans,
    read_trace,
    read_traces,
    rename_trace,
    set_trace_tags,
    tell_trace,
)

_NS = micros(world.START) * 1000


def span(trace: str, number: int, *, parent: str | None = None, status: Any = "ok", **more: Any) -> Span:
    attributes = [{"key": "kind", "value": {"string_value": f"k{number}"}}, {"key": "odd_%", "value": {"int_value": number}}]
    given = {
        "name": f"step {number}", "type": "CHAIN", "content": encode_text({"attributes": attributes}),
        "started_ns": _NS + number * 10_000_000, "ended_ns": _NS + (number + 5) * 10_000_000,
    }  # fmt: skip
    return Span(trace=trace, id=f"s{number}", parent=parent, status=status, **{**given, **more})


def trace(identifier: str, experiment: int, **more: Any) -> Trace:
    return Trace(id=identifier, experiment_id=experiment, **{"state": "ok", "requested_at": world.START, **more})


@pytest.fixture
def experiment(any_ws: Workspace) -> int:
    return create_experiment(any_ws, "calls").id


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"metadata": {"k" * 251: "v"}}, "metadata 'k+' of a trace is not usable"),
        ({"metadata": {"k": "v" * 8001}}, "metadata 'k' of a trace is not usable"),
        ({"tags": {"": "v"}}, "tag '' of a trace is not usable"),
        ({"duration_ms": 2**60}, f"a trace of {2**60} ms is not usable"),
    ],
)
def test_what_no_database_keeps_is_refused(any_ws: Workspace, experiment: int, more: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        tell_trace(any_ws, trace("tr-1", experiment, **more))
    tell_trace(any_ws, trace("tr-1", experiment))
    given = {"tags": {}, "metadata": {}, "duration_ms": 1, **more}
    with pytest.raises(Invalid, match=says):
        change_trace(any_ws, "tr-1", state="ok", **given)
    for wrong in (span("t" * 51, 1), replace(span("tr-1", 1), id="")):
        with pytest.raises(Invalid, match=r"id '.*' is not usable; expected 1 to 50 characters"):
            log_spans(any_ws, experiment, [wrong], previews={})
    assert read_trace(any_ws, "tr-1").metadata == {}


def test_a_trace_is_told_changed_and_read_back(any_ws: Workspace, experiment: int) -> None:
    told = trace("tr-1", experiment, state="in progress", name="ask", tags={"a": "1"}, metadata={"m": "2"}, request_preview="q")
    assert tell_trace(any_ws, told) == told
    set_trace_tags(any_ws, "tr-1", {"a": "2", "b": "3"})
    delete_trace_tag(any_ws, "tr-1", "b")
    rename_trace(any_ws, "tr-1", "tell")
    changed = change_trace(any_ws, "tr-1", state="error", duration_ms=70, tags={"c": "4"}, metadata={"m": "5"})
    assert (changed.state, changed.duration_ms, changed.name) == ("error", 70, "tell")
    assert (changed.tags, changed.metadata) == ({"a": "2", "c": "4"}, {"m": "5"})
    assert read_traces(any_ws, ["none", "tr-1", "tr-1"]) == [changed]
    again = tell_trace(any_ws, trace("tr-1", experiment, duration_ms=80))
    assert (again.state, again.duration_ms, again.name, again.request_preview, again.tags) == ("ok", 80, "tell", "q", {"a": "2", "c": "4"})


def test_a_trace_grows_with_its_spans(any_ws: Workspace, experiment: int) -> None:
    log_spans(any_ws, experiment, [span("tr-1", 3, parent="s1"), span("tr-2", 0)], previews={})
    child = read_trace(any_ws, "tr-1")
    assert (child.state, child.name, child.told, child.spans) == ("in progress", None, False, 1)
    assert (child.requested_at, child.duration_ms) == (world.START + timedelta(milliseconds=30), 50)
    log_spans(any_ws, experiment, [span("tr-1", 1, status="error", name="root")], previews={"tr-1": ("in", "out")})
    whole = read_trace(any_ws, "tr-1")
    assert (whole.state, whole.name, whole.request_preview, whole.response_preview) == ("error", "root", "in", "out")
    assert (whole.requested_at, whole.duration_ms) == (world.START + timedelta(milliseconds=10), 70)
    log_spans(any_ws, experiment, [span("tr-1", 3, parent="s1", content='"again"')], previews={})
    assert read_trace(any_ws, "tr-1") == whole
    contents = read_spans(any_ws, ["tr-1", "tr-2", "none"])
    assert [len(contents[name]) for name in ("tr-1", "tr-2", "none")] == [2, 1, 0]
    assert contents["tr-1"][1] == '"again"'


def test_of_a_span_that_comes_twice_at_once_the_last_is_kept(any_ws: Workspace, experiment: int) -> None:
    log_spans(any_ws, experiment, [span("tr-1", 0, content='"first"'), span("tr-1", 0, content='"last"')], previews={})
    assert read_spans(any_ws, ["tr-1"]) == {"tr-1": ['"last"']}


@pytest.mark.slow
def test_a_trace_grows_from_all_sides_at_once(any_ws: Workspace, experiment: int) -> None:
    def send(number: int) -> None:
        name = f"tr-{number // 10}"
        parent = "s0" if number % 10 else None
        log_spans(any_ws, experiment, [span(name, number % 10, parent=parent), span("tr-all", number, parent="x")], previews={})
        if number == 35:
            tell_trace(any_ws, trace("tr-3", experiment, name="told", duration_ms=1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, reversed(range(40))))
    found = read_traces(any_ws, ["tr-0", "tr-1", "tr-2", "tr-3", "tr-all"])
    assert [(item.name, item.state, item.duration_ms) for item in found] == [
        ("step 0", "ok", 140), ("step 0", "ok", 140), ("step 0", "ok", 140), ("told", "ok", 1), (None, "in progress", 440),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_list_in_a_tag_grows_from_all_sides_at_once(any_ws: Workspace, experiment: int) -> None:
    tell_trace(any_ws, trace("tr-1", experiment))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_to_trace_tag(any_ws, "tr-1", "used", [{"n": number % 20}]), range(40)))
    assert sorted(item["n"] for item in json.loads(read_trace(any_ws, "tr-1").tags["used"])) == list(range(20))


def test_a_tag_that_holds_no_list_takes_no_items(ws: Workspace) -> None:
    tell_trace(ws, trace("tr-1", create_experiment(ws, "calls").id, tags={"used": '"text"'}))
    with pytest.raises(Invalid, match="tag 'used' of trace tr-1 holds no list"):
        add_to_trace_tag(ws, "tr-1", "used", [1])
    with pytest.raises(TraceNotFound, match="tr-2"):
        add_to_trace_tag(ws, "tr-2", "used", [1])


def test_spans_do_not_change_what_was_told(ws: Workspace) -> None:
    experiment = create_experiment(ws, "calls").id
    told = tell_trace(ws, trace("tr-1", experiment, name="told", duration_ms=1))
    log_spans(ws, experiment, [span("tr-1", 0, status="error")], previews={"tr-1": ("in", "out")})
    assert (read_trace(ws, "tr-1").state, read_trace(ws, "tr-1").name, read_trace(ws, "tr-1").duration_ms) == ("ok", "told", 1)
    assert read_trace(ws, "tr-1").requested_at == told.requested_at


@pytest.fixture
def searched(any_ws: Workspace, experiment: int) -> int:
    """Five traces, a second apart; the last has no spans and nothing was said of it."""
    for number in range(5):
        tell_trace(
            any_ws,
            trace(
                f"tr-{number}", experiment, state="error" if number == 3 else "ok", name=f"call {number}" if number else None,
                requested_at=world.START + timedelta(seconds=number), duration_ms=number * 100, client_request_id=f"c{number}",
                tags={"team": ("red", "blue")[number % 2]}, metadata={"mlflow.trace.session": f"s{number // 2}"},
            ),
        )  # fmt: skip
        if number < 4:
            log_spans(any_ws, experiment, [span(f"tr-{number}", number)], previews={})
            value = (0.25 * number, "yes", True, [1])[number] if number else 0.75
            create_assessment(
                any_ws, Assessment(id="", trace=f"tr-{number}", name="score", kind="feedback", value=encode_text(value), body={})
            )
    run = start_run(any_ws, experiment, name="r", run_id="a" * 32).id
    link_traces(any_ws, ["tr-1", "tr-4"], run)
    link_traces(any_ws, ["tr-4"], run)
    return experiment


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "43210"), ("status = 'ERROR'", "3"), ("trace.status != 'OK'", "3"), ("name = 'call 1'", "1"), ("name LIKE 'call%'", "4321"),
        ("name IS NULL", "0"), ("name IS NOT NULL", "4321"), ("request_id IN ('tr-1', 'tr-2')", "21"), ("client_request_id = 'c4'", "4"),
        ("timestamp_ms > 1370044802000", "43"), ("execution_time_ms <= 100", "10"), ("end_time_ms > 1370044803000", "43"),
        ("tags.team = 'blue'", "31"), ("tag.team IS NULL", ""), ("metadata.`mlflow.trace.session` = 's1'", "32"),
        ("run_id = '" + "a" * 32 + "'", "41"), ("span.name = 'step 2'", "2"), ("span.type = 'CHAIN'", "3210"),
        ("span.status = 'OK'", "3210"),
        ("span.content LIKE '%k3%'", "3"), ("span.attributes.kind = 'k2'", "2"), ("span.attributes.kind LIKE 'K%'", ""),
        ("span.attributes.kind ILIKE '%K1%'", "1"), ("span.`attributes.odd_%` = '2'", "2"), ("span.`attributes.oddx%` = '2'", ""),
        ("feedback.score = 0.75", "0"), ("feedback.score > 0.5", "0"), ("feedback.score = 'yes'", "1"), ("feedback.score LIKE 'y%'", "1"),
        ("feedback.score IS NULL", "4"), ("feedback.score IS NOT NULL", "3210"), ("expectation.score = 'yes'", ""),
        ("feedback.score != 'yes'", "320"), ("tags.team = 'red' AND status = 'OK' AND execution_time_ms > 0", "42"),
    ],
)  # fmt: skip
def test_searches(any_ws: Workspace, searched: int, text: str, found: str) -> None:
    assert "".join(item.id[3:] for item in search_traces(any_ws, [searched], filter=text).items) == found


@pytest.mark.parametrize(
    ("order", "found"),
    [
        (["timestamp_ms"], "01234"), (["execution_time DESC"], "43210"), (["name"], "12340"), (["status DESC", "timestamp"], "01243"),
        (["tag.team", "timestamp"], "13024"), (["experiment_id"], "43210"),
    ],
)  # fmt: skip
def test_orders(any_ws: Workspace, searched: int, order: list[str], found: str) -> None:
    assert "".join(item.id[3:] for item in search_traces(any_ws, [searched], order_by=order).items) == found


def test_pages_follow_one_another(any_ws: Workspace, searched: int) -> None:
    first = search_traces(any_ws, [searched], limit=3)
    second = search_traces(any_ws, [searched], limit=3, page_token=first.next)
    assert [item.id for item in (*first.items, *second.items)] == ["tr-4", "tr-3", "tr-2", "tr-1", "tr-0"]
    assert second.next is None
    with pytest.raises(TokenRefused, match="page"):
        search_traces(any_ws, [searched], filter="name = 'x'", page_token=first.next)


@pytest.mark.parametrize(
    "text",
    ["nothing = 'x'", "span.depth = 'x'", "span.attributes.kind > 'x'", "issue.id = 'x'", "feedback.score > 'yes'",
        "feedback.score IN ('a')",
     "timestamp_ms = 'x'"],
)  # fmt: skip
def test_searches_that_mean_nothing_are_refused(ws: Workspace, text: str) -> None:
    with pytest.raises(FilterRefused, match=r"expected|cannot|no issues"):
        search_traces(ws, [1], filter=text)


def test_an_unknown_order_is_refused(ws: Workspace) -> None:
    with pytest.raises(Invalid, match="traces cannot be ordered by 'nothing'; expected a tag, or one of"):
        search_traces(ws, [1], order_by=["nothing"])


def test_removed_traces_leave_nothing(any_ws: Workspace, searched: int) -> None:
    keep_file(any_ws, f"{searched}/traces/tr-1/artifacts/traces.json", any_ws.objects.put(b"{}"), 2)
    assert delete_traces(any_ws, searched + 1, traces=["tr-1"]) == 0
    assert delete_traces(any_ws, searched, traces=["tr-1", "none"]) == 1
    assert delete_traces(any_ws, searched, until=world.START + timedelta(seconds=3), limit=2) == 2
    assert [item.id for item in search_traces(any_ws, [searched]).items] == ["tr-4", "tr-3"]
    assert read_spans(any_ws, ["tr-1"]) == {"tr-1": []}
    assert list_folder(any_ws, str(searched)) == []
    with pytest.raises(TraceNotFound, match="Trace with ID 'tr-1' not found"):
        read_trace(any_ws, "tr-1")


def test_what_is_wrong_is_refused(ws: Workspace) -> None:
    experiment = create_experiment(ws, "calls").id
    tell_trace(ws, trace("tr-1", experiment))
    for identifier in ("", "a/b", "t" * 51, "a\0"):
        with pytest.raises(Invalid, match=r"trace id .* is not usable"):
            tell_trace(ws, trace(identifier, experiment))
    for tags in ({"": "x"}, {"k" * 251: "x"}, {"k": "v" * 8001}, {"k": "\0"}):
        with pytest.raises(Invalid, match=r"tag .* of a trace is not usable"):
            set_trace_tags(ws, "tr-1", tags)
    with pytest.raises(NotFound, match="trace tr-1 has no tag 'none'"):
        delete_trace_tag(ws, "tr-1", "none")
    with pytest.raises(RunNotFound, match="0000"):
        link_traces(ws, ["tr-1"], "0000")
    for act in (
        lambda: set_trace_tags(ws, "none", {}),
        lambda: rename_trace(ws, "none", "x"),
        lambda: change_trace(ws, "none", state="ok", duration_ms=1, tags={}, metadata={}),
    ):
        with pytest.raises(TraceNotFound, match="'none' not found"):
            act()
    with pytest.raises(ActionRefused, match=r"tracking\.write"):
        tell_trace(world.acting(ws, "eve", "viewer"), trace("tr-2", experiment))
