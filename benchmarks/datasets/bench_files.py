"""Versions of many small files and of a large one: ours, DVC's, and plain copies; and what the second version of a table costs."""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import Options, Report, options

from tidemill.datasets.versions import add
from tidemill.govern.workspace import init_workspace, open_workspace

FILES, FILE_BYTES, LARGE_BYTES, ROWS = 20_000, 10_240, 2 << 30, 8_000_000
OURS, DVC, COPY = "tidemill", "dvc", "cp -r"
ROUNDS = 2


def main() -> None:
    """Measure and print."""
    told = options(__doc__)
    files, large, rows = told.size(FILES, 200), told.size(LARGE_BYTES, 4 << 20), told.size(ROWS, 20_000)
    report = Report(
        "versions of files",
        f"{files:,} files of {FILE_BYTES:,} bytes; one file of {large >> 20:,} MB; a table of {rows:,} rows of which 1 % change; whole "
        "commands of both, files in the page cache; what ours puts into a store is flushed to the disk, what DVC and cp write is not",
        ("pyarrow", "blake3", "pyfastcdc"),
    )
    dvc = _dvc_command(told)
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-", dir=os.environ.get("TIDEMILL_BENCH_DISK")) as place:
        folder = Path(place)
        _small_files(report, told, folder, files, dvc)
        _large_file(report, told, folder, large, dvc)
        _table(report, folder, rows)
    report.show(told)


def _dvc_command(told: Options) -> Path | None:
    """Return DVC's command, in an environment of its own that is made once; None in a quick run, which only sees that ours runs."""
    if told.quick:
        return None
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidemill-peers" / "dvc_peer"
    if not (folder / "bin" / "dvc").exists():
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", "dvc"], check=True)
    return folder / "bin" / "dvc"


def _small_files(report: Report, told: Options, folder: Path, count: int, dvc: Path | None) -> None:
    source = folder / "small"
    noise = np.random.default_rng(1).bytes(count * FILE_BYTES)
    for number in range(count):
        path = source / f"{number % 100:02d}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise[number * FILE_BYTES : (number + 1) * FILE_BYTES])
    _measure(report, told, folder, source, "small", dvc, status=True)


def _large_file(report: Report, told: Options, folder: Path, size: int, dvc: Path | None) -> None:
    source = folder / "large"
    source.mkdir()
    draw = np.random.default_rng(2)
    with (source / "large.bin").open("wb") as file:
        for _ in range(size >> 20):
            file.write(draw.bytes(1 << 20))
    _measure(report, told, folder, source, "large", dvc, status=False)
    shutil.rmtree(source)


def _measure(report: Report, told: Options, folder: Path, source: Path, what: str, dvc: Path | None, *, status: bool) -> None:
    """Take turns: a fresh workspace of ours, a fresh repository of DVC's, and a copy."""
    times: dict[str, list[float]] = {}

    def timed(name: str, command: list[str], where: Path) -> None:
        os.sync()
        begin = perf_counter()
        subprocess.run(command, cwd=where, check=True, capture_output=True)
        times.setdefault(f"{what}, {name}", []).append(perf_counter() - begin)

    for number in range(told.rounds(ROUNDS)):
        _ours(timed, folder / f"ours{number}", source, status=status)
        if dvc is not None:
            _dvc(timed, dvc, folder / f"dvc{number}", source, status=status)
        timed(COPY, ["cp", "-r", str(source), str(folder / "copy")], folder)
        for each in (f"ours{number}", f"dvc{number}", "copy"):
            shutil.rmtree(folder / each, ignore_errors=True)
    for name, values in times.items():
        step = name.rpartition(": ")[2]
        against = f"{what}, {DVC}: {step}" if OURS in name else f"{what}, {COPY}" if DVC in name else None
        report.add(name, "s", values, against=against if against in times else None)


