"""How an endpoint serves is changed by command, its journal is shown, and what describes the data plane is printed."""

import json
from pathlib import Path

import pytest

from tests import world
from tests.cli.conftest import Said
from tidemill.deploy.endpoints import create_endpoint, read_endpoint
from tidemill.govern.workspace import open_workspace
from tidemill.serving.config import EndpointOptions


def test_how_an_endpoint_serves_is_set(say, fresh: Path) -> None:
    with open_workspace(fresh) as ws:
        world.model(ws)
        create_endpoint(ws, "delay", "delay@1")
    said: Said = say("endpoint", "set", "delay", "--threshold", "0.3", "--cached-rows", "5000", "--home", fresh)
    assert (said.code, said.err) == (0, "")
    assert "threshold: 0.3\ncached rows: 5,000" in said.out
    hidden = say("endpoint", "set", "delay", "--no-threshold", "--journal-inputs", "0.5", "--home", fresh, "--json").json()
    assert hidden["options"] == {"threshold": None, "cached_rows": 5000, "journal_inputs": 0.5} | {
        name: hidden["options"][name] for name in ("journal_drop", "journal_hash", "journal_days", "label_key")
    }
    with open_workspace(fresh) as ws:
        assert read_endpoint(ws, "delay").options == EndpointOptions(cached_rows=5000, journal_inputs=0.5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("delay",), "nothing to change was given; name an option"),
        (("delay", "--threshold", "0.5", "--no-threshold"), "--threshold and --no-threshold contradict each other"),
        (("delay", "--threshold", "40"), "40.0 is not in the range 0<=x<=1"),
    ],
)
def test_what_makes_no_sense_is_told(say, fresh: Path, words: tuple[str, ...], says: str) -> None:
    said: Said = say("endpoint", "set", *words, "--home", fresh)
    assert said.code == 2
    assert says in said.err


def test_an_endpoint_that_there_is_not_is_named(say, fresh: Path) -> None:
    said: Said = say("endpoint", "set", "weekly", "--threshold", "0.5", "--home", fresh)
    assert said.code == 1
    assert "there is no endpoint 'weekly' (there are: none)" in said.err


def test_the_journal_is_shown_and_asked(say, home: Path) -> None:
    shown: Said = say("predict", "log", "delay", "--limit", "3", "--home", home)
    assert (shown.code, shown.err) == (0, "")
    assert "and more: --limit 30 shows them" in shown.out
    rows = say("predict", "log", "delay", "--limit", "3", "--home", home, "--json").json()["rows"]
    assert len(rows) == 3
    assert {"id", "at", "score", "version"} <= rows[0].keys()
    counted = say("predict", "log", "delay", "--sql", "SELECT count(*) AS n FROM predictions", "--home", home, "--json").json()
    assert counted["rows"][0]["n"] > 3
    assert say("predict", "log", "delay", "--sql", "DROP TABLE predictions", "--home", home).code == 1


def test_what_describes_the_data_plane_is_printed(say) -> None:
    document = json.loads(say("endpoint", "openapi").out)
    assert document["openapi"].startswith("3.1")
    assert "/v2/models/{endpoint}/infer" in document["paths"]
    panels = json.loads(say("endpoint", "dashboard").out)["panels"]
    assert any("tidemill_request_seconds_bucket" in target["expr"] for panel in panels for target in panel.get("targets", ()))
