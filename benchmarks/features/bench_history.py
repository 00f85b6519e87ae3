"""The point-in-time join beside DuckDB and pandas: the same answers first, then time and memory."""

import json
import math
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Report, in_turns, options, seconds

from tidemill.features.timeline import join
from tidemill.features.views import Aggregation, Feature, FeatureView

ENTITIES, DAYS, WINDOW_DAYS = 5000, 90, 7
MOMENT = pa.timestamp("us", tz="UTC")
START = 1_370_044_800_000_000
DAY = 24 * 3600 * 1_000_000
LATEST = FeatureView(
    name="latest", entity=("plane",), source="flights", event_timestamp="at", features=(Feature(name="last", column="delay"),)
)
WINDOWED = FeatureView(
    name="windowed", entity=("plane",), source="flights", event_timestamp="at",
    features=tuple(
        Feature(name=f"{function}_7d", aggregation=Aggregation(function=function, column=column, window=timedelta(days=WINDOW_DAYS)))
        for function, column in (("count", None), ("mean", "delay"), ("max", "delay"))
    ),
)  # fmt: skip
ASOF = "SELECT r.row, e.delay AS last FROM rows r ASOF LEFT JOIN events e ON r.plane = e.plane AND r.asked >= e.at"
WINDOW = f"""
    SELECT r.row, count(e.at)::DOUBLE AS count_7d, avg(e.delay) AS mean_7d, max(e.delay) AS max_7d
    FROM rows r LEFT JOIN events e ON r.plane = e.plane AND e.at <= r.asked AND e.at > r.asked - INTERVAL {WINDOW_DAYS} DAY GROUP BY r.row
"""


