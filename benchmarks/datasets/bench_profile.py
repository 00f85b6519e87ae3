"""The profile of a large table: time and peak memory."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Report, options

ROWS, COLUMNS, CHUNK = 10_000_000, 20, 500_000
# In a process of its own, so that the peak is that of measuring alone.
MEASURE = """
import resource, sys
from pathlib import Path
from time import perf_counter
import pyarrow.parquet as pq
from tidemill.datasets.measures import measure_files
from tidemill.datasets.tables import columns_of
path = Path(sys.argv[1])
start = perf_counter()
found = measure_files([path], columns_of(pq.read_schema(path)), folder=path.parent)
print(perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, found.rows)
"""


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    rows = told.size(ROWS, 20_000)
    report = Report(
        "profile of a table", f"{rows:,} rows of {COLUMNS} columns: 14 numbers, 4 texts, a flag, a moment", ("duckdb", "pyarrow")
    )
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        path = Path(folder) / "table.parquet"
        write(path, rows)
        found = [measured(path) for _ in range(told.rounds(2))]
        report.add("profile", "s", [seconds for seconds, _ in found])
        report.add("peak memory of the process", "MB", [megabytes for _, megabytes in found])
    report.show(told)


def write(path: Path, rows: int) -> None:
    """Write the table, a chunk at a time."""
    rng = np.random.default_rng(1)
    writer = None
    for start in range(0, rows, CHUNK):
        n = min(CHUNK, rows - start)
        columns: dict[str, Any] = {f"n{number}": rng.normal(size=n) for number in range(10)}
        columns |= {f"i{number}": rng.integers(0, 10 ** (2 * number + 1), n) for number in range(4)}
        columns |= {f"t{number}": pa.array(rng.integers(0, 10 ** (number + 2), n)).cast(pa.string()) for number in range(4)}
        table = pa.table({**columns, "flag": rng.random(n) < 0.3, "at": pa.array(np.arange(start, start + n), pa.timestamp("us", "UTC"))})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def measured(path: Path) -> tuple[float, float]:
    """Return seconds and peak megabytes of one profile."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    seconds, megabytes, _ = done.stdout.split()
    return float(seconds), float(megabytes)


if __name__ == "__main__":
    main()
