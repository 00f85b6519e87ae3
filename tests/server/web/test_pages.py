"""Every page gets exactly what its context declares, says what it should, and holds nothing inline."""

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import nodes

from tests import world
from tests.server.lived import live
from tidemill.core.settings import load_settings
from tidemill.core.values import fields_of
from tidemill.govern.keys import issue_key
from tidemill.govern.workspace import Workspace
from tidemill.server.app import create_app
from tidemill.server.inprocess import InProcessTransport
from tidemill.server.web import charts
from tidemill.server.web.page import FOLDER, Page, environment
from tidemill.server.web.routes import PAGES
from tidemill.tracking.batches import log_metrics
from tidemill.tracking.runs import start_run

KINDS = [pytest.param(page, id=page.template.removesuffix(".html")) for page in PAGES]


def used_fields(template: str) -> set[str]:
    """Return the fields of `page` that a template reads."""
    source = (FOLDER / "templates" / template).read_text("utf-8")
    tree = environment().parse(source)
    found = {each.attr for each in tree.find_all(nodes.Getattr) if isinstance(each.node, nodes.Name) and each.node.name == "page"}
    return found | {
        each.arg.value
        for each in tree.find_all(nodes.Getitem)
        if isinstance(each.node, nodes.Name) and each.node.name == "page" and isinstance(each.arg, nodes.Const)
    }


@pytest.mark.parametrize("page", KINDS)
def test_a_template_reads_what_its_context_declares_and_nothing_else(page: Page) -> None:
    assert used_fields(page.template) == set(fields_of(page.context))


@pytest.mark.parametrize("page", KINDS)
def test_an_empty_workspace_has_every_page(page: Page, transport: InProcessTransport) -> None:
    answer = transport.request("GET", "/projects/default" + page.path.replace("{", "").replace("}", ""))
    # a comparison of nothing is refused, and what is asked for by name is not there
    assert answer.status == (400 if page.path == "/compare" else 404 if "{" in page.path else 200)
    assert answer.headers["content-type"].startswith("text/html")
    assert "Content-Security-Policy".lower() in answer.headers


def test_templates_hold_no_script_or_style_of_their_own() -> None:
    for path in sorted((FOLDER / "templates").glob("*.html")):
        text = path.read_text("utf-8")
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", text), path.name
        assert not re.search(r"(src|href)=\"(https?:)?//", text), path.name


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[InProcessTransport, Workspace, str]]:
    with world.workspace(tmp_path_factory.mktemp("lived") / "home") as ws:
        run = live(ws, weeks=5, rows_an_hour=3)
        transport = InProcessTransport(create_app(ws))
        yield transport, ws, run
        transport.close()


def text_of(html: bytes) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.decode()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", ("Overview", "delay@1", "Open alerts", "wind: mean", "shadow, then canary", "rollout started")),
        ("/models", ("champion", "v2", "warn", "Which version an alias pointed at")),
        ("/models/delay/2", ("not worse than the champion", "AUC by carrier", "dataset:flights@1", "tune", "1 inputs")),
        ("/models/delay/champion", ("Late arrivals", "When it was what")),
        ("/endpoints/delay?span=month", ("Answers by variant", "Latency", "Drift, as a multiple", "AUC", "Brier", "endpoint routed")),
        ("/runs", ("train", "finished")),
        ("/audit", ("form one unbroken chain", "model.registered", "trained anew")),
        ("/audit?kind=rollout.started", ("fresher data",)),
    ],
)
def test_a_lived_in_workspace_is_told(lived: tuple[InProcessTransport, Workspace, str], path: str, said: tuple[str, ...]) -> None:
    answer = lived[0].request("GET", f"/projects/default{path}")
    assert answer.status == 200
    found = text_of(answer.body) + answer.body.decode()
    assert not [words for words in said if words not in found]


@pytest.mark.slow
def test_a_run_and_its_pipeline_lead_to_each_other(lived: tuple[InProcessTransport, Workspace, str]) -> None:
    step = lived[0].request("GET", f"/projects/default/runs/{lived[2]}").body.decode()
    parent = re.search(r'/projects/default/runs/([0-9a-f]{32})">train', step)
    assert parent
    whole = text_of(lived[0].request("GET", f"/projects/default/runs/{parent[1]}").body)
    for name in ("load", "tune", "export", "report/evidence.json", "trials"):
        assert name in whole


