"""Offline runs are files that merge: whole, in order, into any server, as often as one likes."""

import shutil
from pathlib import Path

import pytest

import tidemill as tm
from tests import world
from tests.client.conftest import Plane
from tidemill.client.client import Client
from tidemill.client.folders import read_run, run_folders
from tidemill.client.sync import Merged, merge_runs
from tidemill.core.errors import Invalid, NotFound, Unavailable
from tidemill.core.settings import load_settings
from tidemill.datasets.versions import add
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import checkout


def merge(client: Client, runs: Path, *, keep: bool = False) -> list[Merged]:
    return list(merge_runs(runs, lambda _: client.caller, keep=keep))


def values(client: Client, run: str, key: str) -> list[float]:
    return [point["value"] for point in client.runs.history(run, key)]


def everything(client: Client, run: str) -> dict[str, object]:
    found = client.runs.get(run)
    files = {artifact["path"]: client.runs.artifact(run, artifact["path"]) for artifact in found["artifacts"]}
    return {**found, "files": files, "loss": client.runs.history(run, "loss")}


def test_an_offline_run_is_a_folder_that_merges(client: Client, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights" * 1000)
    with tm.run("delay", name="away", params={"depth": 3}, offline=True) as run:
        for step in range(100):
            run.log(loss=1 / (step + 1))
        run.tag("who", "me")
        run.file(tmp_path / "model.bin")
        run.file(b"weights" * 1000, "copy.bin")
        run.flush()
        assert run.url is None
        with tm.run("delay", offline=True) as part:
            part.log(loss=0.0)
    (tmp_path / "model.bin").unlink()
    assert len(list((runs / run.id).rglob("objects/*"))) == 2  # environment.json, and one for two files of the same bytes
    assert client.runs.list() == []

    merged = {found.run: found for found in merge(client, runs)}
    assert merged[run.id].requests >= 4
    assert (merged[run.id].name, merged[run.id].busy, merged[run.id].refused, merged[run.id].cut_bytes) == ("away", 0, (), 0)
    found = everything(client, run.id)
    assert (found["status"], found["name"], found["params"]) == ("finished", "away", {"depth": "3"})
    assert found["tags"]["who"] == "me"  # type: ignore[index]
    assert values(client, run.id, "loss") == [1 / (step + 1) for step in range(100)]
    assert found["files"]["model.bin"] == found["files"]["copy.bin"] == b"weights" * 1000  # type: ignore[index]
    assert found["started_at"] < found["ended_at"]  # type: ignore[operator]
    assert client.runs.get(part.id)["parent"] == run.id
    assert list(runs.iterdir()) == []
    assert merge(client, runs) == []


def test_merging_again_and_into_another_server_changes_nothing_and_loses_nothing(client: Client, ws: Workspace, runs: Path) -> None:
    with tm.run("delay", offline=True, params={"depth": 3}, capture=False) as run:
        run.log(loss=1.0)
        run.flush()
        run.log(loss=0.5)
        run.tag("who", "me")
        run.file(b"x", "x")
    (first,) = merge(client, runs, keep=True)
    once = everything(client, run.id)
    (second,) = merge(client, runs, keep=True)
    assert first == second
    assert everything(client, run.id) == once
    shutil.copytree(runs, runs.with_name("copy"))  # another machine's
    merge(client, runs)
    merge(client, runs.with_name("copy"))
    assert everything(client, run.id) == once


def test_merging_goes_on_where_it_was_cut_off(client: Client, ws: Workspace, runs: Path) -> None:
    with tm.run("delay", offline=True, capture=False) as run:
        for step in range(20):
            run.log(loss=float(step))
            run.flush()

    class Failing(type(client.caller)):  # type: ignore[misc]
        """A server that goes away in the middle."""

        left = 8

        def forward(self, *args: object, **more: object) -> object:
            self.left -= 1
            if self.left < 0:
                raise Unavailable("the server went away")
            return super().forward(*args, **more)

    failing = Failing(client.transport, "default")
    with pytest.raises(Unavailable, match="the server went away"):
        list(merge_runs(runs, lambda _: failing))
    assert len(values(client, run.id, "loss")) == 7
    (merged,) = merge(client, runs)
    assert merged.requests == 14  # thirteen columns and the end: what had arrived was not sent again
    assert values(client, run.id, "loss") == [float(step) for step in range(20)]
    assert client.runs.get(run.id)["status"] == "finished"


def test_what_the_server_refuses_is_told_and_kept_until_it_no_longer_does(client: Client, ws: Workspace, runs: Path) -> None:
    with tm.run("delay", offline=True, capture=False) as run:
        run.dataset("flights@1")
        run.log(loss=1.0)
    (merged,) = merge(client, runs)
    assert len(merged.refused) == 1
    assert "there is no dataset 'flights@1'" in merged.refused[0]
    assert values(client, run.id, "loss") == [1.0]
    assert client.runs.get(run.id)["status"] == "finished"
    assert [path.name for path in runs.iterdir()] == [run.id]
    (merged,) = merge(client, runs)
    assert len(merged.refused) == 1
    add(ws, "flights", world.flights(5))
    (merged,) = merge(client, runs)
    assert merged.refused == ()
    assert list(runs.iterdir()) == []


def test_points_that_were_refused_arrive_though_later_ones_have(client: Client, ws: Workspace, runs: Path) -> None:
    with tm.run("delay", client=client, capture=False) as run:
        run.log(loss=0.0)
        run.flush()
        client.runs.delete(run.id)
        run.log(loss=1.0)
        run.flush()
        client.runs.restore(run.id)
        run.log(loss=2.0)
    assert values(client, run.id, "loss") == [0.0, 2.0]
    shutil.copytree(runs, runs.with_name("copy"))
    for folder in (runs, runs.with_name("copy")):
        merge(client, folder)
        assert sorted(values(client, run.id, "loss")) == [0.0, 1.0, 2.0]


def test_what_is_too_much_for_a_server_arrives_when_its_limit_is_raised(
    client: Client, ws: Workspace, runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ws.loaded = load_settings(ws.home, arguments={"body_limit_bytes": 100_000})
    with tm.run("delay", client=client, capture=False) as run:
        for step in range(10_000):
            run.log(loss=float(step))
        run.flush()
        run.log(loss=10_000.0)
    assert "larger than 100,000 bytes; send less at once, or raise the setting body_limit_bytes" in caplog.text
    assert len(values(client, run.id, "loss")) < 10_000
    ws.loaded = load_settings(ws.home)
    (merged,) = merge(client, runs)
    assert merged.refused == ()
    assert sorted(values(client, run.id, "loss")) == [float(step) for step in range(10_001)]


def test_models_of_an_offline_run_are_registered_as_they_were_when_it_is_merged(
    client: Client, ws: Workspace, runs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    checkout(ws.objects, world.bundle(ws), folder)
    with tm.run("delay", offline=True, capture=False) as run:
        assert run.model(folder, "it's late", tags={"by": "hand"}, reason="on a train") == {
            "name": "it's late",
            "version": None,
            "run": run.id,
        }
        (folder / "notes.txt").write_text("the second")
        run.model(folder, "it's late")
        with pytest.raises(Invalid, match="says nowhere what model it is"):
            run.model(tmp_path, "it's late")
    shutil.copytree(runs, runs.with_name("copy"))
    (merged,) = merge(client, runs)
    assert (merged.models, merged.refused) == (2, ())
    first, second = (client.models.get(f"it's late@{version}") for version in (1, 2))
    assert (first["run"], first["tags"], second["run"]) == (run.id, {"by": "hand"}, run.id)
    assert second["size_bytes"] - first["size_bytes"] == len("the second")
    merge(client, runs.with_name("copy"))
    assert [version["version"] for version in client.model_versions.search("name = 'it''s late'")["items"]] == [2, 1]


def test_a_run_that_is_logged_to_is_left_alone(client: Client, runs: Path) -> None:
    run = tm.run("delay", offline=True, capture=False)
    run.log(loss=1.0)
    run.flush()
    (merged,) = merge(client, runs)
    assert (merged.busy, merged.requests) == (1, 0)
    run.end()
    (merged,) = merge(client, runs)
    assert merged.busy == 0
    assert values(client, run.id, "loss") == [1.0]


def test_what_a_crash_tore_is_told(client: Client, runs: Path) -> None:
    with tm.run("delay", offline=True, capture=False) as run:
        run.log(loss=1.0)
        run.flush()
    (segment,) = runs.rglob("log/*.seg")
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-3])  # the record of the run's end
    (merged,) = merge(client, runs)
    assert merged.cut_bytes > 0
    found = client.runs.get(run.id)
    assert (found["status"], found["message"], found["metrics"]) == ("killed", "whoever logged it ended without saying so", {"loss": 1.0})


def test_the_environment_and_the_place_decide_whether_a_run_is_offline(
    client: Client, tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tm.run("delay", capture=False) as run:  # no server, no workspace
        pass
    assert read_run(runs / run.id) is not None
    with pytest.raises(NotFound, match="is not inside a Tidemill workspace"):
        tm.run("delay", offline=False)
    monkeypatch.setenv("TIDEMILL_OFFLINE", "yes")
    with tm.run("delay", url="http://127.0.0.1:9", capture=False) as run:
        pass
    assert read_run(runs / run.id).url is None  # type: ignore[union-attr]
    monkeypatch.setenv("TIDEMILL_OFFLINE", "perhaps")
    with pytest.raises(Invalid, match="TIDEMILL_OFFLINE is 'perhaps'; expected one of 1, true, yes, on, 0"):
        tm.run("delay")
    with tm.run("delay", offline=tmp_path / "elsewhere", capture=False) as run:
        pass
    assert [path.name for path in run_folders(tmp_path / "elsewhere")] == [run.id]
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"file cannot hold the files of a run: .*; name a folder that can be written in TIDEMILL_RUNS"):
        tm.run("delay", offline=tmp_path / "file")


def test_a_workspace_that_one_stands_in_needs_no_server(ws: Workspace, monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    monkeypatch.chdir(ws.home)
    with tm.run("delay") as run:
        run.log(loss=0.5)
    with tm.connect() as client:
        assert client.runs.get(run.id)["metrics"] == {"loss": 0.5}
        assert client.runs.get(run.id)["status"] == "finished"
    assert list(runs.iterdir()) == []


@pytest.mark.slow
def test_large_files_of_offline_runs_are_copied_and_arrive(plane: Plane, remote: Client, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(range(256)) * (70 << 12))  # 70 MB
    with tm.run("delay", offline=True, capture=False) as run:
        run.file(path)
    path.unlink()
    (merged,) = merge(remote, runs)
    assert merged.files == 1
    (kept,) = remote.runs.get(run.id)["artifacts"]
    assert kept["size_bytes"] == 70 << 20
