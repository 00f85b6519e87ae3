"""Batch jobs: one row for each, in order, once; resumed after a kill; the same on every executor; refused before anything is published."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import world
from tests.features import worlds as features
from tests.serving import plant
from tidemill.catalog.lineage import walk
from tidemill.core.codec import canonical
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.signature import SPEC_FILE, Output
from tidemill.core.values import replace
from tidemill.datasets.versions import DatasetNotFound, add, append, list_versions, open_table, read_version
from tidemill.deploy.endpoints import create_endpoint
from tidemill.deploy.publish import publish
from tidemill.features.applied import apply
from tidemill.features.history import history
from tidemill.features.views import FeatureService
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.versions import register
from tidemill.serving.batch import job
from tidemill.serving.batch.columns import ColumnsRefused
from tidemill.serving.batch.job import BatchRequest, BatchResult, score_batch
from tidemill.serving.batch.shard import RowsRefused
from tidemill.serving.batch.source import QueryRefused
from tidemill.serving.config import EndpointOptions, load, save
from tidemill.store.trees import put_tree
from tidemill.tracking.runs import read_run, update_run

ROWS = 1000


def numbers(rows: int = ROWS, *, seed: int = 0) -> pa.Table:
    return pa.table({"id": pa.array(range(rows), pa.int64()), "x": np.random.default_rng(seed).normal(size=rows)})


def sigmoid(table: pa.Table) -> np.ndarray:
    return 1 / (1 + np.exp(-table["x"].to_numpy()))


@pytest.fixture
def stocked(ws: Workspace) -> Workspace:
    """A workspace with delay@1 and 1,000 rows."""
    world.model(ws)
    add(ws, "rows", numbers())
    return ws


def run(ws: Workspace, **named: Any) -> BatchResult:
    given = {"to": "scores", "model": "delay@1", "data": "rows", "executor": "inline", "shard_rows": 100, **named}
    return score_batch(ws, BatchRequest(**{name: value for name, value in given.items() if value is not None}))


def test_every_row_has_its_score_in_order(stocked: Workspace) -> None:
    heard: list[tuple[int, int, int]] = []
    request = BatchRequest(
        to="scores", model="delay@1", data="rows@1", key="id", columns=("x",), executor="inline", batch_rows=33, shard_rows=100
    )
    done = score_batch(stocked, request, watch=lambda done, before, total, _: heard.append((done, before, total)))
    made = open_table(stocked, f"scores@{done.version}")
    assert made.column_names == ["id", "x", "score", "label", "model", "version"]
    assert made.select(["id", "x"]).equals(numbers())
    np.testing.assert_allclose(made["score"].to_numpy(), sigmoid(numbers()), atol=1e-6)
    assert made["label"].to_pylist() == [score >= 0.5 for score in made["score"].to_pylist()]
    assert set(made["model"].to_pylist()) == {"delay"}
    assert set(made["version"].to_pylist()) == {1}
    assert (done.rows, done.refused, done.shards, done.resumed, done.again) == (ROWS, 0, 10, 0, False)
    assert heard == [(100 * number, 0, ROWS) for number in range(1, 11)]
    assert not (stocked.state / "batch").exists() or not list((stocked.state / "batch").iterdir())


def test_what_is_told_beside_the_score_is_written(ws: Workspace) -> None:
    spec = plant.several_spec(*plant.SEVERAL[:2], threshold=0.5)
    bundle = put_tree(ws.objects, {"model.onnx": plant.several_onnx(), SPEC_FILE: canonical(spec)})
    register(ws, "weather", bundle)
    add(ws, "sky", pa.table({"a": [1.0, 0.0, None, -2.0, float("inf"), 1.0], "b": [1.0, 6.0, 1.0, 0.0, 1.0, 1.0]}))
    done = run(ws, model="weather@1", data="sky", on_bad="null", batch_rows=3)
    made = open_table(ws, "scores")
    assert made.column_names == ["score", "label", "output.label", "probabilities", "model", "version", "refused"]
    assert (made["probabilities"].type, done.refused) == (pa.list_(pa.float32()), 2)
    assert made["output.label"].to_pylist() == ["calm", "windy", None, "storm", None, "calm"]
    told = made["probabilities"].to_pylist()
    assert [told[2], told[4]] == [None, None]
    assert [row[1] for row in told if row] == pytest.approx([score for score in made["score"].to_pylist() if score is not None])
    add(ws, "odd", pa.table({"a": [1.0], "b": [1.0], "probabilities": [1]}))
    with pytest.raises(ColumnsRefused, match="column 'probabilities' would stand beside the output's own of that name"):
        run(ws, model="weather@1", data="odd", columns=("probabilities",))


def test_rows_that_the_model_has_no_number_for_are_left_out_of_all_columns(ws: Workspace) -> None:
    again = Output(name="again", kind="double", width=1, source="score")
    spec = replace(plant.onnx_spec(), others=(again,))
    register(ws, "cursed", put_tree(ws.objects, {"model.onnx": plant.example_onnx(), SPEC_FILE: canonical(spec)}))
    add(ws, "rows", pa.table({"a": [1.0] * 5, "b": [1, 99, 2, 99, 3]}))
    assert run(ws, model="cursed@1", on_bad="null").refused == 2
    made = open_table(ws, "scores")
    assert made["score"].to_pylist() == [pytest.approx(0.11), None, pytest.approx(0.12), None, pytest.approx(0.13)]
    assert made["again"].to_pylist() == [None if score is None else [score] for score in made["score"].to_pylist()]


def test_a_job_leaves_run_lineage_and_event(stocked: Workspace) -> None:
    done = run(stocked)
    with stocked.catalog.reading() as tx:
        edges = {(edge.source, edge.target) for edge in walk(tx, "default", "dataset:scores@1")}
    node = f"run:{done.run}"
    assert {(node, "dataset:scores@1"), ("dataset:rows@1", node)} <= edges
    assert any(source.startswith("model:") and target == node for source, target in edges)
    told = read_run(stocked, done.run)
    assert (told.kind, told.status, told.params["model"], told.metrics["rows"]) == ("batch", "finished", "delay@1", ROWS)
    (event,) = list_events(stocked, kinds=["batch.scored"])
    assert event.body == {
        "run": done.run, "model": "delay", "model_version": 1, "dataset": "scores", "version": 1, "rows": ROWS, "refused": 0,
    }  # fmt: skip


def test_the_same_job_again_changes_nothing(stocked: Workspace) -> None:
    first = run(stocked)
    again = run(stocked)
    assert (again.version, again.digest, again.run, again.again) == (1, first.digest, first.run, True)
    world.model(stocked, slope=2.0)
    assert run(stocked, model="delay@2").version == 2
    assert run(stocked).version == 1
    assert len(list_versions(stocked, "scores")) == 2
    assert len(list_events(stocked, kinds=["batch.scored"])) == 2
    append(stocked, "rows", numbers(10, seed=1))
    assert run(stocked).version == 3


def test_equal_scores_of_another_job_are_the_same_version(stocked: Workspace) -> None:
    add(stocked, "copy", numbers())
    assert (run(stocked).version, run(stocked, data="copy").version) == (1, 1)


@pytest.mark.parametrize("rows", [0, 1, 99, 100, 101])
def test_edges_of_shards(ws: Workspace, rows: int) -> None:
    world.model(ws)
    add(ws, "rows", numbers(rows))
    assert run(ws, key="id").rows == rows
    assert open_table(ws, "scores")["id"].to_pylist() == list(range(rows))


def test_datasets_of_several_files_and_row_groups_keep_their_order(ws: Workspace, tmp_path: Path) -> None:
    world.model(ws)
    whole = numbers(530)
    for number, (start, length) in enumerate(((0, 250), (250, 0), (250, 280))):
        pq.write_table(whole.slice(start, length), tmp_path / f"{number}.parquet", row_group_size=37)
    add(ws, "rows", [tmp_path / f"{number}.parquet" for number in range(3)])
    done = run(ws, key="id", columns=("x",))
    assert done.shards == 3 + 3
    made = open_table(ws, "scores")
    assert made.select(["id", "x"]).equals(whole)
    np.testing.assert_allclose(made["score"].to_numpy(), sigmoid(whole), atol=1e-6)


def test_refused_rows_are_named_and_nothing_is_published(stocked: Workspace) -> None:
    table = numbers().set_column(1, "x", pa.array([None if n in (7, 950) else float("inf") if n == 8 else 0.5 for n in range(ROWS)]))
    add(stocked, "rows", table)
    with pytest.raises(RowsRefused, match=r"row 7: column 'x' is missing; row 8: column 'x' is inf; expected a finite number; nothing was"):
        run(stocked)
    with pytest.raises(DatasetNotFound):
        read_version(stocked, "scores")
    done = run(stocked, on_bad="null", key="id")
    made = open_table(stocked, "scores")
    assert (done.rows, done.refused) == (ROWS, 3)
    assert {n for n, score in enumerate(made["score"].to_pylist()) if score is None} == {7, 8, 950}
    assert made["label"].null_count == 3
    assert made["refused"][7].as_py() == "column 'x' is missing"
    assert made["refused"].null_count == ROWS - 3
    assert run(stocked, on_bad="null", key="id").refused == 3  # told again of the job that was done


def test_rows_for_which_the_model_has_no_number_are_found_by_halves(ws: Workspace) -> None:
    spec = plant.onnx_spec()
    register(ws, "delay", put_tree(ws.objects, {"model.onnx": plant.example_onnx(), SPEC_FILE: canonical(spec)}))
    names = [column.name for column in spec.signature.inputs]
    cursed = (3, 57, 58)
    add(ws, "rows", pa.table({name: pa.array([99 if n in cursed and name == "b" else 1 for n in range(150)]) for name in names}))
    with pytest.raises(RowsRefused, match="row 3: the model's score is not a finite number; row 57"):
        run(ws)
    assert run(ws, on_bad="null").refused == 3


@pytest.mark.parametrize(
    ("named", "error", "says"),
    [
        ({"model": "delay@9"}, NotFound, "delay@9"),
        ({"data": "nothing"}, DatasetNotFound, "no dataset 'nothing'"),
        ({"data": "nothing.parquet"}, NotFound, "there is no file nothing.parquet"),
        ({"to": "a/b"}, Invalid, "dataset name 'a/b' is not usable"),
        ({"endpoint": "delay"}, Invalid, "scored by one thing"),
        ({"sql": "SELECT 1"}, Invalid, "reads one thing"),
        ({"data": None}, Invalid, "reads one thing"),
        ({"model": None, "endpoint": "late"}, NotFound, r"no endpoint 'late' is served here \(served: none\)"),
        ({"key": "nobody"}, ColumnsRefused, "column 'nobody' is missing"),
        ({"data": None, "sql": "SELECT id AS x, 'a' AS score FROM rows", "key": "score"}, ColumnsRefused, "stand beside the output's own"),
        ({"data": None, "sql": "SELECT 'a' AS x FROM rows"}, ColumnsRefused, "column 'x' is of type string; the model takes a double"),
        ({"data": None, "sql": "SELEC 1"}, QueryRefused, "syntax error"),
        ({"data": None, "sql": "SELECT 1; SELECT 2"}, QueryRefused, "it has 2 statements"),
        ({"data": None, "sql": "DELETE FROM rows"}, QueryRefused, "Only SELECT"),
        ({"data": None, "sql": "SELECT * FROM missing"}, QueryRefused, "missing does not exist"),
        ({"data": None, "sql": "SELECT * FROM read_csv('/etc/passwd')"}, QueryRefused, "file system operations are disabled"),
        ({"executor": "loca"}, Invalid, "executor 'loca' is not known"),
    ],
)
def test_what_cannot_be_scored_is_told_in_a_sentence(stocked: Workspace, named: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        run(stocked, **named)
    with pytest.raises(DatasetNotFound):
        read_version(stocked, "scores")


def test_only_who_may_write_datasets_scores(stocked: Workspace) -> None:
    with pytest.raises(ActionRefused, match=r"datasets\.write"):
        run(world.acting(stocked, "vic", "viewer"))


def test_a_query_over_datasets_is_scored_as_it_was_pinned(stocked: Workspace) -> None:
    query = 'SELECT r.id, o.x FROM rows r JOIN "rows@1" o USING (id) WHERE r.id < 250 ORDER BY r.id DESC;'
    done = run(stocked, data=None, sql=query, key="id")
    assert open_table(stocked, "scores")["id"].to_pylist() == list(range(249, -1, -1))
    assert (done.rows, done.shards) == (250, 3)
    assert run(stocked, data=None, sql=query, key="id").again


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.tsv"])
def test_files_are_scored_as_datasets_are(stocked: Workspace, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "rows.parquet":
        pq.write_table(numbers(), path)
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        path.write_text("\n".join([f"id{mark}x", *(f"{row['id']}{mark}{row['x']!r}" for row in numbers().to_pylist())]))
    assert run(stocked, data=str(path)).digest == run(stocked, to="others").digest


def test_a_file_that_is_no_table_is_refused(stocked: Workspace, tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"no")
    with pytest.raises(Invalid, match="could not be read as parquet"):
        run(stocked, data=str(tmp_path / "rows.parquet"))
    (tmp_path / "rows.csv").write_text("a,b\n1\n")
    with pytest.raises(Invalid, match="could not be read as csv"):
        run(stocked, data=str(tmp_path / "rows.csv"))


def test_an_endpoint_brings_its_variant_and_threshold(stocked: Workspace) -> None:
    create_endpoint(stocked, "late", "delay@1")
    publish(stocked)
    config = load(stocked.state)
    assert config is not None
    save(
        stocked.state, replace(config, endpoints=tuple(replace(each, options=EndpointOptions(threshold=0.9)) for each in config.endpoints))
    )
    run(stocked, model=None, endpoint="late")
    made = open_table(stocked, "scores")
    assert made["label"].to_pylist() == [score >= 0.9 for score in made["score"].to_pylist()]


def test_features_are_looked_up_as_of_each_row(ws: Workspace) -> None:
    landed = [
        {**features.event(f"F{n}", delay=n / 7), "landed_at": features.START + n * features.MINUTE, "origin": ("EWR", "JFK")[n % 2]}
        for n in range(40)
    ]
    add(ws, "flights", features.events_table(landed))
    apply(ws, [features.latest_view(keys=True, ttl=None)], [FeatureService(name="delay", features=("last:*",))])
    spec = plant.onnx_spec()
    first, second = spec.signature.inputs
    inputs = (replace(first, name="last_delay", kind="double"), second)
    looked = replace(
        spec, signature=replace(spec.signature, inputs=inputs), tensors={"x": ("last_delay", second.name)}, feature_service="delay@1",
        request_columns=("origin", second.name),
    )  # fmt: skip
    register(ws, "delay", put_tree(ws.objects, {"model.onnx": plant.example_onnx(), SPEC_FILE: canonical(looked)}))
    rows = features.entity_table([("EWR", 1, n) if n % 3 else ("LGA", 1, n) for n in range(150)]).append_column(
        second.name, pa.array([n % 5 for n in range(150)])
    )
    add(ws, "rows", rows)
    with pytest.raises(Invalid, match="name the column that holds it with --at"):
        run(ws)
    done = run(ws, at="at", columns=("origin",), batch_rows=17)
    expected = history(ws, rows, "delay@1", timestamp="at")["last_delay"].to_numpy()
    scores = np.clip(0.1 * expected + 0.01 * rows[second.name].to_numpy(), 0, 1)
    np.testing.assert_allclose(open_table(ws, "scores")["score"].to_numpy(), np.where(np.isnan(scores), 0.5, scores), atol=1e-6)
    with ws.catalog.reading() as tx:
        sources = {edge.source for edge in walk(tx, "default", f"run:{done.run}")}
    assert {"dataset:rows@1", "dataset:flights@1", "service:delay@1"} <= sources
    append(ws, "flights", features.events_table([features.event("G1", delay=9.0)]))
    assert not run(ws, at="at", columns=("origin",)).again  # another state of the features is another job


def test_features_are_computed_from_each_row(ws: Workspace) -> None:
    add(ws, "flights", features.events_table([features.event("F1", delay=3.5)]))
    spec = plant.onnx_spec()
    second = spec.signature.inputs[1].name
    service = FeatureService(
        name="delay", features=("last:last_delay",), computed={"more": "last_delay * extra"}, request={"extra": "double"}
    )
    apply(ws, [features.latest_view(keys=True, ttl=None)], [service])
    inputs = (replace(spec.signature.inputs[0], name="more", kind="double"), spec.signature.inputs[1])
    looked = replace(
        spec, signature=replace(spec.signature, inputs=inputs), tensors={"x": ("more", second)}, feature_service="delay@1",
        request_columns=("origin", second),
    )  # fmt: skip
    register(ws, "delay", put_tree(ws.objects, {"model.onnx": plant.example_onnx(), SPEC_FILE: canonical(looked)}))
    rows = features.entity_table([("EWR", 1, 5), ("LGA", 1, 5), ("EWR", 1, 5)]).append_column(second, pa.array([1, 1, 2]))
    add(ws, "rows", rows)
    with pytest.raises(ColumnsRefused, match="column 'extra' is missing"):
        run(ws, at="at", columns=("origin",))
    add(ws, "rows", rows.append_column("extra", pa.array([2, 2, None])))
    run(ws, at="at", columns=("origin",))
    assert open_table(ws, "scores")["score"].to_pylist() == [pytest.approx(0.71), 0.5, 0.5]


def test_the_same_job_runs_once_at_a_time(stocked: Workspace) -> None:
    def meddle(*_: object) -> None:
        with pytest.raises(Conflict, match="the same job runs already"):
            run(stocked)

    score_batch(stocked, BatchRequest(to="scores", model="delay@1", data="rows", executor="inline", shard_rows=100), watch=meddle)


def test_memory_bounds_what_a_worker_takes_at_once() -> None:
    request = BatchRequest(to="s", model="m@1", data="d", batch_rows=8192, memory_mb=6)
    assert job.batch_rows_of(request, row_bytes=240, workers=2) == (6 << 20) // (240 * 2 * 3)
    assert job.batch_rows_of(request, row_bytes=1 << 20, workers=2) == job.BATCH_ROWS_LEAST
    assert job.batch_rows_of(replace(request, memory_mb=None), row_bytes=240, workers=2) == 8192


@pytest.mark.slow
def test_a_job_that_was_killed_twice_scores_no_shard_again(stocked: Workspace) -> None:
    script = Path(__file__).with_name("kill_me.py")
    command = [sys.executable, str(script), str(stocked.home)]
    for after in (3, 4):
        assert subprocess.run([*command, str(after)], check=False).returncode == -9
    assert read_run(stocked, next(iter(list_events(stocked, kinds=["run.started"]))).body["run"]).status == "running"
    with pytest.raises(DatasetNotFound):
        read_version(stocked, "scores")
    # A shard that a power cut left torn is none.
    (folder,) = (stocked.state / "batch").iterdir()
    torn = sorted(folder.glob("shard-*"))[2]
    torn.write_bytes(torn.read_bytes()[:-20])
    last = subprocess.run([*command, "99"], check=True, capture_output=True, text=True).stdout.split()
    assert last[:3] == ["6", "10", "1000"]
    assert last[3] == run(stocked, to="others", key="id").digest
    assert not list((stocked.state / "batch").iterdir())


def test_a_job_that_was_cut_off_behind_its_publication_is_done(stocked: Workspace) -> None:
    done = run(stocked)
    update_run(stocked, done.run, status="running")
    again = run(stocked)
    assert (again.again, again.version) == (True, 1)
    assert read_run(stocked, again.run).status == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local:2", "ray"])
@pytest.mark.timeout(300)
def test_every_executor_writes_the_same(stocked: Workspace, executor: str) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason="ray is not installed")
    there = run(stocked, to="there", executor=executor, key="id")
    assert there.digest == run(stocked, to="here", key="id").digest
