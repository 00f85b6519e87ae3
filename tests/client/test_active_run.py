"""What a run keeps besides numbers: files, texts, figures, tables, and what it read."""

import json
import os
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
import pytest
from pyarrow import parquet

import tidemill as tm
from tests import world
from tidemill.catalog.lineage import walk
from tidemill.client.client import Client
from tidemill.core.errors import Invalid, NotFound, Unavailable
from tidemill.datasets.versions import add
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import checkout
from tidemill.tracking.inputs import read_links


def test_files_are_kept_as_they_were_when_they_were_logged(client: Client, tmp_path: Path, runs: Path) -> None:
    path = tmp_path / "model.bin"
    with tm.run("delay", client=client, capture=False) as run:
        path.write_bytes(b"first")
        run.file(path)
        path.write_bytes(b"second")
        run.file(path, "checkpoints/2.bin")
        path.unlink()
        run.file(b"bytes", "raw/data")
        run.text("liebe Grüße\n", "note.txt")
        run.json({"a": np.arange(3), "b": float("nan"), "c": {1: np.float32(0.5)}}, "values.json")
    found = {artifact["path"]: client.runs.artifact(run.id, artifact["path"]) for artifact in client.runs.get(run.id)["artifacts"]}
    assert found.pop("values.json") == json.dumps({"a": [0, 1, 2], "b": None, "c": {"1": 0.5}}, indent=2).encode()
    assert found == {"model.bin": b"first", "checkpoints/2.bin": b"second", "raw/data": b"bytes", "note.txt": "liebe Grüße\n".encode()}
    assert list(runs.iterdir()) == []


def test_a_folder_is_kept_with_all_below_it(client: Client, tmp_path: Path) -> None:
    (tmp_path / "out" / "deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.txt"):
        (tmp_path / "out" / name).write_text(name)
    with tm.run("delay", client=client, capture=False) as run:
        assert run.folder(tmp_path / "out", "plots/") == 2
        assert run.folder(tmp_path / "out") == 2
    paths = [artifact["path"] for artifact in client.runs.get(run.id)["artifacts"]]
    assert paths == ["a.txt", "deep/b.txt", "plots/a.txt", "plots/deep/b.txt"]
    assert client.runs.artifact(run.id, "plots/deep/b.txt") == b"deep/b.txt"


def test_what_cannot_be_kept_is_told_at_once(client: Client, tmp_path: Path) -> None:
    with tm.run("delay", client=client, capture=False) as run:
        with pytest.raises(NotFound, match="there is no file nothing to log as 'nothing'; a folder is logged with"):
            run.file("nothing")
        with pytest.raises(NotFound, match=r"there is no file .* to log"):
            run.file(tmp_path)
        with pytest.raises(NotFound, match="there is no folder nothing to log"):
            run.folder("nothing")
        with pytest.raises(Invalid, match="bytes need a name to be kept under"):
            run.file(b"x")
        with pytest.raises(Invalid, match="it is no text; name it by yourself"):
            run.file(b"x", "caf\udce9")
        for path in ("../x", "/x", "a//b", "a\\b", "."):
            with pytest.raises(Invalid, match="is not usable for a file of a run"):
                run.file(b"x", path)
        with pytest.raises(Invalid, match="a dict is no figure that is understood; expected one of matplotlib, plotly or PIL"):
            run.figure({}, "x.png")
        with pytest.raises(Invalid, match=r"table 'x\.xlsx' cannot be kept as \.xlsx"):
            run.table([], "x.xlsx")
        with pytest.raises(Invalid, match="a int is no table"):
            run.table(3, "x")
        circle: list[object] = []
        circle.append(circle)
        with pytest.raises(Invalid, match="a list cannot be written as JSON"):
            run.json(circle, "x.json")
    assert client.runs.get(run.id)["artifacts"] == []


@pytest.mark.slow
def test_figures_become_what_their_names_say(client: Client) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    drawn = figures.Figure()
    drawn.subplots().plot([1, 2, 3])
    charted = go.Figure(go.Scatter(y=[1, 2, 3]))
    with tm.run("delay", client=client, capture=False) as run:
        run.figure(drawn, "roc.png")
        run.figure(drawn, "plots/roc.svg")
        run.figure(drawn, "bare")
        run.figure(charted, "chart")
        run.figure(charted, "chart.html")
    found = {artifact["path"]: client.runs.artifact(run.id, artifact["path"]) for artifact in client.runs.get(run.id)["artifacts"]}
    assert set(found) == {"roc.png", "plots/roc.svg", "bare.png", "chart.json", "chart.html"}
    assert found["roc.png"].startswith(b"\x89PNG")
    assert found["bare.png"].startswith(b"\x89PNG")
    assert b"<svg" in found["plots/roc.svg"]
    assert json.loads(found["chart.json"])["data"][0]["y"] == [1, 2, 3]
    assert b"Plotly.newPlot" in found["chart.html"]


def test_tables_are_parquet_unless_told_otherwise(client: Client) -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
    tables = {
        "frame": pd.DataFrame(rows),
        "arrow": pa.table({"a": [1, 2], "b": ["x", None]}),
        "rows": rows,
        "columns": {"a": [1, 2], "b": ["x", None]},
    }
    with tm.run("delay", client=client, capture=False) as run:
        for name, table in tables.items():
            run.table(table, f"tables/{name}")
        run.table(rows, "errors.json")
        run.table(rows, "errors.csv")
    for name in tables:
        found = parquet.read_table(BytesIO(client.runs.artifact(run.id, f"tables/{name}.parquet")))
        assert found.to_pylist() == rows, name
    assert json.loads(client.runs.artifact(run.id, "errors.json")) == rows
    assert client.runs.artifact(run.id, "errors.csv").decode().splitlines() == ['"a","b"', '1,"x"', "2,"]


