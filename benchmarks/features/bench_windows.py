"""Aggregations of ten million events over five windows, within a limit of memory: beside DuckDB by hand, in two ways."""

import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.features.bench_retrieval import MOMENT, START, alone, compare
from benchmarks.measure import Report, options
from tests import world

from tidemill.datasets.versions import add
from tidemill.features.applied import apply
from tidemill.features.history import history_to
from tidemill.features.views import Aggregation, Feature, FeatureService, FeatureView
from tidemill.govern.workspace import open_workspace

DAYS, LIMIT_MB = 30, 2048
HOURS = (1, 6, 24, 7 * 24, 30 * 24)
FUNCTIONS = ("count", "mean", "max")
NAMES = [f"{function}_{hours}" for hours in HOURS for function in FUNCTIONS]
VIEW = FeatureView(
    name="windows", entity=("entity",), source="events", event_timestamp="at",
    features=tuple(
        Feature(name=f"{function}_{hours}", aggregation=Aggregation(function=function, column="value", window=timedelta(hours=hours)))
        for hours in HOURS for function in FUNCTIONS
    ),
)  # fmt: skip


def write(folder: Path, events: int) -> None:
    """Write events in order of time, a hundred of each entity, and a tenth as many rows that ask, in no order."""
    random = np.random.default_rng(1)
    entities = max(1, events // 100)

    def of(name: str, count: int) -> dict[str, Any]:
        moments = START + random.integers(0, DAYS * 86_400_000_000, count)
        return {"entity": random.integers(0, entities, count), name: np.sort(moments) if name == "at" else moments}

    folder.mkdir()
    rows, happened = of("event_timestamp", max(1, events // 10)), of("at", events)
    rows["event_timestamp"], happened["at"] = (pa.array(each).cast(MOMENT) for each in (rows["event_timestamp"], happened["at"]))
    pq.write_table(pa.table({**rows, "row": np.arange(len(rows["entity"]))}), folder / "rows.parquet")
    pq.write_table(pa.table({**happened, "value": random.normal(5, 30, events)}), folder / "events.parquet")
    ws = world.init(folder / "home")
    add(ws, "events", [folder / "events.parquet"])
    apply(ws, [VIEW], [FeatureService(name="all", features=("windows:*",))])
    ws.close()


def ours(folder: Path) -> pa.Table:
    """Ask a workspace for the features, into a file."""
    with open_workspace(folder / "home") as ws:
        history_to(ws, [folder / "rows.parquet"], "all", folder / "ours.parquet", memory_mb=LIMIT_MB)
    return pq.read_table(folder / "ours.parquet", columns=NAMES)


def by_window_functions(folder: Path) -> pa.Table:
    """Lay rows and events end to end and let window functions look back from each row, into a file."""
    sql = {"count": "count(value)", "mean": "avg(value)", "max": "max(value)"}
    columns = ", ".join(f"{sql[function]} OVER w{hours} AS {function}_{hours}" for hours in HOURS for function in FUNCTIONS)
    windows = ", ".join(
        f"w{hours} AS (PARTITION BY entity ORDER BY moment RANGE BETWEEN INTERVAL {hours * 3_600_000_000 - 1} MICROSECOND PRECEDING "
        "AND CURRENT ROW)"
        for hours in HOURS
    )
    both = (
        f"SELECT entity, event_timestamp AS moment, row, NULL::DOUBLE AS value FROM '{folder}/rows.parquet' "
        f"UNION ALL SELECT entity, e.at, NULL, value FROM '{folder}/events.parquet' e"
    )
    return by_duckdb(folder, f"SELECT row, {columns} FROM ({both}) WINDOW {windows} QUALIFY row IS NOT NULL")


def by_join(folder: Path) -> pa.Table:
    """Join each row with all events of its longest window, and aggregate those of each window, into a file."""
    sql = {"count": "count(e.value)", "mean": "avg(e.value)", "max": "max(e.value)"}
    columns = ", ".join(
        f"{sql[function]} FILTER (e.at > r.event_timestamp - INTERVAL {hours} HOUR) AS {function}_{hours}"
        for hours in HOURS for function in FUNCTIONS
    )  # fmt: skip
    return by_duckdb(
        folder,
        f"SELECT r.row, {columns} FROM '{folder}/rows.parquet' r LEFT JOIN '{folder}/events.parquet' e ON r.entity = e.entity "
        f"AND e.at <= r.event_timestamp AND e.at > r.event_timestamp - INTERVAL {HOURS[-1]} HOUR GROUP BY r.row",
    )


def by_duckdb(folder: Path, query: str) -> pa.Table:
    """Let DuckDB write the answer to a query to a file, within the limit."""
    with duckdb.connect(config={"memory_limit": f"{LIMIT_MB}MB", "temp_directory": str(folder / "spill")}) as connection:
        connection.sql(f"COPY ({query}) TO '{folder}/duckdb.parquet' (FORMAT parquet)")
    return pq.read_table(folder / "duckdb.parquet", columns=NAMES)


TASKS = {"tidemill": ours, "DuckDB's window functions by hand": by_window_functions, "DuckDB's range join by hand": by_join}


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    events = told.size(10_000_000, 4000)
    report = Report(
        "windows",
        f"{events // 10:,} rows in no order ask for {', '.join(FUNCTIONS)} of {events:,} events of {events // 100:,} entities over "
        f"{len(HOURS)} windows of {HOURS[0]} to {HOURS[-1]} hours; Parquet to a Parquet file within {LIMIT_MB:,} MB, a process each",
        ("numpy", "pyarrow", "duckdb"),
    )
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        folder = Path(name) / "all"
        write(folder, events)
        compare(report, {task: [sys.executable, __file__, "--alone", task, str(folder)] for task in TASKS}, told.rounds(3))
    report.note("answers are compared by the sum of each feature over all rows")
    report.show(told)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(TASKS[sys.argv[2]], Path(sys.argv[3]), NAMES)
    else:
        main()
