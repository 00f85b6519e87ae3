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


class Contest:
    """Servers that all run at once, and take turns in each task: a busy moment of the machine meets all of them."""

    def __init__(self, report: Report, told: Options, running: dict[str, servers.Server]) -> None:
        self.report, self.told, self.running, self.clients = report, told, running, Clients()
        made = {name: self.clients.run(server.url, "new_experiment", 1, f"bench {perf_counter()}") for name, server in running.items()}
        self.experiments = {name: place for name, (_, place) in made.items()}

    def rates(
        self,
        what: str,
        unit: str,
        task: str,
        counts: tuple[int, int],
        *,
        of: float = 1.0,
        processes: int = 1,
        at: dict[str, str] | None = None,
    ) -> dict[str, str]:
        """Add what each server reached; return where it was done. counts: how often, for MLflow's server and for the others.

        at: do it there instead of in the experiment, to those servers only.
        """
        found: dict[str, list[float]] = {name: [] for name in at or self.running}
        places: dict[str, str] = {}
        for turn in range(self.told.rounds(3)):
            for name in found if turn % 2 else reversed(found):
                count = counts[0] if name == THEIRS else counts[1]
                place = (at or self.experiments)[name]
                taken, places[name] = self.clients.run(self.running[name].url, task, count, place, processes=processes)
                found[name].append(count * processes * of / taken)
        for name in self.running:
            if name in found:
                self.report.add(f"{what}: {name}", unit, found[name], against=f"{what}: {THEIRS}" if name != THEIRS else None)
        return places

    def hold(self) -> None:
        """Do every task."""
        told = self.told
        calls = (told.size(100, 5), told.size(1000, 5))
        self.rates("log_metric, 1 client", "calls/s", "single_calls", calls)
        many = told.size(4, 2)  # each imports MLflow, which takes seconds
        self.rates(f"log_metric, {many} clients", "calls/s", "single_calls", calls, processes=many)
        logged = (told.size(20, 2), told.size(100, 2))
        run_ids = self.rates("log_batch of 1,000 points", "points/s", "batches", logged, of=1000)
        self.rates("runs with one batch each", "runs/s", "whole_runs", (told.size(20, 2), told.size(200, 2)))
        run_ids.pop(NOTHING)
        points = (logged[0] * 1000, logged[1] * 1000)
        self.rates("metric history", "points/s", "history", points, at=run_ids)
        self.rates("one large file up", "MB/s", "upload_large", (told.size(100, 2),) * 2, of=1.048576)
        small = (told.size(200, 10), told.size(500, 10))
        run_ids = self.rates("small files up", "files/s", "upload_small", small)
        run_ids.pop(NOTHING)
        self.rates("small files down", "files/s", "download_small", small, at=run_ids)
        self.clients.close()


def main(told: Options) -> Report:
    workload = (
        "mlflow's client in processes of its own: single points; batches of 1,000 points; runs of 50 metrics, 10 params and a tag in one "
        f"batch; histories; one file of 100 MB; 500 files of {SMALL_BYTES} bytes (200 for mlflow's server); the servers take turns"
    )
    report = Report("tracking over MLflow's wire", workload, ("mlflow", "tidemill", "uvicorn"))
    with ExitStack() as stack:
        theirs = stack.enter_context(servers.mlflow(lean=told.quick))
        report.add(f"ready: {THEIRS}", "s", [theirs.ready_s])
        report.add(f"memory, all {theirs.processes()} processes: {THEIRS}", "MB", [theirs.memory_mb()])
        ours = stack.enter_context(servers.tidemill())
        report.add(f"ready: {OURS}", "s", [ours.ready_s], against=f"ready: {THEIRS}")
        report.add(f"memory, control plane: {OURS}", "MB", [ours.memory_mb(control_only=True)])
        running = {NOTHING: stack.enter_context(servers.empty()), OURS: ours}
        url = stack.enter_context(report.needed(postgres_server, "PostgreSQL"))
        if url is not None:
            running[ON_POSTGRES] = stack.enter_context(servers.tidemill(catalog=url))
        Contest(report, told, running | {THEIRS: theirs}).hold()
        report.add(f"memory, all {ours.processes()} processes, afterwards: {OURS}", "MB", [ours.memory_mb()])
        report.add(f"memory, control plane, afterwards: {OURS}", "MB", [ours.memory_mb(control_only=True)])
    return report


if __name__ == "__main__":
    given = options(__doc__)
    main(given).show(given)
