"""MLflow's own client against Tidemill, against MLflow's server, and against a server that does nothing; SQLite under both."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, options
from benchmarks.tracking import servers
from tests.services import postgres_server

CLIENT = Path(__file__).with_name("client.py")
OURS, ON_POSTGRES, THEIRS, NOTHING = "tidemill, SQLite", "tidemill, PostgreSQL", "mlflow server, SQLite", "a server that does nothing"
SMALL_BYTES = 1024


class Clients:
    """Processes of MLflow's client, started when first needed and used again: each takes seconds to import what it needs."""

    def __init__(self) -> None:
        self._members: list[subprocess.Popen[str]] = []

    def run(self, uri: str, task: str, count: int, place: str, *, processes: int = 1) -> tuple[float, str]:
        """Return the seconds that all of them took, and where the first worked: one process tells its own time, several are timed here."""
        while len(self._members) < processes:
            command = [sys.executable, "-W", "ignore", str(CLIENT)]
            self._members.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1))
        members = self._members[:processes]
        for member in members:
            _say(member, json.dumps([uri, task, count, place]))
        places = [_hear(member) for member in members]
        begin = perf_counter()
        for member in members:
            _say(member, "go")
        own = [float(_hear(member)) for member in members]
        return (own[0] if processes == 1 else perf_counter() - begin), places[0]

    def close(self) -> None:
        """End them."""
        for member in self._members:
            member.communicate()


def _say(member: "subprocess.Popen[str]", line: str) -> None:
    assert member.stdin is not None
    member.stdin.write(f"{line}\n")
    member.stdin.flush()


def _hear(member: "subprocess.Popen[str]") -> str:
    assert member.stdout is not None
    line = member.stdout.readline().strip()
    if not line:
        raise SystemExit(f"a client failed (exit code {member.wait()})")
    return line


def measure(report: Report, told: Options, clients: Clients, name: str, server: servers.Server) -> None:
    """Do everything to one server."""
    against = None if name == THEIRS else THEIRS
    slow = name == THEIRS

    def add(what: str, unit: str, values: list[float]) -> None:
        report.add(f"{what}: {name}", unit, values, against=f"{what}: {THEIRS}" if against else None)

    def rates(what: str, unit: str, task: str, count: int, *, of: float = 1.0, processes: int = 1) -> str:
        place, found = "1", []
        for _ in range(told.rounds(3)):
            taken, place = clients.run(server.url, task, count, experiment, processes=processes)
            found.append(count * processes * of / taken)
        add(what, unit, found)
        return place

    _, experiment = clients.run(server.url, "new_experiment", 1, f"bench {perf_counter()}")
    calls = told.size(100 if slow else 2000, 5)
    rates("log_metric, 1 client", "calls/s", "single_calls", calls)
    rates("log_metric, 4 clients", "calls/s", "single_calls", calls, processes=4)
    logged = told.size(20 if slow else 100, 2)
    run_id = rates("log_batch of 1,000 points", "points/s", "batches", logged, of=1000)
    rates("runs with one batch each", "runs/s", "whole_runs", told.size(20 if slow else 300, 2))
    if name != NOTHING:
        found = [logged * 1000 / clients.run(server.url, "history", logged * 1000, run_id)[0] for _ in range(told.rounds(3))]
        add("metric history", "points/s", found)
    rates("one large file up", "MB/s", "upload_large", told.size(100, 2), of=1.048576)
    small = told.size(200 if slow else 1000, 10)
    run_id = rates("small files up", "files/s", "upload_small", small)
    if name != NOTHING:
        found = [small / clients.run(server.url, "download_small", small, run_id)[0] for _ in range(told.rounds(3))]
        add("small files down", "files/s", found)


def main(told: Options) -> Report:
    workload = (
        "mlflow's client in processes of its own: single points; batches of 1,000 points; runs of 50 metrics, 10 params and a tag in one "
        f"batch; histories; one file of 100 MB; 1,000 files of {SMALL_BYTES} bytes; each server alone on the machine"
    )
    report = Report("tracking over MLflow's wire", workload, ("mlflow", "tidemill", "uvicorn"))
    clients = Clients()
    with servers.empty() as server:
        measure(report, told, clients, NOTHING, server)
    with servers.tidemill() as server:
        report.add(f"ready: {OURS}", "s", [server.ready_s], against=f"ready: {THEIRS}")
        report.add(f"memory, control plane: {OURS}", "MB", [server.memory_mb(control_only=True)])
        report.add(f"memory, all {server.processes()} processes: {OURS}", "MB", [server.memory_mb()])
        measure(report, told, clients, OURS, server)
        report.add(f"memory of the control plane afterwards: {OURS}", "MB", [server.memory_mb(control_only=True)])
    with ExitStack() as stack, report.needed(postgres_server, "PostgreSQL") as url:
        if url is not None:
            measure(report, told, clients, ON_POSTGRES, stack.enter_context(servers.tidemill(catalog=url)))
    with servers.mlflow() as server:
        report.add(f"ready: {THEIRS}", "s", [server.ready_s])
        report.add(f"memory, all {server.processes()} processes: {THEIRS}", "MB", [server.memory_mb()])
        measure(report, told, clients, THEIRS, server)
    clients.close()
    report.lines.sort(key=lambda line: line.what.partition(": ")[0])
    return report


if __name__ == "__main__":
    given = options(__doc__)
    main(given).show(given)
