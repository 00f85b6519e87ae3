"""Features of a million rows from three views of a million events each, out of Parquet files: beside Feast and joins by hand."""

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset  # (reading Parquet would load it within the time that is measured)
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Report, in_turns, options
from tests import world

from tidemill.datasets.versions import add
from tidemill.features.applied import apply
from tidemill.features.history import history, history_to
from tidemill.features.views import Feature, FeatureService, FeatureView
from tidemill.govern.workspace import open_workspace

VIEWS, COLUMNS, DAYS = 3, 3, 30
START = 1_700_000_000_000_000
MOMENT = pa.timestamp("us", tz="UTC")
NAMES = [f"v{view}_{column}" for view in range(VIEWS) for column in range(COLUMNS)]
LIMIT_MB = 2048
HERE = Path(__file__).parent


def write(folder: Path, rows: int) -> None:
    """Write the rows that ask and the events of each view, in no order; one entity in ten rows."""
    random = np.random.default_rng(1)
    entities = max(1, rows // 10)

    def of(name: str) -> dict[str, Any]:
        moments = START + random.integers(0, DAYS * 86_400_000_000, rows)
        return {"entity": random.integers(0, entities, rows), name: pa.array(moments).cast(MOMENT)}

    folder.mkdir()
    pq.write_table(pa.table({**of("event_timestamp"), "row": np.arange(rows)}), folder / "rows.parquet")
    for view in range(VIEWS):
        values = {f"v{view}_{column}": random.normal(size=rows) for column in range(COLUMNS)}
        pq.write_table(pa.table({**of("at"), **values}), folder / f"view{view}.parquet")


def prepare(folder: Path) -> None:
    """Have the files as datasets of a workspace, with a view of each and a service of all."""
    ws = world.init(folder / "home")
    for view in range(VIEWS):
        add(ws, f"view{view}", [folder / f"view{view}.parquet"])
    views = [
        FeatureView(
            name=f"view{view}", entity=("entity",), source=f"view{view}", event_timestamp="at",
            features=tuple(Feature(name=f"v{view}_{column}") for column in range(COLUMNS)),
        )
        for view in range(VIEWS)
    ]  # fmt: skip
    apply(ws, views, [FeatureService(name="all", features=tuple(f"view{view}:*" for view in range(VIEWS)))])
    ws.close()


def ours(folder: Path) -> pa.Table:
    """Ask a workspace for the features."""
    with open_workspace(folder / "home") as ws:
        return history(ws, pq.read_table(folder / "rows.parquet"), "all")


def ours_within(folder: Path) -> pa.Table:
    """Ask a workspace for the features, into a file, within a limit of memory; of the answer only a column is read."""
    with open_workspace(folder / "home") as ws:
        history_to(ws, [folder / "rows.parquet"], "all", folder / "ours.parquet", memory_mb=LIMIT_MB)
    return pq.read_table(folder / "ours.parquet", columns=NAMES[:1])


def by_numpy(folder: Path) -> pa.Table:
    """Sort both sides and search, as one would by hand."""
    rows = found = pq.read_table(folder / "rows.parquet")
    asked, moments = rows["entity"].to_numpy(), rows["event_timestamp"].cast(pa.int64()).to_numpy()
    for view in range(VIEWS):
        events = pq.read_table(folder / f"view{view}.parquet")
        entities, times = events["entity"].to_numpy(), events["at"].cast(pa.int64()).to_numpy()
        first = times.min()
        span = times.max() - first + 2
        keys = entities * span + (times - first + 1)
        order = np.argsort(keys)
        wanted = asked * span + np.clip(moments - first + 1, 0, span - 1)
        sorted_rows = np.argsort(wanted)
        places = np.empty_like(sorted_rows)
        places[sorted_rows] = np.searchsorted(keys[order], wanted[sorted_rows], side="right") - 1
        taken = order[np.maximum(places, 0)]
        there = (places >= 0) & (entities[taken] == asked)
        for column in range(COLUMNS):
            name = f"v{view}_{column}"
            found = found.append_column(name, pa.array(np.where(there, events[name].to_numpy()[taken], np.nan)))
    return found


def _asof(folder: Path) -> str:
    columns = ", ".join(f"e{name[1]}.{name}" for name in NAMES)
    joins = " ".join(
        f"ASOF LEFT JOIN '{folder}/view{view}.parquet' e{view} ON r.entity = e{view}.entity AND r.event_timestamp >= e{view}.at"
        for view in range(VIEWS)
    )
    return f"SELECT r.*, {columns} FROM '{folder}/rows.parquet' r {joins}"


def by_duckdb(folder: Path) -> pa.Table:
    """Join by DuckDB; the rows come in any order."""
    with duckdb.connect() as connection:
        return connection.sql(_asof(folder)).to_arrow_table()


def duckdb_within(folder: Path) -> pa.Table:
    """Join by DuckDB into a file, within a limit of memory."""
    with duckdb.connect(config={"memory_limit": f"{LIMIT_MB}MB", "temp_directory": str(folder / "spill")}) as connection:
        connection.sql(f"COPY ({_asof(folder)}) TO '{folder}/duckdb.parquet' (FORMAT parquet)")
    return pq.read_table(folder / "duckdb.parquet", columns=NAMES[:1])


TASKS: dict[str, Callable[[Path], pa.Table]] = {
    "tidemill": ours, "NumPy by hand": by_numpy, "DuckDB ASOF by hand": by_duckdb,
    f"tidemill to a file, {LIMIT_MB} MB": ours_within, f"DuckDB ASOF to a file, {LIMIT_MB} MB": duckdb_within,
}  # fmt: skip


def alone(task: Callable[[Path], pa.Table], folder: Path, names: Sequence[str]) -> None:
    """Do one task in this process; print the seconds, the peak of its memory, and sums of what was found by these names."""
    begin = perf_counter()
    found = task(folder)
    took = perf_counter() - begin
    peak_kb = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    sums = {each: float(np.nansum(found[each].to_numpy())) for each in names if each in found.column_names}
    sys.stdout.write(json.dumps({"seconds": took, "rows": found.num_rows, "sums": sums, "memory_mb": peak_kb / 1e3}))


def told_by(command: list[str]) -> dict[str, Any]:
    """Run a task in a process of its own and return what it says."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def feast() -> Path:
    """Return the Python of an environment with Feast, made once under the user's cache folder. Raises CalledProcessError."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidemill-peers" / "feast_peer"
    if not (folder / "whole").exists():
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", "feast[duckdb,redis]"], check=True, capture_output=True)
        (folder / "whole").touch()
    return folder / "bin" / "python"


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    size = told.size(1_000_000, 2000)
    large = told.size(10_000_000, 4000)
    report = Report(
        "retrieval",
        f"{size:,} rows in no order ask for {len(NAMES)} features of {VIEWS} views of {size:,} events each, Parquet to Arrow, a process "
        f"each; then {large:,} rows and {VIEWS} × {large:,} events to a Parquet file within {LIMIT_MB:,} MB",
        ("numpy", "pyarrow", "duckdb"),
    )
    commands: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        folder = Path(name) / "some"
        write(folder, size)
        prepare(folder)
        for task in list(TASKS)[:3]:
            commands[task] = [sys.executable, __file__, "--alone", task, str(folder)]
        if told.quick:
            report.note("Feast: not in quick runs")
        else:
            try:
                python = str(feast())
                for store in ("file", "duckdb"):
                    commands[f"Feast, {store} store"] = [python, str(HERE / "peers" / "feast_peer.py"), str(folder), store]
            except (subprocess.CalledProcessError, OSError) as error:
                report.note(f"Feast: skipped, it could not be installed here ({str(getattr(error, 'stderr', '') or error)[-150:]})")
        compare(report, commands, told.rounds(3))
        if not told.quick:
            folder = Path(name) / "many"
            write(folder, large)
            prepare(folder)
            compare(report, {task: [sys.executable, __file__, "--alone", task, str(folder)] for task in list(TASKS)[3:]}, told.rounds(1))
    report.note("answers are compared by the sum of each feature over all rows; of Feast's file store they differ: it leaves rows out")
    report.show(told)


def compare(report: Report, commands: dict[str, list[str]], rounds: int) -> None:
    """Let tasks take turns; report time and memory, and whose answers are others than ours."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}

    def run(name: str) -> float:
        answers[name].append(told_by(commands[name]))
        return float(answers[name][-1]["seconds"])

    found = in_turns(rounds, {name: partial(run, name) for name in commands})
    first, *_ = commands
    expected = answers[first][0]
    for name, values in found.items():
        report.add(name, "s", values, against=first if name != first else None)
        got = answers[name][0]
        if got["rows"] != expected["rows"]:
            report.note(f"{name}: {got['rows']:,} rows came back of {expected['rows']:,}")
        elif any(abs(got["sums"][each] - expected["sums"][each]) > 1e-3 for each in expected["sums"]):
            report.note(f"{name}: other answers")
    for name in commands:
        peaks = [each["memory_mb"] for each in answers[name]]
        report.add(f"memory, {name}", "MB", peaks, against=f"memory, {first}" if name != first else None)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(TASKS[sys.argv[2]], Path(sys.argv[3]), NAMES)
    else:
        main()
