"""A run as files: what it was given, what it measured, what it left, so that it can be read without Tidemill."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from tidemill.core.codec import encode_text
from tidemill.core.digest import CHUNK_BYTES
from tidemill.core.errors import Conflict
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.store.objects import refusing
from tidemill.tracking.inputs import read_links
from tidemill.tracking.runs import Run, metric_history, read_run

RUN_FILE, PARAMS_FILE, DATA_FILE, METRICS_FILE, FILES_FOLDER = "run.json", "params.json", "data.json", "metrics.parquet", "files"
_MOMENT = pa.timestamp("us", tz="UTC")
_TYPES: dict[str, pa.DataType] = {"key": pa.string(), "step": pa.int64(), "value": pa.float64(), "at": _MOMENT}
_SCHEMA = pa.schema(_TYPES)


class Exported(Value, frozen=True, kw_only=True):
    """What was written."""

    run: str
    folder: str
    files: int
    size_bytes: int
    points: int


def export_run(ws: Workspace, run: str, folder: Path) -> Exported:
    """Write a run into a folder, which must be new or empty: run.json, params.json, data.json, metrics.parquet, files/.

    metrics.parquet holds every point of every metric: key, step, value, at. Raises RunNotFound, Conflict.
    """
    ws.require("tracking.read", run)
    found = read_run(ws, run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is there already and not empty; name a folder that is not")
    with refusing(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_FILE).write_text(encode_text(found, indent=2), "utf-8")
        (folder / PARAMS_FILE).write_text(encode_text(found.params, indent=2), "utf-8")
        (folder / DATA_FILE).write_text(encode_text(read_links(ws, [run])[run], indent=2), "utf-8")
        points = _write_metrics(ws, found, folder / METRICS_FILE)
        for artifact in found.artifacts:
            target = folder / FILES_FOLDER / artifact.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with ws.objects.open(artifact.digest) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
    sizes = list(_sizes(folder))
    return Exported(run=run, folder=str(folder), files=len(sizes), size_bytes=sum(sizes), points=points)


def _write_metrics(ws: Workspace, run: Run, path: Path) -> int:
    count = 0
    with parquet.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        for key in sorted(run.metrics):
            history = metric_history(ws, run.id, key)
            columns = {
                "key": [key] * len(history),
                "step": history.steps,
                "value": history.values,
                "at": pa.array(history.times).cast(_MOMENT),
            }
            writer.write_table(pa.table(columns, schema=_SCHEMA))
            count += len(history)
    return count


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        yield from ((Path(place) / name).stat().st_size for name in names)
