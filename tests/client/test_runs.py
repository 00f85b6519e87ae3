"""The read side of runs: searches in pages, histories whole and thinned, comparisons, files down again."""

import math
from pathlib import Path

import numpy as np
import pytest

import tidemill as tm
from tests.client.faults import Proxy
from tidemill.client.client import Client, connect
from tidemill.client.history import History
from tidemill.core.errors import Conflict, Corrupt, Invalid, NotFound

MB = 1 << 20


@pytest.fixture
def runs_of_three(client: Client) -> list[str]:
    made = []
    for number, (experiment, auc) in enumerate((("delay", 0.6), ("delay", 0.8), ("price", 0.9))):
        with tm.run(experiment, name=f"r{number}", params={"depth": number}, client=client, capture=False) as run:
            run.log(auc=auc)
        made.append(run.id)
    return made


def test_runs_are_found_by_filter_and_order_in_pages(client: Client, runs_of_three: list[str]) -> None:
    first, second, third = runs_of_three
    assert [run["id"] for run in client.runs.search("metrics.auc > 0.7", order_by=["metrics.auc DESC"])] == [third, second]
    assert [run["id"] for run in client.runs.search(experiments=["delay"])] == [second, first]
    assert [run["id"] for run in client.runs.search(limit=2)] == [third, second]
    page = client.runs.page(order_by=["metrics.auc"], limit=2)
    assert [run["id"] for run in page["items"]] == [first, second]
    rest = client.runs.page(order_by=["metrics.auc"], limit=2, page_token=page["next"])
    assert ([run["id"] for run in rest["items"]], rest["next"]) == ([third], None)
    with pytest.raises(Invalid, match="the page token is not one that this search gave"):
        client.runs.page("params.depth = '1'", page_token=page["next"])
    with pytest.raises(Invalid, match="filter was not understood at character 13"):
        list(client.runs.search("metrics.auc ! 3"))
    with pytest.raises(NotFound, match="there is no experiment 'nope'"):
        list(client.runs.search(experiments=["nope"]))


def test_deleted_runs_are_in_the_trash_until_restored(client: Client, runs_of_three: list[str]) -> None:
    first, second, third = runs_of_three
    client.runs.delete(first)
    client.runs.delete(first)
    assert {run["id"] for run in client.runs.search()} == {second, third}
    assert [run["id"] for run in client.runs.search(view="deleted")] == [first]
    with pytest.raises(Conflict, match="is in the trash and takes nothing; restore it with: tidemill run restore"):
        client.runs.log_metrics(first, {"auc": 1.0})
    client.runs.restore(first)
    assert len(list(client.runs.search(view="all"))) == 3
    client.runs.log_metrics(first, {"auc": 1.0})


def test_experiments_are_made_renamed_and_moved(client: Client, runs_of_three: list[str]) -> None:
    made = client.experiments.create("weather", tags={"team": "tide"})
    with pytest.raises(Conflict, match="experiment 'weather' exists already"):
        client.experiments.create("weather")
    client.experiments.rename(made["id"], "climate")
    client.experiments.set_tags(made["id"], {"team": "mill"})
    assert client.experiments.keep(made["id"], 3)["keep_days"] == 3
    found = client.experiments.get(made["id"])
    assert (found["name"], found["tags"], found["keep_days"]) == ("climate", {"team": "mill"}, 3)
    client.experiments.delete(made["id"])
    assert client.experiments.create("climate")["id"] != made["id"]
    with pytest.raises(Conflict, match="experiment 'climate' exists already"):
        client.experiments.restore(made["id"])
    delay = next(experiment for experiment in client.experiments.list() if experiment["name"] == "delay")
    assert client.experiments.counts()[delay["id"]] == 2
    assert [item["name"] for item in client.experiments.page("name LIKE 'del%'")["items"]] == ["delay"]
    with pytest.raises(NotFound, match="there is no experiment 99"):
        client.experiments.get(99)


