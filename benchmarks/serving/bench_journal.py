"""The journal for the long run: compaction, finding one prediction by id, reading a day, local and in the object store."""

import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Report, in_turns, options, seconds
from tests.services import s3_server

from tidemill.core.clock import micros
from tidemill.core.window import Window
from tidemill.serving.archive import archived_objects, compact, compacted
from tidemill.serving.history import find_prediction, read_predictions
from tidemill.serving.journal import JournalWriter, PackedBlock, PredictionRecord, predictions_folder, segments
from tidemill.store.objects import ObjectStore
from tidemill.store.table import open_store

COLUMNS = 30
DAYS = 4
ROWS_A_RECORD = 8
START = datetime(2026, 1, 1, tzinfo=UTC)


def write(state: Path, rows: int) -> list[str]:
    """Journal rows over some days, as two workers would; return the ids."""
    rng, names, ids = np.random.default_rng(1), [f"column_{number}" for number in range(COLUMNS)], []
    writers = [JournalWriter(predictions_folder(state, "bench"), str(number)) for number in range(2)]
    for number in range(0, rows, ROWS_A_RECORD):
        at = micros(START + timedelta(days=DAYS) * (number / rows))
        units = [f"{at:016x}-{number + place:08x}" for place in range(ROWS_A_RECORD)]
        matrix = rng.random((ROWS_A_RECORD, COLUMNS), dtype=np.float32)
        record = PredictionRecord(
            at=at, received=at, ids=units, columns={}, block=PackedBlock(names=names, dtype="<f4", data=matrix.tobytes()),
            scores=rng.random(ROWS_A_RECORD).tolist(), variant=[0] * ROWS_A_RECORD, variants=[("v1", "m", 1)], shadow=False,
            latency_ms=0.2, trace_id="",
        )  # fmt: skip
        writers[number // ROWS_A_RECORD % 2].append(record, at=at)
        ids += units
    for writer in writers:
        writer.close()
    return ids


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    rows = told.size(400_000, 2_000) // ROWS_A_RECORD * ROWS_A_RECORD
    report = Report("journal", f"{rows:,} predictions of {COLUMNS} columns over {DAYS} days", ("pyarrow", "duckdb"))
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        home = Path(name)
        ids = write(home, rows)
        folder = predictions_folder(home, "bench")
        size_mb = sum(path.stat().st_size for path in segments(folder)) / 1e6
        took = seconds(lambda: compact(home, "bench", closed_before=date(2027, 1, 1)))
        whole = read_predictions(home, "bench")
        plain = seconds(lambda: pq.write_table(whole, home / "plain.parquet", compression="zstd"))
        report.add("pyarrow writes the table", "rows/s", [rows / plain])
        report.add("segments to one file a day", "rows/s", [rows / took], against="pyarrow writes the table")
        report.note(f"{size_mb:,.0f} MB of segments, {size_mb / took:.1f} MB/s, into {len(compacted(folder))} files")
        window = Window(start=START + timedelta(days=1), end=START + timedelta(days=2))
        measure(report, home, ids, window, told.rounds(5), None, "local")
        bare = sorted((folder / "parquet" / "day=2026-01-02").iterdir())
        report.add("pyarrow reads the day", "ms", [seconds(lambda: pq.read_table(bare[0])) * 1e3 for _ in range(told.rounds(5))])
        with report.needed(s3_server, "an S3 service") as url:
            if url is not None:
                archived(report, home, ids, window, told.rounds(5), url)
    report.show(told)


def archived(report: Report, home: Path, ids: list[str], window: Window, rounds: int, url: str) -> None:
    """Measure the same with all days in a bucket: the first read of a day fetches it."""
    objects = open_store(url, cache=home / "written", base=home)
    took = seconds(lambda: compact(home, "bench", objects=objects, archive_before=date(2027, 1, 1)))
    size_mb = sum(objects.size(digest) for digest in archived_objects(home)) / 1e6
    report.add("into the bucket", "MB/s", [size_mb / took])
    fresh = open_store(url, cache=home / "fetched", base=home)
    cold = seconds(lambda: find_prediction(home, ids[len(ids) // 2], endpoints=["bench"], objects=fresh))
    report.add("find by id, its day not fetched yet", "ms", [cold * 1e3])
    report.note(f"a day in the bucket has {size_mb / DAYS:.1f} MB")
    measure(report, home, ids, window, rounds, fresh, "archived")


def measure(report: Report, home: Path, ids: list[str], window: Window, rounds: int, objects: ObjectStore | None, where: str) -> None:
    """Measure reads of one id and of one day."""
    places = iter(np.random.default_rng(2).integers(0, len(ids), 10_000).tolist())
    tasks: dict[str, Callable[[], float]] = {
        f"find by id, {where}": lambda: seconds(lambda: find_prediction(home, ids[next(places)], endpoints=["bench"], objects=objects)),
        f"read a day, {where}": lambda: seconds(lambda: read_predictions(home, "bench", window, objects=objects)),
    }
    for task in tasks.values():
        task()
    for what, times in in_turns(rounds, tasks).items():
        report.add(what, "ms", [each * 1e3 for each in times])


if __name__ == "__main__":
    main()
