"""Searches over many runs, through MLflow's client and over plain HTTP: Tidemill beside MLflow's server, SQLite under both."""

import json
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, options, seconds
from benchmarks.tracking import servers
from benchmarks.tracking.bench_wire import OURS, THEIRS, Clients
from benchmarks.tracking.fill import NAME, fill_mlflow, fill_tidemill
from tests.services import postgres_server

SEARCHES = {
    "search_filtered": "filter on a metric and a param, ordered by another metric",
    "search_first": "the newest 100",
    "search_like": "LIKE on a tag",
    "page_through": "all runs, 100 a page",
}
FILTERED = {"filter": "metrics.metric_1 > 0.5 AND params.param_3 = '7'", "order_by": ["metrics.metric_2 DESC"]}


def through_client(report: Report, told: Options, clients: Clients, name: str, server: servers.Server, experiment: str, count: int) -> None:
    """Ask by way of MLflow's client, whose own work is in the figures."""
    for task, what in SEARCHES.items():
        rounds = told.rounds(1 if task == "page_through" else 5)
        found = [clients.run(server.url, task, count, experiment)[0] * 1000 for _ in range(rounds)]
        against = f"{what}: {THEIRS}" if name == OURS else None
        report.add(f"{what}: {name}", "ms", found, against=against)


def over_http(report: Report, told: Options, server: servers.Server, experiment: str, where: str, *, peer: bool = True) -> None:
    """Ask without a client, to see what the server takes."""

    def search(**asked: Any) -> Callable[[], Any]:
        body = json.dumps({"experiment_ids": [experiment], "max_results": 100, **asked}).encode()
        request = urllib.request.Request(
            f"{server.url}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}, method="POST"
        )
        return lambda: urllib.request.urlopen(request, timeout=120).read()

    asked: dict[str, Callable[[], Any]] = {
        "filter and order": search(**FILTERED),
        "newest 100": search(),
        "LIKE on a tag": search(filter="tags.team LIKE '%1'"),
    }
    if peer:
        base = f"{server.url}/api/v1/projects/default"
        asked["count of each experiment's runs"] = lambda: urllib.request.urlopen(f"{base}/experiment-counts", timeout=60).read()
        asked["first page of the runs table (HTML)"] = lambda: urllib.request.urlopen(
            f"{server.url}/projects/default/runs", timeout=60
        ).read()
    for what, ask in asked.items():
        ask()
        report.add(f"{what}: {where}", "ms", [seconds(ask) * 1000 for _ in range(told.rounds(9))])


def main(told: Options) -> Report:
    small, large = told.size(10_000, 30), told.size(100_000, 60)
    workload = f"runs of 50 metrics, 10 params and 2 tags in one experiment; 100 runs an answer; {small:,} runs, then {large:,}"
    report = Report("searches over runs", workload, ("mlflow", "tidemill"))
    clients = Clients()
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        folder = Path(name)
        experiment = fill_tidemill(folder / "small", small)
        with servers.tidemill(folder / "small") as server:
            through_client(report, told, clients, OURS, server, experiment, small)
            over_http(report, told, server, experiment, f"tidemill, {small:,} runs")
        _, experiment = clients.run(f"sqlite:///{folder / 'mlflow.db'}", "new_experiment", 1, NAME)  # makes the database
        fill_mlflow(folder / "mlflow.db", experiment, small)
        with servers.mlflow(folder / "mlflow.db", lean=told.quick) as server:
            through_client(report, told, clients, THEIRS, server, experiment, small)
            over_http(report, told, server, experiment, f"mlflow, {small:,} runs", peer=False)
        experiment = fill_tidemill(folder / "large", large)
        with servers.tidemill(folder / "large") as server:
            over_http(report, told, server, experiment, f"tidemill, {large:,} runs")
        with ExitStack() as stack, report.needed(postgres_server, "PostgreSQL") as url:
            if url is not None:
                experiment = fill_tidemill(folder / "postgres", small, catalog=url)
                server = stack.enter_context(servers.tidemill(folder / "postgres", catalog=url))
                over_http(report, told, server, experiment, f"tidemill on PostgreSQL, {small:,} runs")
    clients.close()
    return report


if __name__ == "__main__":
    given = options(__doc__)
    main(given).show(given)