def _ours(timed: Callable[[str, list[str], Path], None], home: Path, source: Path, *, status: bool) -> None:
    home.mkdir()
    init_workspace(home).close()
    tidemill = [sys.executable, "-m", "tidemill.cli.main", "data"]
    timed(f"{OURS}: add", [*tidemill, "add", "files", str(source)], home)
    timed(f"{OURS}: add again", [*tidemill, "add", "files", str(source)], home)
    if status:
        timed(f"{OURS}: status", [*tidemill, "status"], home)
    timed(f"{OURS}: checkout", [*tidemill, "get", "files", "out"], home)
    timed(f"{OURS}: push", [*tidemill, "push", "files", "--to", "remote"], home)
    other = home / "other"
    other.mkdir()
    init_workspace(other).close()
    timed(f"{OURS}: pull", [*tidemill, "pull", "files", "--from", str(home / "remote")], other)


def _dvc(timed: Callable[[str, list[str], Path], None], dvc: Path, home: Path, source: Path, *, status: bool) -> None:
    home.mkdir()

    def quiet(*words: str) -> None:
        subprocess.run([str(dvc), *words], cwd=home, check=True, capture_output=True)

    quiet("init", "--no-scm", "-q")
    quiet("config", "core.analytics", "false")
    quiet("remote", "add", "-d", "away", str(home / "remote"))
    shutil.copytree(source, home / "files")
    timed(f"{DVC}: add", [str(dvc), "add", "-q", "files"], home)
    timed(f"{DVC}: add again", [str(dvc), "add", "-q", "files"], home)
    if status:
        timed(f"{DVC}: status", [str(dvc), "status", "-q"], home)
    shutil.rmtree(home / "files")
    timed(f"{DVC}: checkout", [str(dvc), "checkout", "-q"], home)
    timed(f"{DVC}: push", [str(dvc), "push", "-q"], home)
    shutil.rmtree(home / ".dvc" / "cache", ignore_errors=True)
    timed(f"{DVC}: pull", [str(dvc), "fetch", "-q"], home)


def _table(report: Report, folder: Path, rows: int) -> None:
    """Add a table and then one that differs, in six ways, and tell by how much the store grew."""
    before, more = _rows(rows, seed=3), _rows(rows // 100, seed=4)
    after = {
        "appended": pa.concat_tables([before, more]),
        "inserted in the middle": pa.concat_tables([before.slice(0, rows // 2), more, before.slice(rows // 2)]),
        "one column edited": _edited(before),
    }
    for form, write in (("CSV", csv.write_csv), ("Parquet", pq.write_table)):
        for how, table in after.items():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                home, path = Path(scratch) / "home", Path(scratch) / f"table.{form.lower()}"
                home.mkdir()
                init_workspace(home).close()
                ws = open_workspace(home)
                write(before, path)
                add(ws, "table", path)
                write(table, path)
                begin = perf_counter()
                second = add(ws, "table", path)
                took = perf_counter() - begin
                ws.close()
            name = f"{form}, 1 % of rows {how}"
            report.add(f"{name}: growth", "%", [100 * second.new_bytes / second.size_bytes])
            report.add(f"{name}: add", "MB/s", [second.size_bytes / took / 1e6])


def _rows(count: int, *, seed: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "id": np.arange(count),
            "at": np.cumsum(draw.integers(0, 5, count)),
            "a": draw.normal(size=count),
            "b": draw.normal(size=count),
            "c": draw.integers(0, 1000, count),
            "d": np.round(draw.gamma(2, 3, count), 2),
            "carrier": pa.array(np.array(["AA", "UA", "DL", "WN", "B6"])[draw.integers(0, 5, count)]),
            "tail": pa.array([f"N{number:05d}" for number in draw.integers(0, 4000, count).tolist()]),
        }
    )


def _edited(table: pa.Table) -> pa.Table:
    draw = np.random.default_rng(5)
    values = table["a"].to_numpy().copy()
    values[draw.choice(len(values), len(values) // 100, replace=False)] = draw.normal(size=len(values) // 100)
    return table.set_column(table.schema.get_field_index("a"), "a", pa.array(values))


if __name__ == "__main__":
    main()