@pytest.mark.slow
def test_without_plotly_the_numbers_are_there(lived: tuple[InProcessTransport, Workspace, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    charts.plotly_script.cache_clear()
    try:
        page = lived[0].request("GET", "/projects/default/endpoints/delay?span=month").body.decode()
        assert lived[0].request("GET", "/static/plotly.min.js").status == 404
    finally:
        monkeypatch.undo()
        charts.plotly_script.cache_clear()
    assert "plotly.min.js" not in page
    assert page.count("<details open>") >= 3
    assert "Answers by variant" in page


def test_what_users_wrote_is_shown_as_text(ws: Workspace, transport: InProcessTransport) -> None:
    run = start_run(ws, "e", name="<script>alert(1)</script>", params={"quoted": "\"'><img src=x onerror=alert(1)>"})
    for path in (f"/runs/{run.id}", "/runs", "/audit"):
        page = transport.request("GET", f"/projects/default{path}").body.decode()
        assert "<script>alert" not in page
        assert "<img src=x" not in page


def test_a_metric_whose_steps_nobody_counted_is_drawn_in_the_order_of_its_points(ws: Workspace, transport: InProcessTransport) -> None:
    run = start_run(ws, "e", name="r").id
    for value in (3.0, math.nan, math.inf, 1.0):
        log_metrics(ws, run, {"loss": value})
    page = transport.request("GET", f"/projects/default/runs/{run}").body.decode()
    assert f'<a href="/projects/default/runs/{run}/metric?key=loss">loss</a>' in page
    drawn = transport.request("GET", f"/projects/default/runs/{run}/metric?key=loss").body.decode()
    assert "&#34;x&#34;:[1,2,3,4],&#34;series&#34;:[{&#34;name&#34;:&#34;loss&#34;,&#34;values&#34;:[3.0,null,null,1.0]" in drawn
    assert "By point" in drawn
    assert re.findall(r'<td class="n">(.*?)</td>', drawn) == ["1", "3", "2", "NaN", "3", "inf", "4", "1"]


def test_a_number_of_each_run_is_compared_as_bars_and_runs_alike_are_told_so(ws: Workspace, transport: InProcessTransport) -> None:
    runs = [start_run(ws, "e", name="same").id for _ in range(2)]
    alike = text_of(transport.request("GET", f"/projects/default/compare?run={runs[0]}&run={runs[1]}").body)
    assert "These runs do not differ." in alike
    for number, run in enumerate(runs):
        log_metrics(ws, run, {"auc": 0.7 + number / 10})
    page = transport.request("GET", f"/projects/default/compare?run={','.join(runs)}").body.decode()
    assert "&#34;kind&#34;:&#34;stack&#34;,&#34;x&#34;:[&#34;1 same&#34;,&#34;2 same&#34;]" in page


def test_steps_stand_in_the_list_of_runs_when_asked_for(ws: Workspace, transport: InProcessTransport) -> None:
    whole = start_run(ws, "e", name="whole", kind="pipeline")
    start_run(ws, "e", name="the part", kind="step", parent=whole.id)
    assert "the part" not in transport.request("GET", "/projects/default/runs").body.decode()
    assert "the part" in transport.request("GET", "/projects/default/runs?parts=yes").body.decode()
    assert transport.request("GET", "/projects/default/runs?experiment=none").status == 404


def test_something_unknown_is_told_as_a_page(ws: Workspace, transport: InProcessTransport) -> None:
    answer = transport.request("GET", "/projects/default/models/nothing/1")
    assert answer.status == 404
    assert "there is no model &#39;nothing@1&#39;" in answer.body.decode()
    assert transport.request("GET", "/projects/nowhere").status == 404
    run = start_run(ws, "e", name="r").id
    missing = transport.request("GET", f"/projects/default/runs/{run}/metric?key=loss")
    assert missing.status == 404
    assert "has no metric &#39;loss&#39;" in missing.body.decode()
    assert transport.request("GET", "/static/../app.py").status == 404


def test_with_keys_on_a_browser_signs_in_with_one(ws: Workspace) -> None:
    ws.loaded = load_settings(ws.home, arguments={"authentication": "keys"})
    token = issue_key(ws, "vera", role="viewer").token
    transport = InProcessTransport(create_app(ws))
    refused = transport.request("GET", "/projects/default")
    assert (refused.status, refused.headers["location"]) == (303, "/sign-in")
    form = {"content-type": "application/x-www-form-urlencoded", "origin": "http://localhost"}
    wrong = transport.request("POST", "/sign-in", body=b"key=tm_no_no", headers=form)
    assert wrong.status == 401
    assert "not valid" in wrong.body.decode()
    done = transport.request("POST", "/sign-in", body=f"key={token}".encode(), headers=form)
    cookie = done.headers["set-cookie"]
    assert done.status == 303
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    page = transport.request("GET", "/projects/default", headers={"cookie": cookie.partition(";")[0]})
    assert page.status == 200
    assert "vera" in page.body.decode()
    # the cookie opens pages only: the API wants the header, so that a page elsewhere cannot ride on it
    assert transport.request("GET", "/api/v1/status", headers={"cookie": cookie.partition(";")[0]}).status == 401
    transport.close()


def test_static_files_are_where_pages_look_for_them(transport: InProcessTransport) -> None:
    for path in sorted((FOLDER / "static").iterdir()):
        assert transport.request("GET", f"/static/{path.name}").status == 200
    assert Path(FOLDER / "static" / "tidemill.css").read_text("utf-8").count("prefers-color-scheme: dark") == 1
