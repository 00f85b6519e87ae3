"""The Grafana dashboard: it is of Grafana's form, and every question in it is one that a worker's metrics answer."""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import services
from tests.serving.plant import Caller, Plant, row
from tidemill.core.clock import wait_until
from tidemill.core.values import replace
from tidemill.serving.dashboard import COLUMNS, PANELS, dashboard

NAME = re.compile(r"tidemill_\w+")
SELECTED = re.compile(r"(tidemill_\w+)(?:{([^}]*)})?")
BY = re.compile(r"by \(([^)]*)\)")
# What a worker that is well has nothing of.
QUIET = {"tidemill_load_failures_total", "tidemill_pushed_rows_total", "tidemill_shadow_failures_total", "tidemill_trace_spans_total"}
EXPRESSIONS = [query.expression for panel in PANELS for query in panel.queries]


def told(expression: str) -> str:
    """Return an expression with Grafana's variables filled in."""
    return expression.replace("$__rate_interval", "1m").replace("$endpoint", ".*")


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    plant = Plant(tmp_path_factory.mktemp("home"))
    config = plant.endpoint()
    plant.publish(replace(config, options=replace(config.options, cached_rows=10)))
    with plant.worker() as found:
        load(found)
        yield found


def load(caller: Caller) -> None:
    for _ in range(30):
        (made,) = caller.predict(row())["predictions"]
    caller.predict(*[row(a=float(place)) for place in range(5)])
    caller.post("/feedback", {"labels": [{"id": made["id"], "value": True}]})
    caller.get("/nothing")


def test_it_has_the_form_that_grafana_imports() -> None:
    made = json.loads(json.dumps(dashboard()))
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= made.keys()
    assert len(made["uid"]) <= 40
    assert len({panel["id"] for panel in made["panels"]}) == len({panel["title"] for panel in made["panels"]}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < COLUMNS
        taken |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    variables = {variable["name"] for variable in made["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(made))) - {"__rate_interval", "__all"}
    assert used == variables


def test_every_question_is_answered_by_what_a_worker_tells(caller: Caller) -> None:
    families = list(text_string_to_metric_families(caller.get("/metrics").body.decode()))
    declared = {family.name for family in families} | {f"{family.name}_total" for family in families if family.type == "counter"}
    declared |= {f"{family.name}_{part}" for family in families if family.type == "histogram" for part in ("bucket", "sum", "count")}
    labels: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    for expression in EXPRESSIONS:
        for name, selector in SELECTED.findall(expression):
            assert name in declared, expression
            if name in labels:
                asked = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector))
                asked |= {label.strip() for by in BY.findall(expression) for label in by.split(",")}
                assert asked <= labels[name], expression
            else:
                assert name in QUIET | {"tidemill_feature_lookup_seconds_sum", "tidemill_feature_lookup_seconds_count",
                                        "tidemill_feature_lookup_seconds_bucket"}, name  # fmt: skip
    for metric in ("tidemill_requests_total", "tidemill_request_seconds", "tidemill_batch_rows", "tidemill_configs_refused_total"):
        assert any(metric in expression for expression in EXPRESSIONS)


def test_every_legend_names_labels_that_its_question_keeps() -> None:
    for query in (query for panel in PANELS for query in panel.queries):
        kept = {label.strip() for by in BY.findall(query.expression) for label in by.split(",")}
        assert set(re.findall(r"{{(\w+)}}", query.legend)) <= kept, query


@pytest.mark.slow
@pytest.mark.skipif(which("prometheus") is None, reason="prometheus is not installed (apt-get install prometheus)")
def test_prometheus_takes_every_expression_and_answers_it(caller: Caller, tmp_path: Path) -> None:
    rules = {"groups": [{"name": "all", "rules": [{"record": f"x:{n}", "expr": told(e)} for n, e in enumerate(EXPRESSIONS)]}]}
    (tmp_path / "rules.yml").write_text(json.dumps(rules))
    scrape = {"job_name": "tidemill", "scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{caller.port}"]}]}
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape], "rule_files": ["rules.yml"]}))
    checked = subprocess.run(["promtool", "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    port = services.free_port()
    command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}",
               "--enable-feature=exemplar-storage"]  # fmt: skip

    def ask(path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return found["data"]

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def scraped() -> bool:
        caller.call("POST", "/predict/delay", {"rows": [row()]}, {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
        found = ask("query", query="count_over_time(tidemill_connections[1m])")["result"]
        return bool(found) and int(found[0]["value"][1]) >= 3

    with services.running(command, tmp_path, ready=ready):
        assert wait_until(scraped, timeout_s=30, every_s=0.2)
        for expression in EXPRESSIONS:
            found = ask("query", query=told(expression))["result"]
            quiet = {*QUIET, *(name for name in NAME.findall(expression) if "feature_lookup" in name)}
            assert found or set(NAME.findall(expression)) <= quiet, expression
        marked = ask("query_exemplars", query="tidemill_request_seconds_bucket", start="0", end="4000000000")
        assert marked[0]["exemplars"][0]["labels"] == {"trace_id": "a" * 32}