def test_a_dataset_version_that_a_run_reads_is_an_edge_of_lineage(client: Client, ws: Workspace) -> None:
    add(ws, "flights", world.flights(5))
    add(ws, "flights", world.flights(6))
    with tm.run("delay", client=client, capture=False) as run:
        run.dataset("flights@v1")
        run.dataset("flights", role="test")
        with pytest.raises(NotFound, match="there is no dataset 'planes'"):
            run.dataset("planes")
    with ws.catalog.reading() as tx:
        edges = {edge.source for edge in walk(tx, ws.project, f"run:{run.id}", depth=1)}
    assert edges == {"dataset:flights@1", "dataset:flights@2"}
    read = read_links(ws, [run.id])[run.id].datasets
    assert {(item.dataset.name, item.dataset.digest, item.tags["mlflow.data.context"]) for item in read} == {
        ("flights", "1", "training"), ("flights", "2", "test"),
    }  # fmt: skip


def test_of_a_frame_digest_and_schema_are_kept(client: Client, ws: Workspace) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None]})
    with tm.run("delay", client=client, capture=False) as run:
        run.dataset(frame, "by hand")
        run.dataset(frame.assign(a=[1, 2, 4]), "by hand", role="test")
        run.dataset(np.zeros((4, 2)), "pixels")
        with pytest.raises(Invalid, match="a frame needs a name"):
            run.dataset(frame)
    read = read_links(ws, [run.id])[run.id].datasets
    assert [(item.dataset.name, item.tags["mlflow.data.context"]) for item in read] == [
        ("by hand", "training"),
        ("by hand", "test"),
        ("pixels", "training"),
    ]
    assert json.loads(read[0].dataset.schema or "")["a"] == "int64"
    assert json.loads(read[2].dataset.profile or "") == {"num_rows": 4}
    assert read[0].dataset.digest != read[1].dataset.digest


def test_where_a_run_comes_from_is_kept(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--depth", "3", "--api-key", "abcdefgh", "--db", "postgresql://me:word@host/x"])
    tm.seed(7)
    with tm.run("delay", client=client) as run:
        assert np.random.default_rng(0) is not None
        tm.seed(8)
    found = client.runs.get(run.id)
    assert found["tags"]["seed"] == "8"
    assert found["tags"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["tags"]["command"].endswith("train.py --depth 3 --api-key '***' --db 'postgresql://me:***@host/x'")
    environment = json.loads(client.runs.artifact(run.id, "environment.json"))
    assert environment["packages"]["numpy"] == np.__version__
    assert environment["host"]["cpus"] == os.cpu_count()
    assert "abcdefgh" not in json.dumps(environment)


def test_a_run_within_another_says_it_once(client: Client) -> None:
    with tm.run("tune", client=client) as whole, tm.run("tune", client=client) as part:
        pass
    assert "python" in client.runs.get(whole.id)["tags"]
    assert client.runs.get(part.id)["tags"] == {}


def test_the_machine_is_sampled(client: Client) -> None:
    with tm.run("delay", client=client, capture=False, system_metrics=0.1) as run:
        run.log(loss=1.0)
    metrics = client.runs.get(run.id)["metrics"]
    assert {"system/cpu_percent", "system/memory_percent", "system/disk_percent", "system/process_memory_mb"} <= set(metrics)
    assert 0 <= metrics["system/memory_percent"] <= 100
    with pytest.raises(Invalid, match=r"system metrics cannot be sampled every 0\.01 s; expected at least 0\.1 s"):
        tm.run("delay", client=client, system_metrics=0.01)
    assert len(client.runs.list()) == 1


def test_a_folder_with_a_model_becomes_a_version(client: Client, ws: Workspace, tmp_path: Path) -> None:
    checkout(ws.objects, world.bundle(ws), tmp_path / "bundle")
    with tm.run("delay", client=client, capture=False) as run:
        version = run.model(tmp_path / "bundle", "late", tags={"by": "hand"}, description="Late or not?")
        assert (version["name"], version["version"], version["run"], version["tags"]) == ("late", 1, run.id, {"by": "hand"})
        again = run.model(tmp_path / "bundle", "late")
        assert again["version"] == 1  # the same files of the same run
        (tmp_path / "bundle" / "notes.txt").write_text("new")
        assert run.model(tmp_path / "bundle", "late")["version"] == 2
        (tmp_path / "bundle" / "notes.txt").unlink()
        assert run.model(tmp_path / "bundle", "late")["version"] == 1  # a version holds what is in the folder, not what once was
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "x").write_text("x")
        with pytest.raises(Invalid, match=r"empty says nowhere what model it is; expected model\.json or MLmodel in it"):
            run.model(tmp_path / "empty", "other")
    assert client.models.get("late@1")["run"] == run.id


def test_a_file_arrives_though_there_is_no_room_for_a_copy(client: Client, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w" * 5000)
    with tm.run("delay", client=client, capture=False) as run:
        run.flush()
        folder = run._to().folder.objects
        folder.write_bytes(b"in the way: nothing can be written here")
        run.file(tmp_path / "weights")
        with pytest.raises(Unavailable, match="a file could not be kept in"):
            run.file(b"bytes", "bytes")
        folder.unlink()
    assert client.runs.artifact(run.id, "weights") == b"w" * 5000
