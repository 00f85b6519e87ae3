"""A table scored in a batch job by two processes, beside the bare runtime over rows in memory, and beside a loop over pandas chunks.

`bench_batch.py --rows 10000000` for more of them.
"""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from time import process_time
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Report, in_turns, options, seconds
from benchmarks.serving.trees import COLUMNS, model, rows, spec

from tidemill.core.codec import canonical
from tidemill.core.signature import SPEC_FILE
from tidemill.datasets.versions import add, open_table
from tidemill.govern.workspace import Workspace, init_workspace
from tidemill.registry.versions import register
from tidemill.serving.batch.job import BATCH_ROWS
from tidemill.store.trees import put_tree

PROCESSES, BLOCK, MANY = 2, 65_536, 2_000_000
BARE, OURS, PANDAS = "bare runtime, in memory", "tidemill predict batch", "pandas chunks by hand"


def session(data: bytes) -> onnxruntime.InferenceSession:
    """Return a session of one thread, as all three have it."""
    told = onnxruntime.SessionOptions()
    told.intra_op_num_threads = told.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(data, told, providers=["CPUExecutionProvider"])


def bare(data: bytes, output: str, count: int) -> tuple[float, float]:
    """Score as many rows as told, out of one block in memory; return seconds and CPU seconds of it, without start and loading."""
    ready, block = session(data), rows(min(BLOCK, count))
    ready.run([output], {"x": block[:10]})

    def run() -> None:
        left = count
        while left > 0:
            for start in range(0, min(len(block), left), BATCH_ROWS):
                ready.run([output], {"x": block[start : start + min(BATCH_ROWS, left - start)]})
            left -= len(block)

    began = process_time()
    spent = seconds(run)
    return spent, process_time() - began


def by_pandas(data: bytes, output: str, source: str, target: str, part: int) -> None:
    """Score every other row group as people write it: to pandas, to NumPy, score, to pandas, to Parquet."""
    import pandas as pd  # (half a second: processes of ours are not to wait for it)

    ready, writer = session(data), None
    with pq.ParquetFile(source) as file:
        for number in range(part, file.metadata.num_row_groups, PROCESSES):
            frame = file.read_row_group(number).to_pandas()
            (scores,) = ready.run([output], {"x": frame[list(COLUMNS)].to_numpy(dtype=np.float32)})
            made = pa.Table.from_pandas(pd.DataFrame({"id": frame["id"], "score": scores[:, 0]}), preserve_index=False)
            writer = writer or pq.ParquetWriter(f"{target}-{part}", made.schema, compression="zstd")
            writer.write_table(made)
    if writer is not None:
        writer.close()


def cpu_s() -> float:
    """Return the CPU seconds of all children that have ended."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Peak:
    """The most memory that this process's children took together while a block ran, in MB of what is theirs alone."""

    def __init__(self) -> None:
        self.mb, self._end = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(1.0):
            used = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    used += child.memory_full_info().uss
                except psutil.Error:
                    continue
            self.mb = max(self.mb, used / 2**20)


def fill(ws: Workspace, count: int) -> Path:
    """Write a table of rows and register the model; return the table's file."""
    data, output = model()
    register(ws, "trees", put_tree(ws.objects, {"model.onnx": data, SPEC_FILE: canonical(spec(output))}))
    path = ws.home / "rows.parquet"
    schema = pa.schema([("id", pa.int64()), *((name, pa.float32()) for name in COLUMNS)])
    block = rows(min(BLOCK, count))
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for start in range(0, count, BLOCK):
            part = block[: min(BLOCK, count - start)]
            columns = [pa.array(range(start, start + len(part)), pa.int64()), *(pa.array(part[:, place]) for place in range(len(COLUMNS)))]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    add(ws, "rows", path)
    return path


def check(ws: Workspace, done: str, data: bytes, output: str, count: int) -> None:
    """What was scored is what the bare runtime says."""
    block = rows(min(BLOCK, count))[:1000]
    (expected,) = session(data).run([output], {"x": block})
    found = open_table(ws, done, columns=["id", "score"])
    assert found.num_rows == count
    np.testing.assert_allclose(found["score"].to_numpy()[:1000], expected[:, 0], rtol=1e-6)
    assert found["id"].to_numpy().tolist() == list(range(count))


def main() -> None:
    """Measure and print."""
    given = sys.argv.index("--rows") if "--rows" in sys.argv else 0
    wanted = int(sys.argv.pop(given + 1)) if given else 1_000_000
    sys.argv = [word for word in sys.argv if word != "--rows"]
    told = options(__doc__)
    count = told.size(wanted, 2000)
    report = Report(
        "serving, batch",
        f"{count:,} rows of {len(COLUMNS)} numbers, 200 trees of LightGBM in ONNX, {PROCESSES} processes with one thread each; "
        "ours and pandas from a Parquet file to Parquet, the bare runtime over NumPy in memory; ours with start and publication",
        ("onnxruntime", "pyarrow", "pandas"),
    )
    peaks: list[float] = []
    cpu: dict[str, list[float]] = {BARE: [], OURS: [], PANDAS: []}
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name, init_workspace(Path(name)) as ws:
        source = fill(ws, count)
        data, output = model()
        number = 0

        def ours() -> float:
            nonlocal number
            number += 1
            command = [
                sys.executable, "-m", "tidemill", "predict", "batch", "trees@1", "--home", str(ws.home), "--data", "rows", "--key", "id",
                "--to", f"scores{number}", "--workers", str(PROCESSES),
            ]  # fmt: skip
            before = cpu_s()
            with Peak() as peak:
                spent = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
            cpu[OURS].append((cpu_s() - before) / count * 1e6)
            peaks.append(peak.mb)
            return count / spent

        def in_processes(work: Callable[..., Any], *arguments: object) -> list[Any]:
            with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
                return [done.result() for done in [pool.submit(work, *arguments, part) for part in range(PROCESSES)]]

        def alone() -> float:
            parts = in_processes(bare_part, data, output, count)
            cpu[BARE].append(sum(used for _, used in parts) / count * 1e6)
            return count / max(spent for spent, _ in parts)

        def pandas() -> float:
            before = cpu_s()
            spent = seconds(lambda: in_processes(by_pandas, data, output, str(source), str(ws.home / "by_hand")))
            cpu[PANDAS].append((cpu_s() - before) / count * 1e6)
            return count / spent

        found = in_turns(told.rounds(3 if count <= MANY else 1), {BARE: alone, OURS: ours, PANDAS: pandas})
        check(ws, "scores1", data, output, count)
    report.add(BARE, "rows/s", found[BARE])
    report.add(OURS, "rows/s", found[OURS], against=BARE)
    report.add(PANDAS, "rows/s", found[PANDAS], against=BARE)
    for name, values in cpu.items():
        report.add(f"{name}, CPU a row", "us", values, against=None if name == BARE else f"{BARE}, CPU a row")
    report.add("peak memory of ours, all processes", "MB", peaks)
    report.show(told)


def bare_part(data: bytes, output: str, count: int, part: int) -> tuple[float, float]:
    """Score this process's share of the rows."""
    return bare(data, output, count // PROCESSES + (count % PROCESSES if part == 0 else 0))


if __name__ == "__main__":
    main()