def world(rows: int, events: int) -> tuple[pa.Table, pa.Table]:
    """Return entity rows in no order, and events in order of time; no entity has two events at once."""
    random = np.random.default_rng(1)
    at = np.sort(random.choice(DAYS * DAY // 1000, events, replace=False)) * 1000
    asked = random.integers(0, DAYS * DAY, rows)
    planes = np.array([f"N{number:05}" for number in range(ENTITIES)])
    happened = pa.table({
        "plane": planes[random.integers(0, ENTITIES, events)],
        "at": pa.array(START + at).cast(MOMENT),
        "delay": random.normal(5, 30, events),
    })  # fmt: skip
    wanted = pa.table({
        "row": np.arange(rows),
        "plane": planes[random.integers(0, ENTITIES, rows)],
        "asked": pa.array(START + asked).cast(MOMENT),
    })  # fmt: skip
    return wanted, happened


def ours(views: list[FeatureView], rows: pa.Table, events: pa.Table) -> pa.Table:
    """Join as `history` does."""
    return join(rows, views, {"flights": events}, timestamp="asked")


def by_duckdb(query: str, rows: pa.Table, events: pa.Table) -> pa.Table:
    """Join by a query written by hand; the rows come back in their order, as ours do."""
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        connection.register("events", events)
        return connection.sql(f"{query} ORDER BY row").to_arrow_table()


def by_pandas(rows: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """Join by merge_asof, which wants both sides in order of time."""
    found = pd.merge_asof(rows.sort_values("asked"), events, left_on="asked", right_on="at", by="plane")
    return found.sort_values("row")


def both(rows: pa.Table, events: pa.Table) -> pa.Table:
    """Return latest value and window by DuckDB."""
    return by_duckdb(f"SELECT * FROM ({ASOF}) JOIN ({WINDOW}) USING (row)", rows, events)


JOINS: dict[str, Callable[[pa.Table, pa.Table], pa.Table]] = {
    "latest + window, DuckDB": both,
    "latest + window, ours": lambda rows, events: ours([LATEST, WINDOWED], rows, events),
    "latest value, DuckDB ASOF": lambda rows, events: by_duckdb(ASOF, rows, events),
    "latest value, ours": lambda rows, events: ours([LATEST], rows, events),
    "window, DuckDB range join": lambda rows, events: by_duckdb(WINDOW, rows, events),
    "window, ours": lambda rows, events: ours([WINDOWED], rows, events),
}
PANDAS = "latest value, pandas merge_asof"
AGAINST = {
    "latest + window, ours": "latest + window, DuckDB",
    "latest value, ours": "latest value, DuckDB ASOF",
    PANDAS: "latest value, DuckDB ASOF",
    "window, ours": "window, DuckDB range join",
}


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether columns are equal, but for the order in which a sum is added."""
    return bool(np.allclose(one, other, rtol=1e-9, atol=1e-9, equal_nan=True))


def check(rows: pa.Table, events: pa.Table) -> None:
    """All must give the same answers before any of them is measured."""
    mine, theirs = JOINS["latest + window, ours"](rows, events), both(rows, events)
    for name in ("last", "count_7d", "mean_7d", "max_7d"):
        found, expected = (np.array([math.nan if value is None else value for value in each[name].to_pylist()]) for each in (mine, theirs))
        assert same(found, expected), f"{name} differs from DuckDB's"
    assert same(mine["last"].to_numpy(), by_pandas(rows.to_pandas(), events.to_pandas())["delay"].to_numpy()), "last differs from pandas'"


def peak_mb(name: str, folder: Path) -> float:
    """Return by how many MB one join raised the peak memory of a process that held both tables already."""
    done = subprocess.run([sys.executable, __file__, "--alone", name, str(folder)], check=True, capture_output=True)
    return float(json.loads(done.stdout))


def alone(name: str, folder: Path) -> None:
    """Join once, in a process of its own, and print what memory that took."""
    rows, events = (pyarrow.feather.read_table(folder / f"{table}.arrow", memory_map=False) for table in ("rows", "events"))
    JOINS[name](rows.slice(0, 10), events.slice(0, 10))  # libraries are loaded before the count begins
    before = memory_kb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    JOINS[name](rows, events)
    sys.stdout.write(json.dumps((memory_kb("VmHWM") - before) / 1024))


def memory_kb(name: str) -> int:
    """Return one of Linux' figures of this process. Not getrusage's: there a child starts with the peak of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    size, happened = told.size(200_000, 500), told.size(300_000, 1000)
    report = Report(
        "history",
        f"{size:,} entity rows in no order, {happened:,} events of {ENTITIES:,} entities over {DAYS} days in order of time; "
        f"Arrow to Arrow; a latest value, and count, mean and max over {WINDOW_DAYS} days",
        ("numpy", "pyarrow", "duckdb", "pandas"),
    )
    rows, events = world(size, happened)
    check(rows, events)
    frames = rows.to_pandas(), events.to_pandas()
    tasks = {name: lambda task=task: seconds(lambda: task(rows, events)) * 1e3 for name, task in JOINS.items()}
    tasks[PANDAS] = lambda: seconds(lambda: by_pandas(*frames)) * 1e3
    found = in_turns(told.rounds(5), tasks)
    for name, values in sorted(found.items(), key=lambda pair: pair[0]):
        report.add(name, "ms", values, against=AGAINST.get(name))
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        for table, place in ((rows, "rows"), (events, "events")):
            pyarrow.feather.write_feather(table, Path(name) / f"{place}.arrow", compression="uncompressed")
        if sys.platform == "linux":
            for task in list(JOINS)[:2]:
                peaks, other = [peak_mb(task, Path(name)) for _ in range(told.rounds(3))], AGAINST.get(task)
                report.add(f"memory, {task}", "MB", peaks, against=other and f"memory, {other}")
    report.note(f"the answers were compared first and are equal; DuckDB takes all {multiprocessing.cpu_count()} cores, ours and pandas one")
    report.note(
        "pandas starts from data frames that are there already; memory is the peak that a join adds to a process that holds both tables"
    )
    report.show(told)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
