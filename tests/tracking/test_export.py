"""A run as files holds all that the run holds."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyarrow import parquet

from tidemill.core.errors import Conflict
from tidemill.govern.workspace import Workspace
from tidemill.tracking.batches import Metric, log_batch
from tidemill.tracking.export import export_run
from tidemill.tracking.inputs import DatasetInput, InputDataset, log_inputs
from tidemill.tracking.runs import RunNotFound, end_run, log_artifact, start_run


def test_a_run_is_written_with_all_that_it_has(any_ws: Workspace, tmp_path: Path) -> None:
    run = start_run(any_ws, "delay", name="r", params={"depth": 3}, tags={"who": "me"}).id
    at = datetime(2013, 6, 1, 12, tzinfo=UTC)
    values = [0.5, math.nan, math.inf]
    log_batch(any_ws, run, metrics=[Metric(key="loss", value=value, step=step, at=at) for step, value in enumerate(values)])
    log_batch(any_ws, run, metrics=[Metric(key="a/b", value=1.0)])
    log_artifact(any_ws, run, "model/weights.bin", b"weights")
    log_inputs(any_ws, run, [DatasetInput(dataset=InputDataset(name="flights", digest="3", source_type="tidemill", source="x"))])
    end_run(any_ws, run)
    done = export_run(any_ws, run, tmp_path / "out")
    assert (done.files, done.points) == (5, 4)
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (told["id"], told["status"], told["tags"], told["experiment"]) == (run, "finished", {"who": "me"}, "delay")
    assert json.loads((tmp_path / "out" / "params.json").read_text()) == {"depth": "3"}
    assert json.loads((tmp_path / "out" / "data.json").read_text())["datasets"][0]["dataset"]["name"] == "flights"
    assert (tmp_path / "out" / "files" / "model" / "weights.bin").read_bytes() == b"weights"
    rows = parquet.read_table(tmp_path / "out" / "metrics.parquet").to_pylist()
    assert [row["key"] for row in rows] == ["a/b", "loss", "loss", "loss"]
    assert (rows[1]["value"], rows[1]["step"], rows[1]["at"]) == (0.5, 0, at)
    assert math.isnan(rows[2]["value"])
    assert done.size_bytes == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_bare_run_has_empty_files(ws: Workspace, tmp_path: Path) -> None:
    run = start_run(ws, "delay", name="r").id
    assert export_run(ws, run, tmp_path / "out").points == 0
    assert parquet.read_table(tmp_path / "out" / "metrics.parquet").num_rows == 0


def test_nothing_is_written_over(ws: Workspace, tmp_path: Path) -> None:
    run = start_run(ws, "delay", name="r").id
    (tmp_path / "there").mkdir()
    export_run(ws, run, tmp_path / "there")
    with pytest.raises(Conflict, match="is there already and not empty; name a folder that is not"):
        export_run(ws, run, tmp_path / "there")
    with pytest.raises(RunNotFound, match="there is no run 'nope'"):
        export_run(ws, "nope", tmp_path / "new")
    assert not (tmp_path / "new").exists()