def test_a_history_is_columns_and_points(client: Client) -> None:
    values = [0.5, math.nan, math.inf, -math.inf, 1e300]
    with tm.run("delay", client=client, capture=False) as run:
        for value in values:
            run.log({"a/b c": value})
    history = client.runs.history(run.id, "a/b c")
    assert np.array_equal(np.array(history.values), values, equal_nan=True)
    assert history.steps.tolist() == [0, 1, 2, 3, 4]
    assert (history[0]["value"], history[-1]["step"], len(history[1:3])) == (0.5, 4, 2)
    assert [point["step"] for point in history] == [0, 1, 2, 3, 4]
    assert history[0]["at"].tzinfo is not None
    assert repr(history) == "<history of 5 points>"
    assert len(client.runs.history(run.id, "nothing")) == 0
    with pytest.raises(Corrupt, match="a history ended in the middle of a block"):
        History.read(b"\x05\0\0\0\0")


@pytest.mark.slow
def test_a_chart_of_a_long_history_is_short(client: Client) -> None:
    with tm.run("delay", client=client, capture=False) as run:
        for step in range(150_000):
            run.log(loss=float(step))
    (chart,) = client.runs.charts([run.id], "loss", points=100)
    assert chart["logged"] == 150_000
    assert len(chart["values"]) <= 100
    assert (chart["values"][0], chart["values"][-1]) == (0.0, 149_999.0)
    assert client.runs.history(run.id, "loss").values.tolist() == [float(step) for step in range(150_000)]


def test_runs_are_compared(client: Client, runs_of_three: list[str]) -> None:
    found = client.runs.compare(runs_of_three[:2])
    assert found["params"] == [{"key": "depth", "values": ["0", "1"]}]
    assert found["metrics"] == [{"key": "auc", "values": [0.6, 0.8]}]


def test_tags_go_and_names_change(client: Client, runs_of_three: list[str]) -> None:
    run = runs_of_three[0]
    client.runs.set_tags(run, {"a": "b"})
    client.runs.delete_tag(run, "a")
    assert client.runs.rename(run, "better")["name"] == "better"
    assert client.runs.get(run)["tags"] == {}
    with pytest.raises(NotFound, match="has no tag 'a'"):
        client.runs.delete_tag(run, "a")


def test_files_come_down_again(client: Client, tmp_path: Path) -> None:
    run = client.runs.start("delay", "r")["id"]
    (tmp_path / "weights").write_bytes(b"w" * 100)
    client.runs.log_artifact(run, "model/weights", tmp_path / "weights")
    client.runs.log_artifact(run, "model/deep/empty", b"")
    client.runs.log_artifact(run, "modelling.txt", b"x")
    assert len(client.runs.download(run, tmp_path / "all")) == 3
    assert (tmp_path / "all" / "model" / "weights").read_bytes() == b"w" * 100
    assert (tmp_path / "all" / "model" / "deep" / "empty").read_bytes() == b""
    assert [item["path"] for item in client.runs.download(run, tmp_path / "part", within="model/")] == ["model/deep/empty", "model/weights"]
    assert not (tmp_path / "part" / "modelling.txt").exists()
    (tmp_path / "all" / "modelling.txt").write_bytes(b"y")
    client.runs.download(run, tmp_path / "all")
    assert (tmp_path / "all" / "modelling.txt").read_bytes() == b"x"
    with pytest.raises(NotFound, match="has no artifact 'nope'"):
        client.runs.artifact(run, "nope")
    with pytest.raises(NotFound, match="there is no run 'nope'"):
        client.runs.download("nope", tmp_path)
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "model").symlink_to("/tmp")
    with pytest.raises(Invalid, match="would be written outside of"):
        client.runs.download(run, tmp_path / "trap", within="model/weights")


@pytest.mark.slow
def test_a_download_goes_on_where_the_connection_was_cut(proxy: Proxy, remote: Client, tmp_path: Path) -> None:
    run = remote.runs.start("delay", "r")["id"]
    (tmp_path / "f").write_bytes(bytes(range(256)) * (40 << 12))
    remote.runs.log_artifact(run, "f", tmp_path / "f")
    with connect(proxy.url) as client:
        client.runs.get(run)
        proxy.cut_answers = [10 * MB, 15 * MB, 5 * MB]
        client.runs.download(run, tmp_path / "down")
    assert proxy.cuts == 3
    assert proxy.passed_down < 40 * MB + 4 * MB
    assert (tmp_path / "down" / "f").read_bytes() == (tmp_path / "f").read_bytes()
