"""The SDK into a server on SQLite: points a second, alone and in a crowd; how much disk they take; how fast a chart reads them."""

import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, options, seconds
from benchmarks.tracking import servers

import tidemill as tm
from tidemill.client.client import connect
from tidemill.govern.workspace import init_workspace

CROWD = Path(__file__).with_name("crowd.py")


def logging_rate(url: str, keys: int, steps: int) -> float:
    """Return points a second from the first call until the server has acknowledged the last."""
    metrics = {f"metric_{key}": key / 7 for key in range(keys)}
    with tm.run("bench", url=url, capture=False) as run:
        begin = perf_counter()
        for step in range(steps):
            run.log(metrics, step=step)
        run.flush()
        return keys * steps / (perf_counter() - begin)


def long_history(url: str, points: int) -> str:
    """Log that many points of one metric; return the run."""
    with tm.run("bench", url=url, capture=False) as run:
        for step in range(points):
            run.log({"loss": 1 / (step + 1)}, step=step)
        run.flush()
        return str(run.id)


def crowd(url: str, run_id: str, span_s: float, size: int) -> tuple[int, float]:
    """Let that many processes log to one run at once; return their points, all of which must be there, and the seconds."""
    kinds = ["native" if member % 2 else "mlflow" for member in range(size)]
    begin = perf_counter()
    members = [
        subprocess.Popen(
            [sys.executable, str(CROWD), kind, url, run_id, str(span_s), f"of_{number}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, kind in enumerate(kinds)
    ]
    told = [member.communicate() for member in members]
    taken = perf_counter() - begin
    assert all(member.returncode == 0 for member in members), [error[-500:] for _, error in told if error]
    counts = [int(out.split()[-1]) for out, _ in told]
    with connect(url) as client:
        for number, count in enumerate(counts):
            steps = sorted(client.runs.history(run_id, f"of_{number}").steps)
            assert list(steps) == list(range(count)), f"member {number} logged {count} points, {len(steps)} are there"
        assert len(client.runs.history(run_id, "shared").steps) == sum(counts)
    return 2 * sum(counts), taken


def main(told: Options) -> Report:
    steps, points, span_s = told.size(200_000, 200), told.size(1_000_000, 2000), told.size(60, 2)
    members = told.size(16, 4)  # half of them import MLflow, which takes seconds each
    workload = (
        f"one process: {steps:,} points at 1, 5 and 50 a step; one history of {points:,} points; "
        f"{members} processes for {span_s} s on one run, half of them MLflow's client"
    )
    report = Report("tracking by the SDK, SQLite", workload, ("tidemill", "mlflow"))
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        home = Path(name) / "home"
        init_workspace(home).close()
        with servers.tidemill(home) as server:
            for keys in (1, 5, 50):
                rates = [logging_rate(server.url, keys, max(1, steps // keys)) for _ in range(told.rounds(3))]
                report.add(f"points logged, {keys} a step", "points/s", rates)
            run_id = long_history(server.url, points)
            with connect(server.url) as client:
                assert len(client.runs.history(run_id, "loss").steps) == points
                report.add(
                    "a history in full", "ms", [seconds(lambda: client.runs.history(run_id, "loss")) * 1000 for _ in range(told.rounds(5))]
                )
                report.add(
                    "a history for a chart",
                    "ms",
                    [seconds(lambda: client.runs.charts([run_id], "loss")) * 1000 for _ in range(told.rounds(9))],
                )
            logged, taken = crowd(server.url, crowd_run(server.url), span_s, members)
            report.add(f"points of {members} processes on one run, none lost", "points/s", [logged / taken])
        report.add("disk a point", "bytes", [disk_a_point(Path(name) / "fresh", points)])
    return report


def disk_a_point(home: Path, points: int) -> float:
    """Return the bytes by which the catalog grows for each point of one history, once its server has stopped."""
    init_workspace(home).close()
    catalog = home / ".tidemill" / "catalog.db"
    before = catalog.stat().st_size
    with servers.tidemill(home) as server:
        long_history(server.url, points)
    with closing(sqlite3.connect(catalog)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (catalog.stat().st_size - before) / points


def crowd_run(url: str) -> str:
    """Return a run that others are to log to."""
    with tm.run("crowd", url=url, capture=False) as run:
        return str(run.id)


if __name__ == "__main__":
    given = options(__doc__)
    main(given).show(given)
