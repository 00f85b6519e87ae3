"""`tidemill run` and `tidemill gc`: runs are found, compared, exported, deleted, merged; disk comes back."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from pyarrow import parquet

import tidemill as tm
from tests.cli.conftest import Said
from tidemill.client.seeds import SEED
from tidemill.core.clock import wait_until

pytestmark = pytest.mark.slow
Say = Callable[..., Said]


@pytest.fixture(autouse=True)
def own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "RUN", "OFFLINE", "HOME", "PROJECT"):
        monkeypatch.delenv(f"TIDEMILL_{name}", raising=False)
    monkeypatch.setenv("TIDEMILL_RUNS", str(tmp_path / "runs"))
    SEED.set(None)


def logged(home: Path, name: str, *, auc: float, depth: int, experiment: str = "delay", file: bytes = b"") -> str:
    with tm.run(experiment, name=name, params={"depth": depth, "rate": 1}, url=f"workspace:{home}", capture=False) as run:
        run.log(auc=auc, loss=1 - auc)
        if file:
            run.file(file, "model/weights.bin")
    return run.id


def test_runs_are_searched_in_pages(say: Say, fresh: Path) -> None:
    runs = [logged(fresh, f"r{number}", auc=number / 10, depth=number) for number in range(5)]
    told = say("run", "list", "--home", fresh, "--order", "metrics.auc DESC", "--limit", 2, "--metric", "auc")
    assert told.out.index("r4") < told.out.index("r3")
    assert "auc" in told.out.splitlines()[0]
    first = say("run", "list", "--home", fresh, "--order", "metrics.auc DESC", "--limit", 2, "--json").json()
    second = say("run", "list", "--home", fresh, "--order", "metrics.auc DESC", "--limit", 2, "--page", first["next"], "--json").json()
    assert [run["id"] for run in [*first["items"], *second["items"]]] == runs[:0:-1]
    found = say("run", "list", "--home", fresh, "--filter", "params.depth = '3' AND metrics.auc < 0.5", "--json").json()
    assert [run["id"] for run in found["items"]] == [runs[3]]


def test_one_run_is_shown_with_all_that_it_has(say: Say, fresh: Path) -> None:
    run = logged(fresh, "first", auc=0.5, depth=3, file=b"weights")
    told = say("run", "show", run, "--home", fresh)
    assert all(word in told.out for word in ("first (run) of delay: finished", "depth", "auc", "model/weights.bin", "began"))
    assert say("run", "show", run, "--home", fresh, "--json").json()["params"] == {"depth": "3", "rate": "1"}


def test_runs_stand_side_by_side(say: Say, fresh: Path) -> None:
    one, two = logged(fresh, "one", auc=0.5, depth=3), logged(fresh, "two", auc=0.75, depth=4)
    told = say("run", "compare", one, two, "--home", fresh)
    assert "depth" in told.out
    assert "rate" not in told.out
    assert "rate" in say("run", "compare", one, two, "--all", "--home", fresh).out
    found = say("run", "compare", one, two, "--home", fresh, "--json").json()
    assert found["params"] == [{"key": "depth", "values": ["3", "4"]}]


def test_a_run_is_exported(say: Say, fresh: Path, tmp_path: Path) -> None:
    run = logged(fresh, "first", auc=0.5, depth=3, file=b"weights")
    told = say("run", "export", run, tmp_path / "out", "--home", fresh)
    assert "5 files" in told.out
    assert (tmp_path / "out" / "files" / "model" / "weights.bin").read_bytes() == b"weights"
    assert parquet.read_table(tmp_path / "out" / "metrics.parquet").num_rows == 2
    assert json.loads((tmp_path / "out" / "params.json").read_text()) == {"depth": "3", "rate": "1"}
    told = say("run", "export", run, tmp_path / "out", "--home", fresh)
    assert (told.code, "is there already and not empty" in told.err) == (1, True)


def test_deleted_runs_come_back_or_go_for_good(say: Say, fresh: Path) -> None:
    kept = logged(fresh, "kept", auc=0.5, depth=1, file=b"k" * 4000)
    runs = [logged(fresh, f"r{number}", auc=number / 10, depth=9, file=bytes([number]) * 5000) for number in range(3)]
    assert say("run", "rm", runs[0], runs[1], "--home", fresh, "--json").json() == {"deleted": 2}
    assert say("run", "rm", "--filter", "params.depth = '9'", "--yes", "--home", fresh, "--json").json() == {"deleted": 1}
    assert [run["id"] for run in say("run", "list", "--home", fresh, "--json").json()["items"]] == [kept]
    assert len(say("run", "list", "--deleted", "--home", fresh, "--json").json()["items"]) == 3
    assert "in the trash since" in say("run", "show", runs[0], "--home", fresh).out
    assert say("run", "restore", runs[2], "--home", fresh, "--json").json() == {"restored": 1}
    assert say("run", "restore", "--filter", "params.depth = '9'", "--home", fresh, "--json").json() == {"restored": 2}
    say("run", "rm", *runs, "--home", fresh)

    (waiting,) = say("gc", "--dry-run", "--home", fresh, "--json").json()
    assert (waiting["experiment"], waiting["runs"], waiting["due"], waiting["keep_days"]) == ("delay", 3, 0, 30)
    done = say("gc", "--grace", 0, "--home", fresh, "--json").json()
    assert (done["runs"], done["before"]) == ([], done["after"])
    assert "deleted runs of delay are kept for 0 days" in say("run", "keep", "delay", 0, "--home", fresh).out
    before = say("status", "--disk", "--home", fresh, "--json").json()
    told = say("gc", "--grace", 0, "--home", fresh)
    assert "removed for good: 3 runs" in told.out
    assert "objects before: 4 (19.0 kB)" in told.out
    assert "objects after:  1 (4.0 kB)" in told.out
    assert "freed: 15.0 kB" in told.out
    after = say("status", "--disk", "--home", fresh, "--json").json()
    assert before["objects"]["size_bytes"] - after["objects"]["size_bytes"] == 15_000
    assert "deleted runs of delay are kept for 30 days" in say("run", "keep", "delay", "default", "--home", fresh).out


def test_disk_is_told_by_its_largest_owners(say: Say, fresh: Path) -> None:
    logged(fresh, "small", auc=0.5, depth=1, file=b"s" * 1000)
    large = logged(fresh, "large", auc=0.5, depth=1, file=b"l" * 900_000)
    say("run", "rm", large, "--home", fresh)
    found = say("status", "--disk", "--home", fresh, "--json").json()
    (first, *_) = [owner for owner in found["owners"] if owner["kind"] == "runs"]
    assert first["name"] == f"delay large ({large}, in the trash)"
    assert 900_000 < first["size_bytes"] < 901_000
    assert found["objects"] == {"objects": 2, "size_bytes": 901_000}
    assert {"runs", "catalog"} <= set(found["totals"])
    told = say("status", "--disk", "--home", fresh)
    assert "900" in told.out
    assert "unused; remove them with: tidemill gc" in told.out


def test_experiments_are_listed_with_what_they_hold(say: Say, fresh: Path) -> None:
    run = logged(fresh, "one", auc=0.5, depth=1)
    logged(fresh, "two", auc=0.5, depth=1)
    say("run", "rm", run, "--home", fresh)
    line = next(line for line in say("run", "experiments", "--home", fresh).out.splitlines() if "delay" in line)
    assert line.split()[1:5] == ["delay", "1", "1", "30"]
    assert "delay" in say("run", "experiments", "--deleted", "--home", fresh).out


def test_offline_runs_merge(say: Say, fresh: Path, tmp_path: Path) -> None:
    with tm.run("delay", name="away", offline=True, capture=False) as run:
        run.log(loss=0.5)
        run.file(b"x", "x")
    kept = say("run", "sync", "--url", f"workspace:{fresh}", "--keep", "--json").json()
    assert (kept[0]["run"], kept[0]["files"], kept[0]["refused"]) == (run.id, 1, [])
    told = say("run", "sync", tmp_path / "runs" / run.id, "--home", fresh)
    assert told.code == 0
    assert "away of delay: 3 requests and 1 files sent" in told.out
    assert "1 runs, 3 requests and 1 files merged" in told.out
    assert say("run", "sync", "--home", fresh, "--json").json() == []
    found = say("run", "list", "--home", fresh, "--json").json()["items"]
    assert [(each["name"], each["metrics"]) for each in found] == [("away", {"loss": 0.5})]


def test_a_run_is_watched_until_it_ends(say: Say, fresh: Path) -> None:
    with tm.connect(f"workspace:{fresh}") as client:
        run = client.runs.start("delay", "r")["id"]
        client.runs.log_metrics(run, {"loss": 0.5}, step=3)
        said: list[Said] = []
        watching = Thread(target=lambda: said.append(say("run", "watch", run, "--every", 0.1, "--home", fresh, "--json")))
        watching.start()
        client.runs.log_metrics(run, {"loss": 0.25}, step=4)
        client.runs.end(run)
        watching.join(20)
    assert wait_until(lambda: bool(said), timeout_s=5)
    lines = [json.loads(line) for line in said[0].out.splitlines()]
    assert lines[-1] == {"run": run, "status": "finished"}
    assert any("loss" in line.get("metrics", {}) for line in lines)
    assert "finished" in say("run", "watch", run, "--home", fresh).out
