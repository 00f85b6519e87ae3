"""`tidemill predict`: rows given here through a running data plane, tables in batch jobs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import world
from tests.cli.conftest import Said
from tidemill.deploy.endpoints import create_endpoint
from tidemill.govern.workspace import open_workspace
from tidemill.simulate.server import local_server

Say = Callable[..., Said]
CSV = "id,x\n1,0.5\n2,-1.5\n3,\n"


@pytest.fixture
def stocked(fresh: Path) -> Path:
    """A workspace with delay@1, and a table beside it."""
    with open_workspace(fresh) as ws:
        world.model(ws)
    (fresh / "rows.csv").write_text(CSV)
    return fresh


def test_a_file_is_scored_into_a_dataset(stocked: Path, say: Say) -> None:
    words = ("predict", "batch", "delay@1", "--home", stocked, "--data", stocked / "rows.csv", "--to", "scores", "--key", "id")
    refused = say(*words, "--executor", "inline")
    assert (refused.code, refused.out) == (1, "")
    assert "row 2: column 'x' is missing; nothing was published" in refused.err
    told = say(*words, "--executor", "inline", "--on-bad", "null", "--columns", "x,id", "--memory-mb", 10)
    assert told.code == 0, told.err
    assert told.out.startswith("scores@1  3 rows")
    assert "1 of them refused and without a score" in told.out
    again = say(*words, "--on-bad", "null", "--columns", "x", "--columns", "id")
    assert "scored before" in again.out
    as_json = say(*words, "--on-bad", "null", "--columns", "x", "--json").json()
    assert (as_json["version"], as_json["again"], as_json["refused"]) == (1, True, 1)


def test_workers_are_processes_of_the_local_executor(stocked: Path, say: Say) -> None:
    words = ("predict", "batch", "delay@1", "--home", stocked, "--sql", "SELECT 1.0 AS x", "--to", "s")
    assert "--workers 2 is for the executor local" in say(*words, "--workers", 2, "--executor", "ray").err
    assert say(*words, "--workers", 1, "--json").json()["rows"] == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((), "rows were not understood; give JSON, @FILE"),
        (("[1]",), "expected objects of column names and values"),
        (("[]",), "expected objects"),
        (("{",), "rows is not valid JSON"),
        (("@nothing.json",), "there is no file nothing.json"),
        (("x=1", "[]"), "rows were not understood; give JSON"),
    ],
)
def test_rows_that_are_none_are_refused(stocked: Path, say: Say, given: tuple[str, ...], says: str) -> None:
    said = say("predict", "delay", *given, "--home", stocked)
    assert said.code == 1
    assert says in said.err


def test_without_a_server_the_command_says_so(stocked: Path, say: Say) -> None:
    said = say("predict", "delay", "x=1", "--home", stocked)
    assert said.code == 1
    assert "did not answer" in said.err


@pytest.mark.slow
def test_rows_in_every_form_are_answered_by_the_data_plane(stocked: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_workspace(stocked) as ws:
        create_endpoint(ws, "late", "delay@1")
    (stocked / "rows.json").write_text('[{"x": 1.0}, {"x": 0.0}]')
    (stocked / "rows.jsonl").write_text('{"x": 1.0}\n{"x": 0.0}\n')
    with local_server(stocked):
        forms = [("x=1.0",), ('{"x": 1.0}',), (f"@{stocked / 'rows.json'}",), (f"@{stocked / 'rows.jsonl'}",)]
        found = [say("predict", "late", *form, "--home", stocked, "--json").json()["predictions"] for form in forms]
        assert [len(each) for each in found] == [1, 1, 2, 2]
        assert len({each[0]["score"] for each in found}) == 1
        assert found[2][1]["score"] == 0.5
        table = say("predict", "rows", "late", "x=1.0", "--home", stocked)
        assert table.out.splitlines()[0].split() == ["id", "score", "label", "variant", "version"]
        said = say("predict", "late", "y=1", "--home", stocked)
        assert "column 'y' is not known" in said.err
    assert json.loads((stocked / "rows.json").read_text())
